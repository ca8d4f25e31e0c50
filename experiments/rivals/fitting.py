"""How a piece of `study.py` is fitted: in this process, by `train.py`, or in the Python of another library.

Q queries, B queries of a block, N tracks in the catalogue, K tracks of a list, M tracks that a network knows.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from torch import Tensor

from experiments.rivals.environments import python_of
from experiments.rivals.sequence_parts import ASKS, FITTED, VECTORS
from experiments.rivals.spaces import DATA, Model
from experiments.studying import append_rows, composed, data_of, train
from segue.callbacks.ranking_metrics import RankingMetrics
from segue.callbacks.run_context import RunContext
from segue.datamodules.pair_datamodule import PairDataModule
from segue.histories import Histories
from segue.models.baselines.module import Baseline
from segue.models.ranker import Scoring
from segue.models.restoring import CHECKPOINT, read_checkpoint
from segue.models.retrieval.ranks import block_size, boost_heard
from segue.runs.provenance import ROOT
from segue.statistics.ranking import accuracy, coverage, popularity_rank

QUIET = (
    "logger=none", "callbacks.plots=null", "callbacks.listening=null",
    "callbacks.export=null", "callbacks.resume=null", "callbacks.checkpoint.save_last=false",
    "callbacks.ranking.max_test_queries=1",
)  # fmt: skip
"""Leaves out what the study does not read; it ranks the test queries itself."""
ALL_QUERIES = 10**9
MAX_EPOCHS = 40
"""Of networks in a Python of their own."""
LISTS, LISTED = (10, 20), 2000
"""Lengths of the lists of which coverage and popularity are, and number of test queries that have one."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of a piece.

    Args:
        val: mean of each ranking metric over all validation queries.
        fit_s: processor time of fitting; of a head that of the whole `train.py`, with imports and metrics.
        ranks: rank of each test query; None for a trial, which does not read the test set.
        query_ms: processor time of ranking one query over the whole catalogue, in ms; NaN for a trial.
        beside: coverage and mean popularity rank of the lists of some test queries, by name; none for a trial.
        curve: for each epoch of a network processor time of training until then, in s, and validation ndcg@10.
    """

    val: dict[str, float]
    fit_s: float
    ranks: np.ndarray | None = None
    query_ms: float = float("nan")
    beside: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()


@cache
def the_data(data: str) -> tuple[PairDataModule, RankingMetrics]:
    """A data set, and its queries for validation and test."""
    words = [*DATA[data], "model=popular"]
    with tempfile.TemporaryDirectory() as folder:
        config = composed("train", *words, f"callbacks.ranking.max_val_queries={ALL_QUERIES}", f"run_dir={folder}")
        datamodule = data_of(config)
        ranking = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=datamodule))
    return datamodule, ranking


def queries_table(data: str) -> pd.DataFrame:
    """What the tables ask about the test queries of a data set, a line for each.

    Returns:
        Number of the session; tracks heard before the next one; tracks of the whole session; plays in training of the
        newest track, and of the next one.
    """
    datamodule, ranking = the_data(data)
    test, plays = ranking.queries["test"], datamodule.vocabulary.plays
    return pd.DataFrame(
        {
            "session": test.session,
            "num_heard": test.length,
            "session_length": np.bincount(datamodule.sessions.listens.session)[test.session],
            "plays_of_newest": plays[test.previous],
            "plays_of_next": plays[test.following],
        }
    )


def fit(
    data: str, model: Model, settings: Sequence[str], *, seed: int, tests: bool, epochs: int = MAX_EPOCHS
) -> Fitted:
    """Fit a model and rank the queries.

    Args:
        data: name of the data.
        model: the model.
        settings: its settings, `name=value`.
        seed: of the run.
        tests: whether the test queries are ranked too.
        epochs: after which the training of a network in a Python of its own ends, if not before.

    Returns:
        The metrics, and the ranks of the test queries.
    """
    words = [*DATA[data], *model.words, *model.of_data.get(data, ()), *settings, f"seed={seed}"]
    if model.kind == "counting":
        return _count(words, data, tests=tests)
    if model.kind == "head":
        return _train(words, data, tests=tests)
    own = dict(setting.split("=") for setting in settings)
    return _sequence(model.kind, data, {**own, "seed": seed, "max_epochs": epochs}, tests=tests)


def _count(words: Sequence[str], data: str, *, tests: bool) -> Fitted:
    ranker = _factory(words)(vocabulary=the_data(data)[0].vocabulary)
    started = time.process_time()
    ranker.on_train_start()  # counts
    fitted = Fitted(fit_s=time.process_time() - started, val=_validated(ranker, data))
    return _tested(ranker, data, fitted) if tests else fitted


def _factory(words: Sequence[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return instantiate(composed("train", *words, f"run_dir={folder}").ranker, _convert_="all")


def _validated(ranker: Any, data: str) -> dict[str, float]:
    """The mean of each metric of validation, which chooses how tracks already heard are ranked, as in a run."""
    ranking = the_data(data)[1]
    return means(ranking.chosen_ranks(ranker, ranking.queries["val"]))


def _tested(ranker: Any, data: str, fitted: Fitted) -> Fitted:
    """Rank the test queries, as validation has decided."""
    datamodule, ranking = the_data(data)
    test, plays = ranking.queries["test"], datamodule.vocabulary.plays
    histories, started = datamodule.histories(test), time.process_time()
    with torch.inference_mode():
        ranks = ranker.ranks(histories, test.following, lambda _: None)
        query_ms = 1e3 * (time.process_time() - started) / len(ranks)
        some = np.random.default_rng(1).permutation(len(test))[:LISTED]
        lists = ranker.top(histories.where(some), max(LISTS))[0]
    beside = {f"coverage_at_{k}": coverage(lists[:, :k], len(plays)) for k in LISTS}
    beside |= {f"popularity_rank_at_{k}": float(popularity_rank(lists[:, :k], plays).mean()) for k in LISTS}
    return replace(fitted, ranks=ranks, query_ms=query_ms, beside=beside)


def _train(words: Sequence[str], data: str, *, tests: bool) -> Fitted:
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name) / "run", os.times()
        train(*words, *QUIET, f"callbacks.ranking.max_val_queries={ALL_QUERIES}", f"run_dir={folder}")
        fit_s = sum(os.times()[2:4]) - sum(before[2:4])  # of child processes
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        saved = read_checkpoint(folder / CHECKPOINT)
    val = {name.removeprefix("val/"): value for name, value in metrics.items() if name.startswith("val/")}
    ranker = _factory(words)(vocabulary=the_data(data)[0].vocabulary)
    ranker.on_load_checkpoint(saved)
    ranker.load_state_dict(saved["state_dict"])
    fitted = Fitted(val=val, fit_s=fit_s)
    return _tested(ranker.eval(), data, fitted) if tests else fitted


class Network(Baseline):
    """Ranks by the softmax of the vectors of a network of another library.

    Tracks already heard, and others by their artists, are boosted as those of a baseline: the network gives the tracks
    that it does not know no probability. A session of which it knows no track has the probabilities of plays.
    """

    def learn(self, vectors: Mapping[str, np.ndarray], last: Mapping[str, np.ndarray]) -> None:
        """Take vectors, and fit the boosts to them.

        Args:
            vectors: `items` of the tracks in `item_rows`, and for each part of the queries `queries_<part>`.
            last: number of the newest event of each query, by part.
        """
        self._rows, self._items = (torch.from_numpy(vectors[name]) for name in ("item_rows", "items"))
        known = [part for part in last if f"queries_{part}" in vectors]
        numbers = np.concatenate([last[part] for part in known])
        order = np.argsort(numbers)
        of_parts = np.concatenate([vectors[f"queries_{part}"] for part in known])
        self._last, self._queries = numbers[order], torch.from_numpy(of_parts[order])
        if (repeats := self.context.repeats).asked is not None:
            at_once = block_size(len(self._vocabulary.plays))
            blocks = iter(torch.from_numpy(vectors[f"queries_{FITTED}"]).split(at_once))
            repeats.fit(lambda _: self._softmax(next(blocks)), unit=1.0, adds=True, at_once=at_once)

    def scoring(self, *, every: bool = False, alone: bool = False) -> Scoring:  # noqa: ARG002
        """The probabilities, by the rule for tracks already heard."""
        return lambda histories: self._boosted(histories, every)

    def by_previous(self, every: bool) -> bool:  # noqa: ARG002
        """The network reads the whole session."""
        return False

    def _softmax(self, queries: Tensor) -> Tensor:
        """The probability of each track, B × N."""
        shares = torch.zeros(len(queries), len(self._vocabulary.plays))
        shares[:, self._rows] = (queries @ self._items.T).softmax(1)
        plays = torch.from_numpy(self._vocabulary.plays).float()
        shares[~queries.any(1)] = plays / plays.sum()
        return shares

    def _boosted(self, histories: Histories, every: bool = False) -> Tensor:
        """The scores of all tracks, B × N, by the rule for tracks already heard."""
        repeats = self.context.repeats
        scores = self._softmax(self._queries[np.searchsorted(self._last, histories.last)])
        factor, added = repeats.in_force(every=every)
        times, more = (repeats.added(histories, values, every=every).tocoo() for values in (np.expm1(factor), added))
        scores[times.coords] *= torch.from_numpy(1 + times.data).float()
        scores[more.coords] += torch.from_numpy(more.data).float()
        boosts = repeats.boosts(every=every)
        if np.isinf(boosts).any():
            boost_heard(scores, torch.from_numpy(histories.newest_rows(len(boosts))), boosts)
        return scores

    def train_library(
        self,
        library: str,
        settings: Mapping[str, Any],
        histories: Mapping[str, Histories],
        score: Callable[[], float] | None,
    ) -> dict[str, np.ndarray]:
        """Train a model of another library on our sessions in its own Python, and learn its vectors.

        Args:
            library: its name.
            settings: by name.
            histories: of the queries, by part.
            score: how good the network is after an epoch, when it has learned the vectors of all parts but `test`; None
                where the last epoch is the one that counts.

        Returns:
            What the network wrote at the end: see `sequence_parts.py`.
        """
        last, epochs = {part: one.last for part, one in histories.items()}, count(1)
        listens, asked = self._vocabulary.listens, self.context.repeats.asked
        played = listens.where(~(listens.played_ratio < np.float32(0.5)))
        arrays: dict[str, Any] = {"session": played.session, "track": played.track}
        arrays["artist"] = self._vocabulary.catalog.artist_of
        read = {**histories} if asked is None else {**histories, FITTED: asked.histories}
        arrays |= {f"history_{part}": one.newest(int(one.length.max()))[0] for part, one in read.items()}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            def learned() -> dict[str, np.ndarray]:
                with np.load(folder / VECTORS) as file:
                    vectors = dict(file)
                self.learn(vectors, last)
                return vectors

            def answer() -> float:
                if score is None:
                    return next(epochs)
                learned()
                return score()

            np.savez(folder / "sessions.npz", **arrays)
            (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
            script = str(Path(__file__).with_name(f"{library}_model.py"))
            run([python_of(library), script, str(folder)], folder, answer)
            return learned()


def _sequence(library: str, data: str, settings: Mapping[str, Any], *, tests: bool) -> Fitted:
    """Train a model of another library, and rank our queries by its vectors; validation chooses the epoch."""
    datamodule, ranking = the_data(data)
    factory = _factory([*DATA[data], "model=rules", "context=session"])
    network = Network(vocabulary=datamodule.vocabulary, **factory.keywords)
    histories = {part: datamodule.histories(queries) for part, queries in ranking.queries.items()}
    found = network.train_library(library, settings, histories, lambda: _validated(network, data)["ndcg_at_10"])
    fitted = Fitted(val=_validated(network, data), fit_s=float(found["fit_s"]), curve=found["curve"].tolist())
    return _tested(network, data, fitted) if tests else fitted


def append_curve(path: Path, key: Mapping[str, Any], curve: Iterable[tuple[float, float]]) -> None:
    """Append a line for each epoch of a training.

    Args:
        path: of the CSV file.
        key: data, model and seed.
        curve: processor time of training until the end of each epoch, in s, without validation; and validation ndcg@10.
    """
    rows = [
        {**key, "epoch": epoch, "cpu_s": round(cpu_s, 2), "val_ndcg_at_10": f"{value:.6g}"}
        for epoch, (cpu_s, value) in enumerate(curve, 1)
    ]
    append_rows(path, rows)


def means(ranks: np.ndarray) -> dict[str, float]:
    """The mean of each ranking metric."""
    return {str(name): float(value) for name, value in accuracy(ranks).mean().items()}


def run(command: Sequence[str], cwd: Path = ROOT, answer: Callable[[], float] | None = None) -> None:
    """Run a process in one thread; its output is shown only if it fails. RecBole writes into the working directory.

    Args:
        command: its words.
        cwd: its working directory.
        answer: computes the number that is written to its input for each line ASKS of its output.

    Raises:
        RuntimeError: it failed.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    printed = []
    with subprocess.Popen(command, cwd=cwd, env={**os.environ, **threads}, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if answer is not None and line.strip() == ASKS:
                process.stdin.write(f"{answer()}\n")
                process.stdin.flush()
            else:
                printed.append(line)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{''.join(printed)[-4000:]}")
