"""Evaluation: ranking metrics, the direction of each metric, and estimates from the log of other recommenders."""
