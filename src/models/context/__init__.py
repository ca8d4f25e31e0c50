"""Context: which query vector a history gives, and how tracks already heard are ranked."""
