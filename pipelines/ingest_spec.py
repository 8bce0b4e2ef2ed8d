"""What an ingest was asked to do: everything that, with the raw bytes, determines the shards."""

from __future__ import annotations

from dataclasses import asdict, dataclass

MODALITIES = ("image", "video", "microscopy", "satellite")
DECODERS = ("pyav", "decord")
ENCODER_VERSION = 3
"Raised when the same inputs and spec would give other shard bytes than before."


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestSpec:
    """Parameters of an ingest; part of the part's fingerprint."""

    modality: str
    resize: int = 0
    "short side in pixels that images and frames are scaled to; 0 keeps them"
    pattern: str = ""
    labels: str = ""
    shard_size: int = 0
    "raw bytes that go into one shard; 0 takes a 32nd of the input, from 2 to 256 MiB"
    frames: int = 16
    "frames of a clip"
    stride: int = 1
    "source frames between two clip frames"
    fps: float = 0.0
    "clip frames a second by timestamps, in place of stride; 0 uses stride"
    decoder: str = "pyav"
    "reader of videos; decord where it is asked for and a probe shows that it is exact"
    tile: int = 0
    "edge of tiles cut from fields and scenes, in pixels; 0 keeps them whole"
    overlap: int = 0
    min_valid: float = 0.05
    "share of valid pixels below which a tile is left out"
    min_tissue: float = 0.0
    "microscopy: share of coloured pixels below which a tile of a stained slide is left out"
    channels: tuple[str, ...] = ()
    "channels or bands that each unit must have; by default those that the pattern finds"
    cloud_band: str = ""
    "satellite: the band of class codes that says which pixels are cloud; stored only if `channels`"
    "names it"
    cloud_values: tuple[int, ...] = (3, 8, 9, 10)
    "its codes of cloud and cloud shadow; by default those of Sentinel-2's scene classification"
    max_cloud: float = 1.0
    "share of cloud among the valid pixels above which a tile is left out"
    heldout: float = 0.01
    "share of groups (videos, wells, scenes) that training never sees"

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(
                f"--modality is {self.modality!r}; it must be one of {', '.join(MODALITIES)}."
            )
        for name in ("resize", "tile", "overlap", "fps", "shard_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must not be negative.")
        for name in ("frames", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.tile and self.overlap >= self.tile:
            raise ValueError(
                f"--overlap is {self.overlap}, --tile is {self.tile}; the overlap must be smaller."
            )
        if self.decoder not in DECODERS:
            raise ValueError(
                f"--decoder is {self.decoder!r}; it must be one of {', '.join(DECODERS)}."
            )
        if not 0 <= self.max_cloud <= 1:
            raise ValueError(f"--max-cloud is {self.max_cloud}; it is a share from 0 to 1.")
        if self.max_cloud < 1 and not self.cloud_band:
            raise ValueError("--max-cloud needs --cloud-band: the band that says what is cloud.")
        for name in ("heldout", "min_valid", "min_tissue"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it is a share from 0 "
                    "to below 1."
                )

    @property
    def expected_channels(self) -> tuple[str, ...]:
        """The channels that each unit of several files must have: also the one that tells cloud."""
        cloud = {self.cloud_band} - {"", *self.channels} if self.channels else ()
        return (*self.channels, *cloud)

    def shard_bytes(self, total: int) -> int:
        """Return the raw bytes of a shard for an input of `total` bytes."""
        return self.shard_size or min(max(total // 32, 2 * 2**20), 256 * 2**20)

    @staticmethod
    def overflow_bytes(shard_bytes: int) -> int:
        """Return the payload bytes after which samples go to one more shard: twice what was aimed
        at, but no more than a quarter of a gibibyte unless shards are meant to be that large."""
        return max(shard_bytes, min(2 * shard_bytes, 256 * 2**20))

    def to_json(self) -> dict[str, object]:
        """Return what the part's fingerprint covers."""
        lists = {"channels": list(self.channels), "cloud_values": list(self.cloud_values)}
        values = {**asdict(self), **lists, "encoder": ENCODER_VERSION}
        if not self.min_tissue:
            # Parts from before this filter keep their names.
            del values["min_tissue"]
        return values
