"""Training one run in several processes, on one machine or on several."""
