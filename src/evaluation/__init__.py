"""Evaluation: ranking metrics, one value for each test query, and the direction of each metric."""
