"""Segue: from listening logs to recommendations of the next track, and to a verdict on them."""

__version__: str


def __getattr__(name: str) -> str:
    if name == "__version__":  # read when it is asked for: in a clone git knows it
        from segue.runs.provenance import segue_version

        return segue_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
