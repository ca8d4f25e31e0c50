"""How fast listeners are simulated, compared with a plain loop: python experiments/throughput/listeners.py

All numbers come from one run. Writes listeners.json, listeners.md and listeners.png into the folder of this file.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SMALL_WORLD, Study, sized
from experiments.throughput.stages.listeners import loop, make_world, simulated_day
from segue.reports.console import console
from segue.reports.markdown import table as markdown_table
from segue.simulation.policies import Policy, Random
from segue.simulation.policies import RemoteService as Service
from segue.simulation.world import World

STUDY = Study(__file__, __doc__)
PART = sized(1, 10_000)
"""By how much a smoke has fewer sessions and steps."""
WORLD = sized(("world=published",), SMALL_WORLD)


def steps_per_second(world: World, policy: Policy, *, sessions: int, workers: int, logs: bool) -> float:
    record = simulated_day(world, policy, sessions=max(100, sessions // PART), workers=workers, logs=logs)
    return float(record["steps_per_second"])


def loop_steps_per_second(world: World) -> float:
    start = time.perf_counter()
    return loop(world, 700_000 // PART) / (time.perf_counter() - start)


@contextmanager
def service(num_tracks: int) -> Iterator[str]:
    """A service that only answers, in its own process."""
    process = subprocess.Popen(
        [sys.executable, str(STUDY.home / "service.py"), str(num_tracks)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    STUDY.parse()
    world = make_world(*WORLD)
    rows: list[dict[str, Any]] = []

    def measure(stage: str, value: float, target: float | None = None) -> float:
        rows.append({"stage": stage, "steps_per_second": round(value), "wanted": target})
        console.print(f"{stage:<60} {value:>12,.0f}")
        return value

    measure("loop in plain Python", loop_steps_per_second(world))
    for workers in (1, 2):
        without_logs, with_logs = (
            steps_per_second(world, Random(world=world), sessions=sessions, workers=workers, logs=logs)
            for sessions, logs in ((4_000_000, False), (1_000_000, True))
        )
        measure(f"random, no logs, {workers} processes", without_logs, 1e6 if workers == 2 else None)
        measure(f"random, logs written, {workers} processes", with_logs, 3e5 if workers == 2 else None)
    measure("loop in plain Python, second time", loop_steps_per_second(world))
    with service(len(world.catalog)) as url:
        for workers, connections in ((1, 1), (1, 64), (2, 64)):
            policy = Service(url=url, connections=connections, retries=0, timeout_s=10.0, token=None, world=world)
            rate = steps_per_second(
                world, policy, sessions=600 if connections == 1 else 4000, workers=workers, logs=False
            )
            measure(f"over HTTP, {connections} connections, {workers} processes", rate)
    curves = {
        "sessions": [
            (sessions, steps_per_second(world, Random(world=world), sessions=sessions, workers=1, logs=False))
            for sessions in sized((1_000, 10_000, 100_000, 1_000_000), (1_000,))
        ],
        "tracks": [],
    }
    for num_tracks in sized((5_000, 50_000, 500_000), (800,)):
        other = make_world(*WORLD, f"world.num_tracks={num_tracks}", f"world.num_listeners={sized(2000, 300)}")
        speed = steps_per_second(other, Random(world=other), sessions=200_000, workers=1, logs=False)
        curves["tracks"].append((num_tracks, speed))
    for name, points in curves.items():
        for size, speed in points:
            console.print(f"{size:>9,} {name:<50} {speed:>12,.0f}")
    STUDY.write_record("listeners.json", {"rows": rows, "curves": curves, "provenance": STUDY.provenance()})
    write_table(rows, curves)
    draw(curves)


def write_table(rows: list[dict[str, Any]], curves: dict[str, list[tuple[int, float]]]) -> None:
    cells = [
        [row["stage"], f"{row['steps_per_second']:,}", f"{row['wanted']:,.0f}" if row["wanted"] else ""] for row in rows
    ]
    lines = markdown_table(["measurement", "steps per s", "target"], cells, "lrr")
    for name, points in curves.items():
        sizes = [[f"{size:,}", f"{speed:,.0f}"] for size, speed in points]
        lines += ["", *markdown_table([name, "steps per s, one process, no logs"], sizes, "rr")]
    STUDY.write_table("listeners.md", lines)


def draw(curves: dict[str, list[tuple[int, float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        sizes, speeds = zip(*points, strict=True)
        axis.plot(sizes, np.array(speeds) / 1e6, marker="o", color="#2a6f97")
        axis.set(xscale="log", xlabel=name)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    fastest = max(speed for points in curves.values() for _, speed in points)
    axes[0].set(ylabel="million steps per s, one process", ylim=(0, 1.1 * fastest / 1e6))
    figure.suptitle("Listeners: steps per second by number of sessions and by size of the catalogue")
    figure.tight_layout()
    STUDY.write_figure("listeners.png", figure, dpi=130)


if __name__ == "__main__":
    STUDY.run(main)
