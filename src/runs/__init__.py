"""The folder of a run: its files, whole or absent, provenance, digests, and when a run is resumed.

They hand a model on to picking and serving: lists, vectors, counts, profiles.
"""
