"""The files of a run, whole or absent, by which a model gets to picking and serving; provenance, digests, resuming."""
