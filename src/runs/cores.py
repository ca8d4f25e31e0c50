"""How many cores this process has to itself."""

import os

SPINS = "10000"
"""How often a thread looks whether the others are done before it sleeps, where nobody sets GOMP_SPINCOUNT. libgomp
itself looks 300,000 times, and two trainings at once on two cores then wait for each other most of the time:
`experiments/throughput/two_at_once.py`."""


def duckdb_settings() -> dict[str, str | bool | int | float | list[str]]:
    """Settings of a DuckDB connection: as many threads as OMP_NUM_THREADS says, as numpy and torch take it.

    Launchers of parallel jobs set it, so that these share the cores; where it is not set DuckDB takes them all.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {"threads": int(threads)} if threads.isdecimal() and int(threads) else {}
