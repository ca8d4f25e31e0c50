"""Verdicts: from event logs to the verdict on each treatment, its report and its picture."""
