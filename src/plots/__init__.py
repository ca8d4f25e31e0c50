"""Plots: the pictures of a run, and the palette and axes of every picture."""
