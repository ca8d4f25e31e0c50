"""Evaluation: ranking metrics, one value for each test query."""
