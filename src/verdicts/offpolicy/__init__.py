"""Off-policy estimates: how a recommender would do, from the log of others, and when that cannot be said."""
