"""Reading: from the files of a source to its events."""
