"""What runs, logs and experiments say of recommenders."""
