"""Metrics of rankings, one value for each query."""
