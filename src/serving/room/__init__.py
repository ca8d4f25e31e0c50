"""The listening room: the page at `/room` where people look at what the models would play."""
