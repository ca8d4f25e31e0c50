"""Pairs: from events to sessions, and from sessions to pairs of tracks."""
