"""Describing: what data look like before training, in numbers, warnings and a picture."""
