"""Picking: from candidates, the session and the settings to a choice and its probability."""
