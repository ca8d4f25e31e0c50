"""Is every stage of the loop near what the machine can do: python experiments/throughput/bench.py [--full] [stage …]

Every ratio comes from contenders that took turns in this one run. Writes results.json, results.md and results.png
beside this file (results_full.…), unless single stages are named.
"""

import argparse
import importlib
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.throughput.race import Stage, race, rows_of
from experiments.throughput.report import draw, line, table
from src.runs.atomic import write_record, write_whole
from src.runs.provenance import provenance
from src.terminal.console import console

HERE = Path(__file__).parent
MODULES = ("pairs", "training", "lists", "ranks", "listeners", "verdict", "start")

mpl.use("agg")


def stages_of(module: str) -> list[Stage]:
    return list(importlib.import_module(f"experiments.throughput.stages.{module}").STAGES)


def tell(status: Any, stage: str, what: str) -> None:
    status.update(f"{stage}: {what}")


def measured(stage: Stage, *, small: bool, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, console.status(stage.name) as status:
        timings = race(stage, Path(folder), small=small, rounds=rounds, told=partial(tell, status, stage.name))
    rows = rows_of(stage, timings)
    for row in rows:
        console.print(line(row), soft_wrap=True, markup=False, highlight=False)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="stage", help=f"of {', '.join(MODULES)}; by default all")
    parser.add_argument("--full", action="store_true", help="the sizes of the promise, not small ones")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is timed")
    given = parser.parse_args()
    if unknown := set(given.modules) - set(MODULES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {given.rounds}")
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for module in given.modules or MODULES:
        for stage in stages_of(module):
            rows += measured(stage, small=not given.full, rounds=given.rounds)
    missed = sum(row["holds"] is False for row in rows)
    console.print(f"{len(rows)} rows in {time.perf_counter() - began:.0f} s, {missed} of them below what was wanted")
    if given.modules:
        return
    name = HERE / ("results_full" if given.full else "results")
    write_record({"rows": rows, "rounds": given.rounds, "provenance": provenance()}, name.with_suffix(".json"))
    write_whole(name.with_suffix(".md"), lambda path: path.write_text(table(rows), encoding="utf-8"))
    write_whole(name.with_suffix(".png"), lambda path: draw(rows, path))
    console.print(f"table        {name.with_suffix('.md')}\npicture      {name.with_suffix('.png')}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
