"""The folder of a run: its files, which hand a model on to picking and serving (lists, vectors, counts, profiles), whole
or absent; provenance, digests, and when a run is resumed."""
