"""From files of listening events or playlists to sessions, pairs and batches."""
