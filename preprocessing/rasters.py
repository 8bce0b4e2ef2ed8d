"""Rasters of any number of channels: microscopy fields, satellite scenes, stored payloads.

The parts: `tiff_structure` (is the file whole), `raster_microscopy`, `raster_geotiff`,
`zarr_files` and `array_files` (raw files to readers), `raster_reader` (what a reader is),
`raster_grid` and `raster_resample` (bands to one grid), `raster_windows` (tiles in bounded
memory), `raster_codec` (stored payloads).
"""

from __future__ import annotations

from preprocessing.array_files import is_array_file, open_arrays
from preprocessing.raster_codec import decode_raster, encode_raster
from preprocessing.raster_geotiff import decode_geotiff, open_geotiff
from preprocessing.raster_grid import merge_channels, merge_readers, stack_channels, tile_boxes
from preprocessing.raster_microscopy import decode_tiff, open_tiff
from preprocessing.raster_reader import (
    Box,
    RasterImage,
    RasterReader,
    check_whole,
    loaded,
    read_whole,
)
from preprocessing.raster_windows import channels_with_data, read_tiles
from preprocessing.zarr_files import decode_zarr, open_zarr

__all__ = [
    "Box",
    "RasterImage",
    "RasterReader",
    "channels_with_data",
    "check_whole",
    "decode_geotiff",
    "decode_raster",
    "decode_tiff",
    "decode_zarr",
    "encode_raster",
    "is_array_file",
    "loaded",
    "merge_channels",
    "merge_readers",
    "open_arrays",
    "open_geotiff",
    "open_tiff",
    "open_zarr",
    "read_tiles",
    "read_whole",
    "stack_channels",
    "tile_boxes",
]
