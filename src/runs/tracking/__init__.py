"""MLflow: the store, the logger of a run, its model, finding runs, and attaching results to them."""
