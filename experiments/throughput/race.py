"""Races: contenders do the same work in turns, each in its own process, so that noise affects all of them alike.

A *contender* is prepared once (imports, data, warm caches) and then runs its work once per round. Preparation is not
timed. The order of the contenders rotates from round to round.
"""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from experiments.studying import is_smoke

Work = Callable[[], float]
"""Does the work once and returns the number of units that were done. A slow rival may do a part of the work."""


def work_of(num_units: float, call: Callable[..., object], *args: Any) -> Work:
    """Work of a known size: each call does as many units."""

    def work() -> float:
        call(*args)
        return num_units

    return work


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to do the work of a stage.

    Args:
        name: name in tables.
        prepare: takes the folder with the stage's data and whether the size is small, and returns the work. It must
            be a function of a module, because another process calls it.
        at_least: target: how many times as fast as this contender Segue should be; None for no target.
    """

    name: str
    prepare: Callable[[Path, bool], Work]
    at_least: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the loop that is timed; it has one row for each rival.

    Args:
        name: name in tables.
        unit: unit of the work, such as `pairs`.
        ours: Segue.
        rivals: what a user would use otherwise.
        limits: the fastest that this machine can do a bare part of the work.
        make: takes a folder and whether the size is small, and writes data that the contenders share; None if they
            need none.
        seconds_at_most: target for the time of one unit in Segue, in s; None for no such target.
    """

    name: str
    unit: str
    ours: Contender
    rivals: Sequence[Contender] = ()
    limits: Sequence[Contender] = ()
    make: Callable[[Path, bool], None] | None = None
    seconds_at_most: float | None = None

    @property
    def contenders(self) -> list[Contender]:
        """All contenders, Segue first."""
        return [self.ours, *self.rivals, *self.limits]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of a contender.

    Args:
        rates: units per second, one value per round.
        peak_mb: peak memory of its process, or of a process that it started, in MB.
    """

    rates: list[float]
    peak_mb: float


def race(
    stage: Stage, folder: Path, *, small: bool, rounds: int, report: Callable[[str], None], warm_up: bool = True
) -> dict[str, Timing]:
    """Time the contenders of a stage in turns.

    Args:
        stage: the stage.
        folder: folder for the data that the contenders share; must exist.
        small: whether to use the small size.
        rounds: number of timed rounds.
        report: called with a line of progress.
        warm_up: whether an untimed round comes first.

    Returns:
        Timing of each contender by name.

    Raises:
        SystemExit: a process failed.
    """
    context = (
        get_context("fork") if is_smoke() else get_context("spawn")
    )  # a smoke has no time to import everything again
    if stage.make:
        report("generating data")
        generator = context.Process(target=stage.make, args=(folder, small))  # its memory is not counted
        generator.start()
        generator.join()
        if generator.exitcode:
            raise SystemExit(f"{stage.name}: generating its data failed; the error is printed above")
    lines: dict[str, Connection] = {}
    processes = []
    rates: dict[str, list[float]] = {contender.name: [] for contender in stage.contenders}
    peaks: dict[str, float] = {}
    try:
        for contender in stage.contenders:
            report(f"preparing {contender.name}")
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(contender.prepare, folder, small, there), daemon=True)
            process.start()
            there.close()
            processes.append(process)
            lines[contender.name] = here
            _answer(here, contender.name)
        for number in range(0 if warm_up else 1, rounds + 1):
            names = list(lines)
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                report(f"round {number} of {rounds}: {name}")
                lines[name].send("go")
                rate, peaks[name] = _answer(lines[name], name)
                if number:
                    rates[name].append(rate)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return {name: Timing(rates=values, peak_mb=peaks[name]) for name, values in rates.items()}


def _answer(line: Connection, name: str) -> tuple[float, float]:
    try:
        answer = line.recv()
    except EOFError:
        raise SystemExit(f"the process of {name} died; its error is printed above") from None
    return float(answer[0]), float(answer[1])


def _serve(prepare: Callable[[Path, bool], Work], folder: Path, small: bool, line: Connection) -> None:
    """Prepare, then run the work at each request."""
    work = prepare(folder, small)
    line.send((0.0, 0.0))
    while line.recv() == "go":
        began = time.perf_counter()
        units = work()
        seconds = time.perf_counter() - began
        line.send((units / seconds, _peak_mb()))


def _peak_mb() -> float:
    """Peak memory of this process and of those that it started. getrusage would include the parent's memory here."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return max(int(line.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def rows_of(stage: Stage, timings: dict[str, Timing]) -> list[dict[str, Any]]:
    """The rows of a stage: one for each rival (one row without a rival if there is none), with the first limit.

    Args:
        stage: the stage.
        timings: timing of each contender by name.

    Returns:
        One record per row. A ratio is the median of the ratios within rounds; `spread_…` is their smallest and largest
        value. `holds` is whether all targets of the row are met; None if it has no target.
    """

    def ratios(other: Contender) -> list[float]:
        return [a / b for a, b in zip(timings[stage.ours.name].rates, timings[other.name].rates, strict=True)]

    limit = stage.limits[0] if stage.limits else None
    rivals: list[Contender | None] = [*stage.rivals] or [None]
    rows = []
    for rival in rivals:
        row: dict[str, Any] = {"stage": stage.name, "unit": stage.unit}
        for role, contender in (("ours", stage.ours), ("rival", rival), ("limit", limit)):
            timing = timings[contender.name] if contender else None
            row |= {
                f"{role}_name": contender and contender.name,
                role: timing and median(timing.rates),
                f"{role}_peak_mb": timing and timing.peak_mb,
            }
        for role, contender in (("rival", rival), ("limit", limit)):
            times = ratios(contender) if contender else []
            row |= {
                f"ratio_to_{role}": median(times) if times else None,
                f"spread_to_{role}": [min(times), max(times)] if times else None,
                f"wanted_{role}": contender and contender.at_least,
            }
        targets_met = [
            row[f"ratio_to_{role}"] >= row[f"wanted_{role}"]
            for role in ("rival", "limit")
            if row[f"wanted_{role}"] is not None
        ]
        if stage.seconds_at_most is not None:
            row |= {"seconds": 1 / row["ours"], "wanted_seconds": stage.seconds_at_most}
            targets_met.append(row["seconds"] < row["wanted_seconds"])
        rows.append({**row, "holds": all(targets_met) if targets_met else None})
    return rows
