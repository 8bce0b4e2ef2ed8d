"""Storage x preprocessing, at scale: raw sources to shards, shards to columns, order to batches."""
