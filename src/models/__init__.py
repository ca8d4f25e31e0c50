"""Heads, losses and the optimizer, the LightningModule that trains them, and the contracts they keep."""
