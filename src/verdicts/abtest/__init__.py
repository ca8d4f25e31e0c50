"""The A/B test: from logs to the verdict."""
