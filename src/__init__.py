"""Segue: from listening logs to recommendations of the next track, and to a verdict on them."""
