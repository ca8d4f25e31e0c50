"""Training a run: the verb `train`, the processes of one run, and new tracks for a finished one."""
