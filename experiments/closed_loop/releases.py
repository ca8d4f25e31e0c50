"""How soon do new tracks get their fair plays? python experiments/closed_loop/releases.py

On each of four days 100 tracks arrive in a small world. In the night before, convex learns from all logs so far; the
catalogue already has the tracks of the next day. Its lists are played to 5,000 sessions, with a share of picks for
tracks that nobody has played (`exploration`). The fair plays of a new track are the mean plays of the 100 older tracks
of the most similar quality on the same day. A piece is one world, one share of exploration, and
a model with or without attributes; its rows are appended to releases.csv. Writes releases.md and releases.png.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.closed_loop.study import unseen
from experiments.playing import COLUMNS, LEVEL, Piece, folder_of, main_of, world_of
from experiments.studying import SMALL_WORLD, Study, composed, data_of, sized
from segue.datamodules.batches import BatchSampler
from segue.datamodules.pair_datamodule import PairDataModule
from segue.models.pair_ranker import PairRanker
from segue.reports.markdown import table
from segue.runs.catalog_files import write_catalog
from segue.runs.recommendations import Recommendations
from segue.simulation.experiment import run_experiment
from segue.simulation.policies import Lists, Policy, Popular, Random, StickyArtist
from segue.simulation.world import World, is_released, released_by
from segue.statistics.intervals import MeanInterval

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "releases.csv"
WORLDS = sized((11, 12, 13), (11,))
SHARES = sized((0.0, 0.05, 0.2), (0.0, 0.2))
"""Shares of the picks that are among tracks without a play."""
MODELS: Mapping[str, tuple[str, ...]] = {
    "artist": (),
    "attributes": (
        "model.parts=[track,artist,genre,audio]",
        "datamodule.attributes={genre: {kind: values, most_shared: 1.0}, audio: vector}",
    ),
}
"""What a model knows of a new track, by the words of `train.py`."""
DAYS, SESSIONS, PER_DAY = sized((4, 5_000, 100), (2, 300, 20))
FIRST_DAY = date(2026, 1, 5)
"""The day before the first releases: mixed traffic."""
WORLD_WORDS = (
    *sized(("world=small",), SMALL_WORLD), "world.attributes.genres=20", "world.attributes.audio=16",
    f"world.attributes.releases={PER_DAY}", f"world.attributes.release_days={DAYS}",
)  # fmt: skip
TRAINING = ("datamodule=botify", "datamodule.split=session", "model=convex")
"""By session, because a split by time would leave the last days out of the training data."""
EPOCHS, LENGTH = 5, 50
"""Of training, and tracks of a list."""
ALIKE = 100
"""Older tracks whose plays are the fair plays of a new one."""


def pieces() -> Iterator[Piece]:
    """Four days for each world, model and share of exploration."""
    for world in WORLDS:
        for model, words in MODELS.items():
            for share in SHARES:
                yield Piece(
                    part=f"{share:.0%}", model=model, words=words, world=world, sessions=SESSIONS, seed=1,
                    picks=("uniform",),
                )  # fmt: skip


@cache
def whole_world(seed: int) -> World:
    """A small world with the tracks of all days."""
    return world_of(*WORLD_WORDS, f"world.seed={seed}", f"first_day={FIRST_DAY}")


def week(study: Study, piece: Piece) -> list[dict[str, Any]]:
    """Play the days.

    Returns:
        For each day a line with the mean time per session and the plays of older tracks, and one for each day of
        release so far: the plays of its tracks, their fair plays, and how many of them have had a day with at least
        their fair plays.
    """
    whole, folder = whole_world(piece.world), folder_of(study, piece)
    shutil.rmtree(folder, ignore_errors=True)
    fair_of, has_had_fair = alike(whole, iso(0)), np.zeros(len(whole.catalog), bool)
    day_of = np.array([(date.fromisoformat(day) - FIRST_DAY).days for day in whole.attributes["released"]])
    world, lines = released_by(whole, iso(0)), list[dict[str, Any]]()
    mixed: tuple[Policy, ...] = (
        Random(world=world), Random(world=world), StickyArtist(world=world), Popular(num_tracks=100, world=world)
    )  # fmt: skip
    play_day(world, mixed, 0, folder)
    for day in range(1, DAYS + 1):
        world = released_by(whole, iso(day))
        lists = learn(piece, world, folder)
        policy = Lists(
            path=str(lists), pick="uniform", artist_gap=0, exploration=float(piece.part.rstrip("%")) / 100,
            exploration_plays=1, world=world,
        )  # fmt: skip
        time = play_day(world, (policy,), day, folder)
        plays = recommended(whole, folder / "logs" / f"day-{day}" / "data.json")
        fair = plays[fair_of].mean(1)
        has_had_fair |= plays >= fair
        shared = dict(zip(COLUMNS[:5], piece.key, strict=True)) | {"day": day}
        old = day_of < 1
        lines.append(
            shared | {"released": 0, "tracks": int(old.sum()), "plays": int(plays[old].sum()), "time": f"{time:.6g}"}
        )
        for released in range(1, day + 1):
            own = day_of == released
            numbers = {"plays": int(plays[own].sum()), "fair": f"{fair[own].sum():.6g}"}
            reached = {"reached": int(has_had_fair[own].sum())}
            lines.append(shared | {"released": released, "tracks": int(own.sum())} | numbers | reached)
    shutil.rmtree(folder)
    columns = (*COLUMNS[:5], "day", "released", "tracks", "plays", "fair", "reached", "time")
    return [{name: line.get(name, "") for name in columns} for line in lines]


def learn(piece: Piece, world: World, folder: Path) -> Path:
    """Train on the logs of a folder, and write the lists of all tracks of a world."""
    write_catalog(world.catalog, folder / "tracks.json", world.attributes)
    words = (*TRAINING, *piece.words, f"datamodule.path={folder}", f"seed={piece.seed}", f"run_dir={folder}")
    config = composed("train", *words)
    data: PairDataModule = data_of(config)
    torch.manual_seed(piece.seed)
    ranker: PairRanker = instantiate(config.ranker, _convert_="all")(vocabulary=data.vocabulary)
    optimizer, loader = ranker.configure_optimizers(), data.train_dataloader()
    assert isinstance(loader.sampler, BatchSampler)
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            ranker.loss(ranker.scorer, batch, ranker.context).backward()
            optimizer.step()
    with torch.inference_mode():
        rows, scores = ranker.eval().lists(LENGTH).collect()
    lists = Recommendations(rows=rows, scores=scores, plays=data.vocabulary.plays)
    lists.write(folder / "recommendations.jsonl", data.catalog, format="botify")
    return folder / "recommendations.jsonl"


def play_day(world: World, policies: Sequence[Policy], day: int, folder: Path) -> float:
    """Simulate a day and put its log to those of the days before.

    Returns:
        Mean time per session of the first arm.
    """
    names, played = ["C", *(f"T{number}" for number in range(1, len(policies)))], folder / "played"
    record = run_experiment(
        world=world, policies=dict(zip(names, policies, strict=True)), experiment=f"DAY {day}", sessions=SESSIONS,
        days=1, workers=1, seed=1 + day, first_day=iso(day), track_seconds=210.0, folder=played, write_logs=True,
        with_propensity=False, after=None, provenance={}, progress=unseen,
    )  # fmt: skip
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (played / "logs" / "day-1").rename(folder / "logs" / f"day-{day}")
    shutil.rmtree(played)
    return float(record["arms"]["C"]["mean_time_per_session"])


def iso(day: int) -> str:
    """The date of a day; 0 is the first."""
    return (FIRST_DAY + timedelta(days=day)).isoformat()


def recommended(world: World, log: Path) -> np.ndarray:
    """How often each track was recommended in a log; the tracks that sessions begin with do not count."""
    with log.open(encoding="utf-8") as file:
        ids = [line["recommendation"] for line in map(json.loads, file) if line["message"] == "next"]
    return np.bincount(world.catalog.rows_of(np.array(ids, np.int64)), minlength=len(world.catalog))


def alike(world: World, first: str) -> np.ndarray:
    """For each track the older tracks of the most similar quality: the mean share that listeners play of it."""
    people = world.listeners
    interests = world.embeddings[people.interests].reshape(-1, world.embeddings.shape[1])
    bias, sharpness = (np.repeat(column, people.interests.shape[1]) for column in (people.bias, people.sharpness))
    quality = np.concatenate(
        [expit((part @ interests.T - bias) * sharpness).mean(1) for part in np.array_split(world.embeddings, 50)]
    )
    old = np.flatnonzero(is_released(world, first))
    old = old[np.argsort(quality[old], kind="stable")]
    start = np.searchsorted(quality[old], quality) - ALIKE // 2
    alike: np.ndarray = old[np.clip(start, 0, len(old) - ALIKE)[:, None] + np.arange(ALIKE)]
    return alike


def report() -> None:
    """Write releases.md and releases.png of the worlds in which everything was played."""
    frame = pd.read_csv(RESULTS)
    wanted = len(SHARES) * len(MODELS)
    whole = [world for world, one in frame.groupby("world") if len(one.groupby(["part", "model"])) == wanted]
    frame = frame[frame.world.isin(whole)].assign(age=lambda lines: lines.day - lines.released + 1)
    if not whole:
        return
    new = frame[frame.released > 0]
    lines = ["# New releases: results", "", f"Written by `{STUDY.command}`.", ""]
    lines += [f"Worlds: {', '.join(map(str, whole))} (`world.seed`), {PER_DAY} new tracks on each of {DAYS} days.", ""]
    lines += ["## Plays of new tracks, as a share of their fair plays", "", *by_age(new), ""]
    lines += ["## New tracks that have had a day with their fair plays", "", *reached(new), ""]
    lines += ["## What it costs", "", *cost(frame), ""]
    STUDY.write_table("releases.md", lines)
    draw(new)
    STUDY.write_provenance("releases_provenance.json")


def settings() -> list[tuple[str, str]]:
    """Model and share of exploration of each row."""
    return [(model, f"{share:.0%}") for model in MODELS for share in SHARES]


def by_age(new: pd.DataFrame) -> list[str]:
    """Plays over fair plays, by the day after release; all tracks of all worlds together."""
    sums = new.groupby(["model", "part", "age"])[["plays", "fair"]].sum()
    ratio = (sums.plays / sums.fair).unstack()
    values = dict(zip(ratio.index, ratio.to_numpy(), strict=True))
    rows = [[*key, *(f"{value:.2f}" for value in values[key])] for key in settings()]
    return table(
        ["model knows", "exploration", *(f"day {age}" for age in ratio)], rows, "ll" + "r" * len(ratio.columns)
    )


def reached(new: pd.DataFrame) -> list[str]:
    """Share of the tracks, by the day after release, and the median number of days."""
    sums = new.groupby(["model", "part", "age"])[["reached", "tracks"]].sum()
    share = (sums.reached / sums.tracks).unstack()
    of_setting, rows = dict(zip(share.index, share.to_numpy(), strict=True)), list[list[str]]()
    for key in settings():
        values = of_setting[key]
        enough = np.flatnonzero(values >= 0.5)
        median = str(share.columns[enough[0]]) if len(enough) else f"> {DAYS}"
        rows.append([*key, *(f"{value:.2f}" for value in values), median])
    head = ["model knows", "exploration", *(f"by day {age}" for age in share), "median days"]
    return table(head, rows, "ll" + "r" * (len(share.columns) + 1))


def cost(frame: pd.DataFrame) -> list[str]:
    """Mean time per session over the days, and its difference to no exploration, paired by world and day."""
    time = frame[frame.released == 0].set_index(["model", "part", "world", "day"]).time.sort_index()
    rows = []
    for model, part in settings():
        own, base = time[model, part], time[model, "0%"]
        cells = [model, part, f"{own.mean():.2f}"]
        if part == "0%":
            rows.append([*cells, "–", "–", "–"])
            continue
        interval = MeanInterval.of((own - base).to_numpy(), LEVEL)
        rows.append([*cells, f"{interval.mean:+.2f}", f"{interval.lower:+.2f}", f"{interval.upper:+.2f}"])
    head = ["model knows", "exploration", "mean time per session", "less that without", "lower", "upper"]
    return [*table(head, rows, "llrrrr"), "", "Intervals: Student's, a value for each world and day."]


def draw(new: pd.DataFrame) -> None:
    """Plays over fair plays by the day after release, a panel for each model and a line for each share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"artist": "the model knows the artist", "attributes": "the model knows artist, genre and audio"}
    for axes, model in zip(panels, MODELS, strict=True):
        for share in SHARES:
            own = new[(new.model == model) & (new.part == f"{share:.0%}")].groupby("age")[["plays", "fair"]].sum()
            axes.plot(own.index, own.plays / own.fair, "o-", label=f"exploration {share:.0%}")
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(xlabel="day after release", title=titles[model], yscale="log", xticks=range(1, DAYS + 1))
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="plays, as a share of fair plays")
    panels[0].legend()
    STUDY.write_figure("releases.png", figure)


if __name__ == "__main__":
    STUDY.run(lambda: main_of(STUDY, parts={"week": pieces}, path=RESULTS, report=report, run=week))
