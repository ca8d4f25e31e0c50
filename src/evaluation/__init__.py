"""Evaluation: ranking metrics, one value for each test query, and which way a metric is better."""
