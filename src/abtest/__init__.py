"""From the event logs of an experiment to effects, a verdict and a report."""
