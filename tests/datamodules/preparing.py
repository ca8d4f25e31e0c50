"""A source with every quirk, and settings under which every step is done."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from segue.datamodules.shards.engines import check_spark
from segue.errors import InputError
from tests.conftest import event, write_log

SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "first": {"pairing": "first", "policies": {"interleaved": "keep", "duplicates": "drop"}},
    "window": {"pairing": "window", "window": 2, "policies": {"interleaved": "drop"}},
    "at random": {"split": "session", "policies": {"min_count": 12, "repeats": "drop"}},
    "by pair": {"split": "pair", "policies": {"min_count": 12}},
    "busy users": {"policies": {"plays_a_day": 40}, "session_gap_minutes": 2.0},
    "new tracks": {"cold_share": 0.2, "policies": {"min_count": 3}},
}
"""Changes of settings under which every step is done."""


def why_no_spark() -> str:
    """Why Spark is not used; empty where `make spark` asks for it and it can be."""
    if "WITH_SPARK" not in os.environ:
        return "make spark runs it"
    try:
        check_spark()
    except (InputError, ModuleNotFoundError) as error:
        return str(error)
    return ""


def write_quirks(folder: Path) -> Path:
    """A log with sessions at the same time, ignored recommendations, ties, repeated lines, plays of a track twice."""
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for user in range(30):
        clock, waiting = int(rng.integers(0, 10**8)), [100, 101]
        for _ in range(60):
            clock += int(rng.choice([0, 1000, 30_000, 200_000, 4_000_000], p=[0.1, 0.5, 0.3, 0.05, 0.05]))
            lane = int(rng.integers(2)) if user % 2 else 0
            track = waiting[lane] if rng.random() < 0.9 else int(100 + rng.integers(40))
            if rng.random() < 0.05 and lines and lines[-1]["user"] == user:
                lines.append({**lines[-1]})
                continue
            waiting[lane] = int(100 + rng.integers(40) * rng.integers(2) // 2)
            message = "last" if rng.random() < 0.1 else "next"
            line = event(user * 7 % 31 - 3, clock, track, float(rng.choice([0.0, 0.25, 1.0])), message)
            lines.append({**line, "recommendation": waiting[lane] if message == "next" else None})
    return write_log(folder, range(40), [lines[n] for n in rng.permutation(len(lines))])
