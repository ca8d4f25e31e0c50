"""Segue: from listening logs to recommendations of the next track, and to a verdict on them."""

__version__ = "0.1.0"
