"""Races: ways to do the same work take turns, each in a process of its own, so that ratios bear a noisy machine.

A *contender* is prepared once (imports, data, warm caches), then runs its work again and again; what it costs to be
prepared is not timed. In each round every contender runs once, in an order that rotates.
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

Work = Callable[[], float]
"""Does the work once; gives how many units of it were done, so that a slow rival may do a slice."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to do the work of a stage.

    Args:
        name: as it stands in tables.
        prepare: from the folder of the stage's data and whether this is the small mode to the work; a function of a
            module, since another process will call it.
        at_least: how many times as fast as this one ours shall be; None where it is only shown.
    """

    name: str
    prepare: Callable[[Path, bool], Work]
    at_least: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the bench, or several with the same ours.

    Args:
        name: as it stands in tables.
        unit: of the work, such as `pairs`.
        ours: Segue's own way.
        rivals: what a user would have otherwise.
        limits: what the machine could do at best.
        make: writes data that the contenders share into a folder; None where they need none.
        seconds_at_most: what one unit may take ours; None where ratios alone count.
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
        """All of them, ours first."""
        return [self.ours, *self.rivals, *self.limits]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of a contender.

    Args:
        rates: units a second, in each round.
        peak_mb: the most memory that its process ever held, or a process that it started, in MB.
    """

    rates: list[float]
    peak_mb: float


def race(
    stage: Stage, folder: Path, *, small: bool, rounds: int, told: Callable[[str], None], warm_up: bool = True
) -> dict[str, Timing]:
    """Let the contenders of a stage take turns.

    Args:
        stage: who runs.
        folder: for the data that they share; must exist.
        small: whether little data will do.
        rounds: how often each is timed.
        told: called with a line of what goes on.
        warm_up: whether a round that is not timed comes before.
    """
    context = get_context("spawn")
    if stage.make:
        told("making data")
        maker = context.Process(target=stage.make, args=(folder, small))  # whose memory is nobody's
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(f"{stage.name}: its data could not be made; the reason stands above")
    lines: dict[str, Connection] = {}
    processes = []
    rates: dict[str, list[float]] = {contender.name: [] for contender in stage.contenders}
    peaks: dict[str, float] = {}
    try:
        for contender in stage.contenders:
            told(f"preparing {contender.name}")
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
                told(f"round {number} of {rounds}: {name}")
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
        raise SystemExit(f"{name} died; its words stand above") from None
    return float(answer[0]), float(answer[1])


def _serve(prepare: Callable[[Path, bool], Work], folder: Path, small: bool, line: Connection) -> None:
    """Prepare, then run the work whenever told."""
    work = prepare(folder, small)
    line.send((0.0, 0.0))
    while line.recv() == "go":
        began = time.perf_counter()
        units = work()
        seconds = time.perf_counter() - began
        line.send((units / seconds, _peak_mb()))


def _peak_mb() -> float:
    """Of this process (what getrusage says of it begins with its parent's) and of those that it started."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return max(int(line.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def rows_of(stage: Stage, timings: dict[str, Timing]) -> list[dict[str, Any]]:
    """A row for each rival (one without, where there is none), with the first limit beside it.

    Ratios are medians of the ratios within a round; `spread_…` are their least and largest.
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
        kept = [
            row[f"ratio_to_{role}"] >= row[f"wanted_{role}"]
            for role in ("rival", "limit")
            if row[f"wanted_{role}"] is not None
        ]
        if stage.seconds_at_most is not None:
            row |= {"seconds": 1 / row["ours"], "wanted_seconds": stage.seconds_at_most}
            kept.append(row["seconds"] < row["wanted_seconds"])
        rows.append({**row, "holds": all(kept) if kept else None})
    return rows
