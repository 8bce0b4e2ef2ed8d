"""Bytes at rest: URIs, tars, Parquet, fingerprints. Knows no pixel."""
