"""How many cores this process may use."""

import os

SPINS = "10000"
"""How often a thread checks whether the others have finished before it sleeps, unless GOMP_SPINCOUNT is set. libgomp's
default is 300,000, with which two trainings at once on two cores wait for each other most of the time:
`experiments/throughput/two_at_once.py`."""


def duckdb_settings() -> dict[str, str | bool | int | float | list[str]]:
    """Settings of a DuckDB connection: as many threads as OMP_NUM_THREADS, like numpy and torch.

    Launchers of parallel jobs set it to divide the cores among them. Without it DuckDB uses all cores.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {"threads": int(threads)} if threads.isdecimal() and int(threads) else {}
