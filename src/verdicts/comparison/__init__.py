"""Comparison: from MLflow runs to the best set-up, its report and its picture."""
