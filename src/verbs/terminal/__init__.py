"""What a person at the terminal meets: the entry of a verb, errors as one line, progress bars and tables."""
