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

import matplotlib as mpl
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.throughput.stages.listeners import loop, make_world, simulated_day
from src.runs.atomic import write_record
from src.runs.provenance import provenance
from src.simulation.policies import Policy, Random
from src.simulation.policies import RemoteService as Service
from src.simulation.world import World
from src.terminal.console import console
from src.terminal.markdown import table as markdown_table

HERE = Path(__file__).parent
mpl.use("agg")


def steps_per_second(world: World, policy: Policy, *, sessions: int, workers: int, logs: bool) -> float:
    record = simulated_day(world, policy, sessions=sessions, workers=workers, logs=logs)
    return float(record["steps_per_second"])


def loop_steps_per_second(world: World) -> float:
    start = time.perf_counter()
    return loop(world, 700_000) / (time.perf_counter() - start)


@contextmanager
def service(num_tracks: int) -> Iterator[str]:
    """A service that only answers, in its own process."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "service.py"), str(num_tracks)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    world = make_world("world=published")
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
            for sessions in (1_000, 10_000, 100_000, 1_000_000)
        ],
        "tracks": [],
    }
    for num_tracks in (5_000, 50_000, 500_000):
        other = make_world("world=published", f"world.num_tracks={num_tracks}", "world.num_listeners=2000")
        speed = steps_per_second(other, Random(world=other), sessions=200_000, workers=1, logs=False)
        curves["tracks"].append((num_tracks, speed))
    for name, points in curves.items():
        for size, speed in points:
            console.print(f"{size:>9,} {name:<50} {speed:>12,.0f}")
    write_record({"rows": rows, "curves": curves, "provenance": provenance()}, HERE / "listeners.json")
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
    (HERE / "listeners.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(curves: dict[str, list[tuple[int, float]]]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
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
    figure.savefig(HERE / "listeners.png", dpi=130)


if __name__ == "__main__":
    main()
