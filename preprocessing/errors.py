"""The one error of decoding: it carries the class under which an ingest books a refused input."""

from __future__ import annotations

REASON_CLASSES = (
    "decode_error",
    "empty_file",
    "incomplete_channels",
    "no_frames",
    "no_valid_data",
    "no_video_stream",
    "shape_mismatch",
    "too_large",
    "too_short",
    "too_small",
    "truncated",
    "unrecognised_format",
)


class DecodeError(ValueError):
    """Bytes that cannot become a sample.

    Args:
        reason_class: one of `REASON_CLASSES`; what a caller counts and reports by.
        detail: what was seen, with its value, and what was expected.
    """

    def __init__(self, reason_class: str, detail: str) -> None:
        super().__init__(reason_class, detail)  # both, so that the error survives a pickle
        if reason_class not in REASON_CLASSES:
            raise ValueError(
                f"DecodeError: reason class {reason_class!r} is unknown. "
                f"Known: {', '.join(REASON_CLASSES)}."
            )
        self.reason_class = reason_class
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason_class}: {self.detail}"
