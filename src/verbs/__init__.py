"""The other commands: each reads its config, builds objects, calls them and prints."""
