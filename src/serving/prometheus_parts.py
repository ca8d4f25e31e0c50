"""What Segue uses of prometheus_client beyond its documented interface, tried with prometheus_client 0.26.

`tests/test_private_parts.py` says which part an upgrade has taken away.
"""

import os

from prometheus_client import values

_name = "supervisor"


def name_files_by_worker() -> None:
    """Give the files of the metrics the name of a worker in place of a process id; before any metric is created.

    A worker that was restarted then goes on counting in the files of the one before. With process ids each restart
    would leave two more files, which every request for the metrics reads.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # otherwise prometheus_client counts in memory
        values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _name)


def count_as(name: str) -> None:
    """Count in the files of a worker from now on; no other process may count in them at the same time."""
    global _name
    _name = name
