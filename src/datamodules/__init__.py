"""Reads the files of a source and builds sessions, pairs, splits and batches."""
