"""What should a service do in its first week: python experiments/closed_loop/study.py

Day 1 is mixed traffic: random, sticky artist and popular, because there is no model yet. Each night convex learns from
all logs so far; on the next day a share of the listeners hears random tracks (*exploration*) and the others hear the
lists of the model, whose plays are tomorrow's logs. After each night the model is played to the same 50,000 sessions of
other traffic, which nothing learns from. A piece is one world with one share of exploration; its rows are appended to
results.csv when its week is over, and a stopped study continues with the other pieces. Writes results.md and
results.png beside this file.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.playing import COLUMNS, LEVEL, Piece, folder_of, main_of, play, the_test, the_world, train
from experiments.studying import Study, sized
from segue.reports.markdown import table
from segue.simulation.experiment import ArmReport, run_experiment
from segue.simulation.policies import Lists, Policy, Popular, Random, StickyArtist
from segue.simulation.world import World
from segue.statistics.intervals import MeanInterval

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "results.csv"
WORLDS = sized((11, 12, 13, 14, 15), (11,))
EXPLORATION = sized({"0 %": 0, "10 %": 9, "50 %": 1}, {"0 %": 0, "50 %": 1})
"""Number of arms that hear the model beside the one that explores; 0: all listeners hear the model."""
NIGHTS, SESSIONS = sized((6, 10_000), (1, 400))
"""Nights of the week, and sessions of each day."""


def pieces() -> Iterator[Piece]:
    """A week for each world and share of exploration."""
    for world in WORLDS:
        for share in EXPLORATION:
            yield Piece(
                part=share, model="convex", words=(), world=world, sessions=SESSIONS, seed=1, picks=("uniform",)
            )


def week(study: Study, piece: Piece) -> list[dict[str, Any]]:
    """Play a week.

    Returns:
        A line for each night, and one for the day before the first.
    """
    world, folder = the_world(piece.world), folder_of(study, piece)
    shutil.rmtree(folder, ignore_errors=True)
    explorer, lines = Random(world=world), list[dict[str, Any]]()
    mixed: tuple[Policy, ...] = (
        Random(world=world), Random(world=world), StickyArtist(world=world), Popular(num_tracks=100, world=world)
    )  # fmt: skip
    logs = day(world, mixed, "MIXED", folder / "day-1", after=None)
    size = len(world.catalog)
    explored = the_test(piece.world).play(lambda _, draws: (draws * size).astype(np.int64), "test").time.mean()
    for night in range(1, NIGHTS + 1):
        run = folder / f"night-{night}"
        train(("model=convex", "datamodule=botify", f"datamodule.path={logs}", f"seed={piece.seed}"), run)
        heard = play(piece, run, "uniform")
        num_arms = EXPLORATION[piece.part]
        share = 1 / (num_arms + 1) if num_arms else 0.0
        service = share * explored + (1 - share) * heard.time.mean()
        numbers = {
            "time": heard.time.mean(),
            "service": service,
            "coverage": heard.coverage,
            "hits": heard.share_of_hits,
        }
        key = dict(zip(COLUMNS[:5], piece.key, strict=True))
        lines.append({**key, "night": night, **{name: f"{number:.6g}" for name, number in numbers.items()}})
        model = Lists(path=str(run / "recommendations.jsonl"), pick="uniform", artist_gap=0, world=world)
        arms = (explorer, *[model] * num_arms) if num_arms else (model,)
        logs = day(world, arms, f"NIGHT {night}", folder / f"day-{night + 1}", after=logs)
    shutil.rmtree(folder)
    return lines


def day(world: World, policies: Sequence[Policy], experiment: str, folder: Path, after: Path | None) -> Path:
    """Simulate a day; its folder has the logs of all days so far."""
    names = ["C", *(f"T{number}" for number in range(1, len(policies)))]
    run_experiment(
        world=world, policies=dict(zip(names, policies, strict=True)), experiment=experiment, sessions=SESSIONS,
        days=1, workers=1, seed=1, first_day="2026-01-05", track_seconds=210.0, folder=folder, write_logs=True,
        with_propensity=False, after=after, provenance={}, progress=unseen,
    )  # fmt: skip
    return folder


@contextmanager
def unseen(_: Mapping[str, int]) -> Iterator[ArmReport]:
    """The progress of a day, which is not shown: the bar of the study counts weeks."""
    yield lambda *_, **__: None


def report() -> None:
    """Write results.md and results.png of the worlds in which every share of exploration was played."""
    frame = pd.read_csv(RESULTS)
    whole = [world for world, one in frame.groupby("world") if set(EXPLORATION) <= set(one.part)]
    if not whole:
        return
    frame = frame[frame.world.isin(whole)]
    lines = ["# Results", "", f"Written by `{STUDY.command}`.", ""]
    lines += [f"Worlds with all weeks: {', '.join(map(str, whole))} (`world.seed`).", ""]
    for column, title in {
        "time": "Listeners of the model", "service": "All listeners, explorers included", "coverage": "Coverage",
    }.items():  # fmt: skip
        lines += [f"## {title}", "", *by_night(frame, column), ""]
    lines += ["## Against no exploration", "", *against(frame), ""]
    STUDY.write_table("results.md", lines)
    draw(frame)
    STUDY.write_provenance()


def by_night(frame: pd.DataFrame, column: str) -> list[str]:
    """Means over the worlds, a row for each share of exploration."""
    means = frame.pivot_table(index="part", columns="night", values=column).reindex(list(EXPLORATION))
    week = frame.groupby(["part", "world"])[column].mean().groupby("part").mean()
    rows = [
        [str(share), *(f"{value:.2f}" for value in line), f"{week[share]:.2f}"]
        for share, line in zip(means.index, means.to_numpy(), strict=True)
    ]
    return table(
        ["exploration", *(f"night {night}" for night in means), "mean"], rows, "l" + "r" * (len(means.columns) + 1)
    )


def against(frame: pd.DataFrame) -> list[str]:
    """Difference to no exploration, paired by world: the model after the last night, and the service over the week."""
    last = frame[frame.night == NIGHTS].pivot_table(index="world", columns="part", values="time")
    whole = frame.pivot_table(index="world", columns="part", values="service")
    rows = []
    for share in list(EXPLORATION)[1:]:
        cells = [share]
        for values in (last, whole):
            interval = MeanInterval.of((values[share] - values["0 %"]).to_numpy(), LEVEL)
            cells += [f"{interval.mean:+.2f}", f"{interval.lower:+.2f}", f"{interval.upper:+.2f}"]
        rows.append(cells)
    head = ["exploration", "model, last night", "lower", "upper", "service, whole week", "lower", "upper"]
    return [*table(head, rows, "lrrrrrr"), "", "Mean time per session. Intervals: Student's, a value for each world."]


def draw(frame: pd.DataFrame) -> None:
    """Time of the model and of the service over the nights, a line for each share and a dot for each world."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, column, title in ((left, "time", "listeners of the model"), (right, "service", "all listeners")):
        for share in EXPLORATION:
            own = frame[frame.part == share]
            mean = own.groupby("night")[column].mean()
            [line] = axes.plot(mean.index, mean, label=f"{share} explore")
            axes.plot(own.night, own[column], ".", color=line.get_color(), markersize=4)
        axes.set(xlabel="nights of training", title=title)
        axes.grid(alpha=0.3)
    left.set(ylabel="mean time per session, in tracks")
    left.legend()
    STUDY.write_figure("results.png", figure)


if __name__ == "__main__":
    STUDY.run(lambda: main_of(STUDY, parts={"week": pieces}, path=RESULTS, report=report, run=week))
