"""Rasters of any number of channels: microscopy fields, satellite scenes, stored payloads.

The parts: `tiff_structure` (is the file whole), `raster_files` (raw files to arrays),
`raster_codec` (stored payloads), `raster_grid` (bands to one grid, tiles).
"""

from __future__ import annotations

from preprocessing.raster_codec import decode_raster, encode_raster
from preprocessing.raster_files import RasterImage, decode_geotiff, decode_tiff
from preprocessing.raster_grid import merge_channels, resample_to, stack_channels, tile_boxes

__all__ = [
    "RasterImage",
    "decode_geotiff",
    "decode_raster",
    "decode_tiff",
    "encode_raster",
    "merge_channels",
    "resample_to",
    "stack_channels",
    "tile_boxes",
]
