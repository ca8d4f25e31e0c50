"""Simulated listeners: a world, policies that recommend to its listeners, and event logs of their sessions."""
