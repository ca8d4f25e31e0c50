"""From the files of a source to sessions, pairs, splits and batches."""
