"""What several studies do: train a model on simulated logs, and play its lists to the listeners of the same world.

A study has many *pieces*; each is trained and played once, and its lines are appended to a CSV file. A stopped study
continues with the pieces that the file does not have.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from experiments import studying
from experiments.studying import SMALL_WORLD, Study, append_rows, composed, read_rows, sized
from segue.reports.progress import progress
from segue.simulation.listening import Heard, ListeningTest
from segue.simulation.policies import Lists
from segue.simulation.world import World
from segue.statistics.intervals import MeanInterval

QUICK = (
    "logger=none", "callbacks.plots=null", "callbacks.listening=null",
    "callbacks.ranking.max_val_queries=2000", "callbacks.ranking.max_test_queries=2000",
    "callbacks.checkpoint.save_last=false", "callbacks.resume=null",
)  # fmt: skip
"""Leaves out what no study reads; the words of a piece come after it."""
PICKS: Mapping[str, tuple[str, int]] = {
    "uniform": ("uniform", 0),
    "weighted": ("weighted", 0),
    "ranked": ("ranked", 0),
    "ranked, gap 3": ("ranked", 3),
}
"""How a track is chosen from a list: the rule, and `artist_gap`."""
SESSIONS = sized(100_000, 400)
"""Sessions of a listening test, half of them of listeners kept for validation."""
VALIDATION = ("val/loss", "val/mse", "val/ndcg_at_10")
"""What a training says about itself from the logs alone; baselines have no loss."""
LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A model to train and to play.

    Args:
        part: of the study.
        model: name in the tables.
        words: of `train.py`, which make this model.
        world: seed of the world.
        sessions: number of sessions of the logs.
        seed: of training.
        picks: names of PICKS.
        listeners: `test`, or `val` for choosing.
    """

    part: str
    model: str
    words: tuple[str, ...]
    world: int
    sessions: int
    seed: int
    picks: tuple[str, ...]
    listeners: str = "test"

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it the same piece in a CSV file."""
        return self.part, self.model, str(self.world), str(self.sessions), str(self.seed)


COLUMNS = (
    "part", "model", "world", "sessions", "seed", "pick", "time", "lower", "upper", "coverage", "hits", "same_artist",
    "fallbacks", "val_loss", "val_mse", "val_ndcg_at_10", "train_s", "commit",
)  # fmt: skip


def world_words(seed: int) -> tuple[str, ...]:
    """The words of a world of published size."""
    return *sized(("world=published",), SMALL_WORLD), f"world.seed={seed}"


def world_of(*words: str) -> World:
    """The world of some words of the command line."""
    world: World = instantiate(composed("simulate", *words).world, _convert_="all")
    return world


@cache
def the_world(seed: int) -> World:
    """A world of published size."""
    return world_of(*world_words(seed))


@cache
def the_test(seed: int) -> ListeningTest:
    """The sessions that every recommender of a world is played to."""
    return ListeningTest(the_world(seed), sessions=SESSIONS, seed=1, hits=100)


def train(words: Sequence[str], folder: Path) -> float:
    """Train a model, unless its folder has the recommendations.

    Args:
        words: of `train.py`, which make the data and the model.
        folder: the run folder.

    Returns:
        Seconds of the run, start-up and reading the logs included; NaN if it was there.
    """
    if (folder / "metrics.json").exists():
        return float("nan")
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    studying.train(*QUICK, *words, f"hydra.run.dir={folder}")
    return time.perf_counter() - started


def play(piece: Piece, folder: Path, pick: str) -> Heard:
    """What the listeners of its world hear from the lists of a piece."""
    rule, gap = PICKS[pick]
    world = the_world(piece.world)
    lists = Lists.of(path=str(folder / "recommendations.jsonl"), pick=rule, artist_gap=gap, context="last", world=world)
    return the_test(piece.world).play(lists.choose, piece.listeners)


def folder_of(study: Study, piece: Piece) -> Path:
    """The run folder of a piece."""
    return study.work / re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(piece.key))


def run_piece(study: Study, piece: Piece) -> list[dict[str, Any]]:
    """Train and play one piece; its run folder is deleted when it has been played.

    Returns:
        A line for each picking.
    """
    folder = folder_of(study, piece)
    data = ("datamodule=simulated", f"datamodule.prepare.sessions={piece.sessions}", *world_words(piece.world))
    seconds = train((*data, *piece.words, f"seed={piece.seed}"), folder)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    validation = [f"{metrics[name]:.6g}" if name in metrics else "" for name in VALIDATION]
    lines = [line_of(study, piece, pick, play(piece, folder, pick), validation, seconds) for pick in piece.picks]
    shutil.rmtree(folder)
    return lines


def line_of(
    study: Study, piece: Piece, pick: str, heard: Heard, validation: Sequence[str], train_s: float
) -> dict[str, Any]:
    """The line of what was heard under a picking.

    Args:
        study: that plays it.
        piece: what was played.
        pick: name of the picking.
        heard: by the listeners.
        validation: the numbers of VALIDATION, empty where there is none.
        train_s: time of the training, in seconds.
    """
    interval = MeanInterval.of(heard.time, LEVEL)
    shares = heard.coverage, heard.share_of_hits, heard.share_of_same_artist
    numbers = (interval.mean, interval.lower, interval.upper, *shares)
    values = [*piece.key, pick, *(f"{number:.6g}" for number in numbers), heard.fallbacks, *validation]
    return dict(zip(COLUMNS, [*values, f"{train_s:.0f}", study.commit()], strict=True))


RunPiece = Callable[[Study, Piece], list[dict[str, Any]]]
"""Trains and plays a piece of a study; a line for each thing that was played, which begins with the key."""


def run_missing(
    study: Study, pieces: Iterable[Piece], *, path: Path, workers: int, minutes: float, run: RunPiece
) -> bool:
    """Run the pieces that a CSV file does not have, in the given order.

    Args:
        study: that the pieces are of.
        pieces: of the study.
        path: the CSV file, to which the lines of each piece are appended; they begin with its key.
        workers: number of processes.
        minutes: no piece is started after this time.
        run: runs a piece, and returns its lines.

    Returns:
        Whether the file now has all pieces.
    """
    todo = [piece for piece in pieces if piece.key not in _keys(path)]
    end = time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(workers) as pool, progress(path.parent.name, len(todo)) as advance:
        futures = {pool.submit(_before, end, run, study, piece): piece for piece in todo}
        for future in as_completed(futures):
            if lines := future.result():
                append_rows(path, lines)
                advance(1)
    return {piece.key for piece in todo} <= _keys(path)


def _keys(path: Path) -> set[tuple[str, ...]]:
    return {tuple(line[name] for name in COLUMNS[:5]) for line in read_rows(path)}


def main_of(
    study: Study,
    *,
    parts: Mapping[str, Callable[[], Iterable[Piece]]],
    path: Path,
    report: Callable[[], None],
    run: RunPiece = run_piece,
) -> None:
    """The command line of a study: run what is missing, then report.

    Args:
        study: its script.
        parts: the pieces of each part, in this order; a later one begins when the earlier ones are complete, because
            it may depend on their lines.
        path: the CSV file.
        report: writes the tables and pictures.
        run: runs a piece; see `run_missing`.
    """
    parser = study.parser()
    parser.add_argument("--only", choices=[*parts, "report"])
    parser.add_argument("--workers", type=int, default=sized(2, 1))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no piece after this time")
    given = study.parse(parser)
    for name, pieces in parts.items():
        if given.only not in (None, name):
            continue
        if not run_missing(study, pieces(), path=path, workers=given.workers, minutes=given.minutes, run=run):
            break
    if path.exists():
        report()


def _before(end: float, run: RunPiece, study: Study, piece: Piece) -> list[dict[str, Any]]:
    return run(study, piece) if time.monotonic() < end else []
