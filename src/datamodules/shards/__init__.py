"""Shards: the pairs of a source in files, for data that are larger than memory."""
