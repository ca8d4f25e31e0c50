"""Statistics: intervals and tests of every mean and difference that Segue reports; intervals are in `intervals.py`."""
