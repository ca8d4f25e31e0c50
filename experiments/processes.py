"""What Linux says of a running process."""

import os
import re
from pathlib import Path


def cpu_s(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_of(process: int) -> list[int]:
    """The processes that a process has started."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def memory_gb(process: int, name: str) -> float:
    """A number of `/proc/<process>/status`, such as VmRSS or RssAnon, in GB; 0 if the process has ended."""
    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1e6 if found else 0.0
