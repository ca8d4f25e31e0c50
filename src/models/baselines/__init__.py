"""Baselines that count or factorise instead of training a head, and their LightningModule."""
