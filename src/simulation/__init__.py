"""Simulated listeners: a world, policies that recommend to its listeners, and the event logs of their sessions."""
