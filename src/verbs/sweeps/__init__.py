"""Many runs from one command: the jobs of a multirun, and a search with Optuna."""
