"""Names of what the listening test of a run measures and writes."""

TIME = "online/mean_time_per_session"
"""Mean over the reported listeners; it chooses nothing."""
VAL_TIME = "online/val_mean_time_per_session"
"""Mean over the listeners kept for validation; set-ups are chosen by it, and epochs if `monitor=online`."""
SHARE_OF_HITS = "online/share_of_hits"
SHARE_OF_SAME_ARTIST = "online/share_of_same_artist"
LISTENERS_FILE = "listening.parquet"
"""In the run folder and in MLflow: `listener`, `part` (`val` or `test`), `mean_time_per_session`, and in `test` a
digest that is equal where the same sessions were played."""
