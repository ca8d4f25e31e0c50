"""How near is every stage to the limit of the machine: python experiments/throughput/bench.py [--full] [stage …]

Every ratio compares contenders that ran in turns in one call. Writes results.json, results.md and results.png into
the folder of this file (with --full results_full.json, …), unless single stages are named.
"""

import importlib
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, sized
from experiments.throughput.race import Stage, race, rows_of
from experiments.throughput.report import draw, line, table
from segue.reports.console import console

STUDY = Study(__file__, __doc__)
MODULES = ("pairs", "training", "softmax", "lists", "ranks", "listeners", "verdict", "start")


def stages_of(module: str) -> list[Stage]:
    return list(importlib.import_module(f"experiments.throughput.stages.{module}").STAGES)


def show_progress(status: Any, stage: str, line: str) -> None:
    status.update(f"{stage}: {line}")


def measure(stage: Stage, *, small: bool, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, console.status(stage.name) as status:
        report = partial(show_progress, status, stage.name)
        timings = race(stage, Path(folder), small=small, rounds=rounds, report=report, warm_up=sized(True, False))
    rows = rows_of(stage, timings)
    for row in rows:
        console.print(line(row), soft_wrap=True, markup=False, highlight=False)
    return rows


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("modules", nargs="*", metavar="stage", help=f"one of {', '.join(MODULES)}; default: all")
    parser.add_argument("--full", action="store_true", help="full sizes instead of small ones")
    parser.add_argument("--rounds", type=int, default=sized(5, 1), help="how often each contender is timed")
    options = STUDY.parse(parser)
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"stage must be one of {', '.join(MODULES)}, got {', '.join(sorted(unknown))}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for module in options.modules or MODULES:
        for stage in stages_of(module):
            rows += measure(stage, small=not options.full, rounds=options.rounds)
    missed = sum(row["holds"] is False for row in rows)
    console.print(f"{len(rows)} rows in {time.perf_counter() - start:.0f} s; {missed} rows miss a target")
    if options.modules:
        return
    name = "results_full" if options.full else "results"
    record = {"rows": rows, "rounds": options.rounds, "provenance": STUDY.provenance()}
    STUDY.write_record(f"{name}.json", record)
    STUDY.write_table(f"{name}.md", table(rows))
    STUDY.write_figure(f"{name}.png", draw(rows), dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    STUDY.run(main)
