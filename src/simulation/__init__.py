"""Simulated listeners and the worlds they live in, who play recommenders and leave event logs."""
