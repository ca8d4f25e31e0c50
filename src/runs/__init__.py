"""The folder of a run: files that are whole or absent, provenance, digests, and when a run is resumed."""
