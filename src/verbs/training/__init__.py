"""Training a run: the verb `train`, and new tracks for a finished one."""
