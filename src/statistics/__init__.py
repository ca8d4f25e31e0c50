"""Means, differences and tests with their intervals, shared by comparison and A/B tests."""
