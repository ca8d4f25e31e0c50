"""The stages of the loop that are raced, a module each, which offers `STAGES`."""
