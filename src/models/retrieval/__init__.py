"""Ranks and best candidates of queries: by exact search, by approximate search, and from sparse scores."""
