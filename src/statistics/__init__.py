"""Statistics: how certain a mean or a difference is, wherever Segue reports one; intervals are in `intervals.py`."""
