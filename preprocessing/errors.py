"""Why raw bytes are refused."""

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
    """Bytes that do not become an array, with the class of the reason and what was seen."""

    def __init__(self, reason_class: str, detail: str) -> None:
        if reason_class not in REASON_CLASSES:
            raise ValueError(f"reason class {reason_class!r} is unknown. Known: {', '.join(REASON_CLASSES)}.")
        super().__init__(reason_class, detail)
        self.reason_class = reason_class
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason_class}: {self.detail}"
