"""How a piece of `study.py` is fitted: in this process, by `train.py`, or in the Python of another library.

Q queries.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from experiments.rivals.environments import python_of
from experiments.rivals.sequence_parts import query_arrays, ranks_by_vectors
from experiments.rivals.spaces import DATA, Model
from experiments.studying import append_rows
from segue.callbacks.run_context import RunContext
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.pairs import Pairs
from segue.runs.provenance import ROOT
from segue.statistics.ranking import accuracy
from segue.terminal.hydra_parts import know_defaults

OUTPUTS = ROOT / "outputs" / "rivals"
QUIET = (
    "logger=none", "callbacks.plots=null", "callbacks.listening=null", "callbacks.off_policy=null",
    "callbacks.export=null", "callbacks.resume=null", "callbacks.checkpoint.save_last=false",
)  # fmt: skip
"""Leaves out what the study does not read."""
ALL_QUERIES = 10**9
MAX_EPOCHS = 40
"""Of networks in a Python of their own."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of a piece.

    Args:
        val: mean of each ranking metric over all validation queries.
        ranks: rank of each test query; None for a trial, which does not read the test set.
        fit_s: processor time of fitting; of a head that of the whole `train.py`, with imports and metrics.
        query_ms: processor time of ranking one query over the whole catalogue, in ms; NaN where not measured. For a
            head it is that of one with untrained weights.
        curve: for each epoch of a network processor time of training until then, in s, and validation ndcg@10.
    """

    val: dict[str, float]
    ranks: np.ndarray | None
    fit_s: float
    query_ms: float
    curve: Sequence[tuple[float, float]] = ()


@cache
def the_data(data: str) -> tuple[PairDataModule, dict[str, Pairs]]:
    """A data set and its queries for validation and test."""
    words = [*DATA[data], "model=popular"]
    with tempfile.TemporaryDirectory() as folder:
        config = composed([*words, f"callbacks.ranking.max_val_queries={ALL_QUERIES}"], Path(folder))
        datamodule = instantiate(config.datamodule, _convert_="all")
        datamodule.prepare_data()
        datamodule.setup()
        ranking = instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=datamodule))
    return datamodule, ranking.queries


def queries_table(data: str) -> pd.DataFrame:
    """What the tables ask about the test queries of a data set, a line for each.

    Returns:
        Number of the session; tracks heard before the next one; tracks of the whole session; plays in training of the
        newest track, and of the next one.
    """
    datamodule, queries = the_data(data)
    test, plays = queries["test"], datamodule.vocabulary.plays
    return pd.DataFrame(
        {
            "session": test.session,
            "num_heard": test.length,
            "session_length": np.bincount(datamodule.sessions.listens.session)[test.session],
            "plays_of_newest": plays[test.previous],
            "plays_of_next": plays[test.following],
        }
    )


def composed(words: Sequence[str], run_dir: Path) -> Any:
    """The config of `python train.py <words>`."""
    know_defaults()
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return compose("train", overrides=[*words, f"run_dir={run_dir}"])


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
    words = [*DATA[data], *model.words, *model.of_data.get(data, ())]
    if model.kind == "counting":
        return _count([*words, *settings, f"seed={seed}"], data, tests=tests)
    if model.kind == "head":
        return _train([*words, *settings, f"seed={seed}"], data, tests=tests)
    return _sequence(model.kind, data, settings, seed=seed, tests=tests, epochs=epochs)


def _count(words: Sequence[str], data: str, *, tests: bool) -> Fitted:
    datamodule, queries = the_data(data)
    ranker = _ranker(words, datamodule)
    started = time.process_time()
    ranker.on_train_start()  # counts
    counted = time.process_time()
    ranks = {
        name: ranker.ranks(datamodule.histories(queries[name]), queries[name].following, lambda _: None)
        for name in (("val", "test") if tests else ("val",))
    }
    query_ms = 1e3 * (time.process_time() - counted) / sum(map(len, ranks.values()))
    return Fitted(val=means(ranks["val"]), ranks=ranks.get("test"), fit_s=counted - started, query_ms=query_ms)


def _ranker(words: Sequence[str], datamodule: PairDataModule) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return instantiate(composed(words, Path(folder)).ranker, _convert_="all")(vocabulary=datamodule.vocabulary)


def _train(words: Sequence[str], data: str, *, tests: bool) -> Fitted:
    datamodule, queries = the_data(data)
    largest = [f"callbacks.ranking.max_val_queries={ALL_QUERIES}"]
    if not tests:
        largest.append("callbacks.ranking.max_test_queries=1")
    with tempfile.TemporaryDirectory() as folder:
        before = os.times()
        run([sys.executable, "train.py", *QUIET, *words, *largest, f"hydra.run.dir={folder}/run"])
        after = os.times()
        metrics = json.loads((Path(folder) / "run" / "metrics.json").read_text(encoding="utf-8"))
        ranks, query_ms = None, float("nan")
        if tests:
            query_ms = _query_ms(_ranker(words, datamodule), datamodule, queries["test"])
            table = pd.read_parquet(Path(folder) / "run" / "test_queries.parquet")
            assert np.array_equal(table["session"], queries["test"].session)  # the same queries in the same order
            ranks = table["rank"].to_numpy()
    val = {name.removeprefix("val/"): value for name, value in metrics.items() if name.startswith("val/")}
    fit_s = sum(after[2:4]) - sum(before[2:4])  # of child processes
    return Fitted(val=val, ranks=ranks, fit_s=fit_s, query_ms=query_ms)


def _query_ms(ranker: Any, datamodule: PairDataModule, queries: Pairs) -> float:
    started = time.process_time()
    with torch.inference_mode():
        ranker.ranks(datamodule.histories(queries), queries.following, lambda _: None)
    return 1e3 * (time.process_time() - started) / len(queries)


def _sequence(library: str, data: str, settings: Sequence[str], *, seed: int, tests: bool, epochs: int) -> Fitted:
    """Train a model of another library on our sessions in its own Python, and rank our queries by its vectors.

    The vectors are kept while they may be needed: the final run with the seed of the chosen trial need not train again.
    """
    datamodule, queries = the_data(data)
    listens = datamodule.vocabulary.listens
    played = listens.where(~(listens.played_ratio < np.float32(0.5)))
    artists = datamodule.vocabulary.catalog.artist_of
    arrays: dict[str, Any] = {"session": played.session, "track": played.track, "artist": artists}
    rule = _ranker([*DATA[data], "model=rules", "context=session"], datamodule).context.repeats
    within = len(rule.boosts())  # one rule for tracks already heard, as long as no boosts are fitted
    arrays |= {"within": np.array(within), "plays": datamodule.vocabulary.plays}
    for part in ("val", "test"):
        histories = datamodule.histories(queries[part])
        arrays[f"history_{part}"] = histories.newest(int(histories.length.max()))[0]
        arrays[f"previous_{part}"], arrays[f"following_{part}"] = histories.previous, queries[part].following
    run_words = f"within={within}", f"epochs={epochs}", f"seed={seed}"
    kept = OUTPUTS / "vectors" / f"{'_'.join([data, library, *settings, *run_words])}.npz"
    if not kept.exists():
        own = dict(setting.split("=") for setting in settings)
        _keep_vectors(kept, library, arrays, {**own, "seed": seed, "max_epochs": epochs})
    with np.load(kept) as file:
        vectors = dict(file)
    if epochs < MAX_EPOCHS:
        kept.unlink()
    started = time.process_time()
    ranks = {
        part: ranks_by_vectors(
            vectors[f"queries_{part}"],
            items=vectors["items"],
            item_rows=vectors["item_rows"],
            **query_arrays(arrays, part),
        )
        for part in (("val", "test") if tests else ("val",))
    }
    query_ms = 1e3 * (time.process_time() - started) / sum(map(len, ranks.values()))
    of_test, curve = ranks.get("test"), vectors["curve"].tolist()
    fit_s = float(vectors["fit_s"])
    return Fitted(val=means(ranks["val"]), ranks=of_test, fit_s=fit_s, query_ms=query_ms, curve=curve)


def _keep_vectors(path: Path, library: str, arrays: dict[str, Any], settings: dict[str, Any]) -> None:
    """Train in the Python of a library and write its vectors and the training time to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "sessions.npz", **arrays)
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        run([python_of(library), str(Path(__file__).with_name(f"{library}_model.py")), str(folder)], folder)
        shutil.move(folder / "vectors.npz", path)


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


def run(command: Sequence[str], cwd: Path = ROOT) -> None:
    """Run a process in one thread; its output is shown only if it fails. RecBole writes into the working directory."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with contextlib.suppress(KeyboardInterrupt):
        done = subprocess.run(
            list(command), cwd=cwd, env={**os.environ, **threads}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return
    raise SystemExit(130)
