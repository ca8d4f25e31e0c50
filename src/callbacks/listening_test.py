"""After the test: the lists of the run are played to the listeners of the world that its logs came from."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from pytorch_lightning import Callback, LightningModule, Trainer

from segue.callbacks.export import session_vectors
from segue.callbacks.run_context import RunContext, ranker_of
from segue.catalog import Catalog
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.evaluation.online import SHARE_OF_HITS, SHARE_OF_SAME_ARTIST, TIME, VAL_TIME
from segue.runs.atomic import write_record, write_whole
from segue.runs.recommendations import check_k
from segue.runs.session_vectors import SessionVectors
from segue.settings import settings
from segue.simulation.listening import (
    Heard,
    ListeningTest,
    NumHits,
    NumNearest,
    NumSessions,
    Recommend,
    Seed,
    from_lists,
    references,
)
from segue.simulation.mixed_logs import MixedLogs, code_digest, keep_interest_neighbours
from segue.simulation.session_lists import from_session
from segue.simulation.world import World
from segue.statistics.intervals import MeanInterval
from segue.terminal.console import console
from segue.terminal.progress import progress

LEVEL = 0.95
"""Confidence level of the interval of TIME."""
_KINDS = {"random": "floor", "popular": "floor", "true_neighbours": "reference"}


@settings("callbacks.listening")
class Listening(Callback):
    """Logs `online/…` after the test, and after each epoch if `monitor=online`; does nothing without a world.

    Every run of a world plays the same sessions with the same random numbers. A track of a list is drawn uniformly.
    With `context=session` it is drawn from as many tracks, those that are best for the session.

    Args:
        context: of the run; the lists that `Export` made are played.
        world: the world that the logs came from; None for that of `datamodule=simulated`, and none of other logs.
        k: length of the lists where `Export` made none.
        num_lists: number of last tracks whose lists are searched with `context=session`.
        path: where the mean time of each listener is written (Parquet).
        monitor: the metric that chooses the best epoch.

    Raises:
        InputError: a setting is out of range, or the logs have tracks that the world does not have.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        world: World | None,
        sessions: NumSessions,
        seed: Seed,
        k: int,
        num_lists: int,
        hits: NumHits,
        neighbours: NumNearest,
        path: str,
        monitor: str,
    ) -> None:
        self._context, self._k, self._num_lists, self._path = context, k, num_lists, Path(path)
        self._hits, self._neighbours = hits, neighbours
        self._is_monitored = monitor == VAL_TIME
        self._test: ListeningTest | None = None
        if (world := world or world_of(context.datamodule)) is not None:
            check_k(k, len(context.datamodule.catalog))
            self._rows = _rows_in(world, context.datamodule.catalog)
            self._test = ListeningTest(world, sessions=sessions, seed=seed, hits=hits)
            if world_of(context.datamodule) is world:
                keep_interest_neighbours(world, Path(context.datamodule.path).parent)

    @property
    def has_world(self) -> bool:
        """Whether there is a world whose listeners can be played to."""
        return self._test is not None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log VAL_TIME of the epoch if it chooses the best one."""
        if self._test is not None and self._is_monitored:
            heard = self._test.play(self._recommend(pl_module, self._top(pl_module)), "val")
            pl_module.log(VAL_TIME, float(heard.time.mean()), batch_size=1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Play the lists to all listeners, log what they heard, and write the mean time of each listener."""
        if self._test is None:
            return
        with console.status("playing to simulated listeners"):
            lists = self._context.lists() if self._context.lists is not None else self._top(pl_module)
            recommend = self._recommend(pl_module, lists)
            heard = {part: self._test.play(recommend, part) for part in ("val", "test")}
            metrics = {**_metrics(heard), **self._references(self._test)}
        self._write(heard, self._test)
        history = self._context.history
        history.test |= metrics
        for logger in trainer.loggers:  # at the step of the last value of each metric, that of the best epoch
            logger.log_metrics({**metrics, "epoch": len(history.epochs)})
        if num_random := sum(one.fallbacks for one in heard.values()):
            line = f"listening test: {num_random:,} recommendations were random tracks, because a list was empty"
            console.print(line, soft_wrap=True)
        self._context.clock.end("listening")

    def _top(self, pl_module: LightningModule) -> Int64[np.ndarray, "N K"]:
        num_tracks = len(self._context.datamodule.catalog)
        with torch.inference_mode(), progress("lists for the listening test", num_tracks) as advance:
            return ranker_of(pl_module).top(np.arange(num_tracks), self._k, advance)[0]

    def _recommend(self, pl_module: LightningModule, rows: Int64[np.ndarray, "N K"]) -> Recommend:
        """What the run recommends to listeners, as it would be served."""
        lists, ranker = self._lists(rows), ranker_of(pl_module)
        if ranker.scorer is None or ranker.context.is_last:
            return from_lists(lists)
        vectors = self._in_world(session_vectors(ranker.scorer, ranker.context))
        return from_session(vectors, lists.astype(np.int32), num_lists=self._num_lists)

    def _in_world(self, vectors: SessionVectors) -> SessionVectors:
        """Vectors of the tracks of the catalogue as those of the world; zeros for tracks without any."""
        assert self._test is not None
        shape = len(self._test.world.catalog), vectors.queries.shape[1]
        queries, items = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        queries[self._rows], items[self._rows] = vectors.queries, vectors.items
        return replace(vectors, queries=queries, items=items)

    def _lists(self, rows: Int64[np.ndarray, "N K"]) -> Int64[np.ndarray, "M K"]:
        """Lists of the tracks of the catalogue as lists of those of the world."""
        assert self._test is not None
        lists = np.full((len(self._test.world.catalog), rows.shape[1]), -1, np.int64)
        lists[self._rows] = np.where(rows >= 0, self._rows[rows], -1)
        return lists

    def _references(self, test: ListeningTest) -> dict[str, float]:
        """What the reported listeners hear from the references; kept beside simulated logs for later runs."""
        logs = self._context.datamodule
        key = f"{test.digest()} {self._hits} {self._neighbours} {code_digest({'segue.simulation.listening'})}"
        path = Path(logs.path) / "listening_references.json" if world_of(logs) is test.world else None
        kept = _read(path) if path else {}
        if key not in kept:
            played = references(test.world, hits=self._hits, neighbours=self._neighbours)
            means = {name: float(test.play(recommend, "test").time.mean()) for name, recommend in played.items()}
            kept = {**kept, key: means}
            if path:
                write_record(kept, path)
        return {f"{TIME}_{name}_{_KINDS[name]}": mean for name, mean in kept[key].items()}

    def _write(self, heard: Mapping[str, Heard], test: ListeningTest) -> None:
        ids = test.world.listeners.user_ids
        parts = [
            pd.DataFrame({"listener": ids[one.listeners], "part": part, "mean_time_per_session": one.time})
            for part, one in heard.items()
        ]
        frame = pd.concat(parts, ignore_index=True).assign(test=test.digest())
        write_whole(self._path, lambda partial: frame.to_parquet(partial, index=False))


def world_of(datamodule: PairDataModule) -> World | None:
    """The world whose simulated logs a datamodule reads; None for other logs."""
    prepared_by = datamodule.prepared_by
    return prepared_by.world if isinstance(prepared_by, MixedLogs) else None


def _rows_in(world: World, catalog: Catalog) -> Int64[np.ndarray, "N"]:
    """Row in the world of each track of a catalogue."""
    rows = world.catalog.rows_of(catalog.track_ids)
    if (rows < 0).any():
        raise InputError(
            f"callbacks.listening.world has {len(world.catalog)} tracks, and track "
            f"{catalog.track_ids[int((rows < 0).argmax())]} of the logs is none of them; name the world that the logs "
            "came from, or leave the listening test out with callbacks.listening=null"
        )
    return rows


def _metrics(heard: Mapping[str, Heard]) -> dict[str, float]:
    reported = heard["test"]
    interval = MeanInterval.of(reported.time, LEVEL)
    return {
        TIME: interval.mean,
        f"{TIME}_half_width": interval.upper - interval.mean,
        VAL_TIME: float(heard["val"].time.mean()),
        "online/coverage": reported.coverage,
        SHARE_OF_HITS: reported.share_of_hits,
        SHARE_OF_SAME_ARTIST: reported.share_of_same_artist,
        "online/num_listeners": float(len(reported.listeners)),
        "online/num_sessions": float(reported.num_sessions),
    }


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        kept: dict[str, dict[str, float]] = json.loads(path.read_bytes())
    except (OSError, ValueError):  # not there yet, or damaged: it is computed again
        return {}
    return kept
