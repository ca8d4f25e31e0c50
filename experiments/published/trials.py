"""The settings of rivals on nowplaying, chosen by validation, and the networks of libraries; `study.py` uses it.

Models that count have thirty trials. Networks have successive halving: many trials learn few of the newest sessions,
the best ones learn more, and the best of these all. A trial is a line of trials.csv; a stopped study continues.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.utils import instantiate

from experiments.rivals.fitting import Network
from experiments.rivals.spaces import settings_of
from experiments.studying import append_rows, composed, data_of, read_rows, sized
from segue.callbacks.ranking_metrics import RankingMetrics
from segue.callbacks.run_context import RunContext
from segue.catalog import Catalog, Vocabulary
from segue.datamodules.pair_datamodule import PairDataModule
from segue.histories import Histories
from segue.statistics.ranking import accuracy

DATA = "nowplaying_sessions"
TRIALS = Path(__file__).with_name("trials.csv")
LINEAR = ("context=session", "model.min_plays=20")
"""Of models with a dense matrix of the tracks that they rank."""
SAMPLED = sized(2048, 64)
"""Candidates of the softmax of a network."""
WITHOUT = ("artist", "model.artist_weight")
"""Settings of the study of rivals that need artists, which this data does not have."""


class Stage(NamedTuple):
    """A stage of halving.

    Args:
        trials: how many are trained; in later stages those that were best in the one before.
        share: they learn one of so many training sessions, the newest.
        epochs: of each; of the last stage at most.
    """

    trials: int
    share: int = 1
    epochs: int = 1


class Tried(NamedTuple):
    """A rival with trials.

    Args:
        model: its name in the study of rivals.
        library: of a network; None for a model that counts.
        words: of a model that counts.
        stages: of its trials.
        first: settings that are tried first; the others are drawn.
    """

    model: str
    library: str | None = None
    words: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = (Stage(sized(30, 2)),)
    first: tuple[str, ...] = ("",)


HALVING = sized((Stage(6, 4), Stage(2), Stage(1, epochs=4)), (Stage(2, 2, 1), Stage(1, 1, 1)))
MODELS: Mapping[str, Tried] = {
    "rules, tuned": Tried("rules, session", words=("model=rules", "context=session")),
    "item-kNN, tuned": Tried("item-kNN, session", words=("model=neighbours", "context=session")),
    "stan, tuned": Tried("STAN", words=("model=stan", "context=session")),
    "vstan, tuned": Tried("VSTAN", words=("model=vstan", "context=session")),
    "ease, tuned": Tried("EASE", words=("model=ease", *LINEAR)),
    "slist, tuned": Tried("SLIST", words=("model=slist", *LINEAR)),
    "GRU4Rec of RecBole": Tried(
        "GRU4Rec",
        library="recbole",
        stages=HALVING,
        first=(
            "",
            "temperature=0.1 dropout=0.2513 lr=0.001737 hidden=128",
            "temperature=0.07 dropout=0.3552 lr=0.002392 hidden=256",
        ),
    ),
    "SASRec of RecTools": Tried(
        "SASRec",
        library="rectools",
        stages=HALVING,
        first=(
            "",
            "temperature=0.1 dropout=0.142 lr=0.002882 blocks=1 heads=2 batch=64",
            "temperature=0.1 dropout=0.03411 lr=0.003039 blocks=2 heads=2 batch=32",
        ),
    ),
}
"""By name of the table. Of a network the settings of the library come first, then those chosen on yes and polimi."""


def words_of(files: str) -> list[str]:
    """The words that read one of the two files."""
    return [f"datamodule={DATA}", f"datamodule.files.pattern={files}.txt.gz"]


@cache
def the_data() -> tuple[PairDataModule, RankingMetrics]:
    """The training file in splits, and its queries."""
    config = composed("train", *words_of("train"), "model=rules", "context=session", "run_dir=unused")
    data = data_of(config)
    return data, instantiate(config.callbacks.ranking, _convert_="all")(RunContext(datamodule=data))


def settings(name: str, number: int) -> tuple[str, ...]:
    """The settings of a trial."""
    tried = MODELS[name]
    if number < len(tried.first):
        return tuple(tried.first[number].split())
    drawn = settings_of("nowplaying", tried.model, number)
    return tuple(one for one in drawn if one.split("=")[0] not in WITHOUT)


def _ranker(words: list[str]) -> Any:
    config = composed("train", *words_of("train"), *words, "run_dir=unused")
    return instantiate(config.ranker, _convert_="all")


def network(vocabulary: Vocabulary) -> Network:
    """A network that has learned nothing."""
    return Network(vocabulary=vocabulary, **_ranker(["model=rules", "context=session"]).keywords)


def _newest(vocabulary: Vocabulary, share: int) -> Vocabulary:
    """The newest sessions alone, one of so many."""
    sessions = np.unique(vocabulary.listens.session)
    first = sessions[len(sessions) - len(sessions) // share]
    return replace(vocabulary, listens=vocabulary.listens.where(vocabulary.listens.session >= first))


def _score(ranker: Any) -> float:
    ranking = the_data()[1]
    return float(accuracy(ranking.chosen_ranks(ranker, ranking.queries["val"]))["ndcg_at_10"].mean())


def _asked(name: str, number: int, epochs: int, seed: int = 1) -> dict[str, Any]:
    own = dict(one.split("=") for one in settings(name, number))
    return {**own, "sampled": SAMPLED, "seed": seed, "max_epochs": epochs}


def _try(name: str, number: int, stage: Stage) -> dict[str, Any]:
    """Fit a trial, and validate it."""
    data, ranking = the_data()
    tried, vocabulary = MODELS[name], data.vocabulary
    epoch, began = 1, time.process_time()
    if tried.library is None:
        ranker = _ranker([*tried.words, *settings(name, number)])(vocabulary=vocabulary)
        ranker.on_train_start()  # counts
        fit_s = time.process_time() - began
    else:
        ranker = network(_newest(vocabulary, stage.share))
        histories = {"val": data.histories(ranking.queries["val"])}
        asked = _asked(name, number, stage.epochs)
        found = ranker.train_library(tried.library, asked, histories, lambda: _score(ranker))
        epoch, fit_s = 1 + int(found["curve"][:, 1].argmax()), float(found["fit_s"])
    value = _score(ranker)
    return {"val_ndcg_at_10": value, "epoch": epoch, "fit_s": round(fit_s, 1), "decided": json.dumps(ranker.decided())}


def chosen(name: str, commit: Callable[[], str]) -> dict[str, str]:
    """Fit the trials of a model that are missing.

    Args:
        name: of MODELS.
        commit: what is written beside a trial.

    Returns:
        The line of the best trial of the last stage.
    """
    numbers = list(range(MODELS[name].stages[0].trials))
    lines: dict[int, dict[str, str]] = {}
    for place, stage in enumerate(MODELS[name].stages):
        for number in numbers[: stage.trials]:
            key = {"model": name, "stage": str(place), "trial": str(number)}
            known = [row for row in read_rows(TRIALS) if key.items() <= row.items()]
            if not known:
                with torch.inference_mode():
                    line = {**key, **_try(name, number, stage)}
                line |= {"settings": " ".join(settings(name, number)), "commit": commit()}
                append_rows(TRIALS, [line])
                known = [{key: str(value) for key, value in line.items()}]
                print(name, place, number, f"{line['val_ndcg_at_10']:.4f}", flush=True)
            lines[number] = known[-1]
        numbers = sorted(numbers[: stage.trials], key=lambda one: -float(lines[one]["val_ndcg_at_10"]))
    return lines[numbers[0]]


def final_network(
    name: str, seed: int, best: Mapping[str, str], histories_of: Callable[[Catalog, np.ndarray], Histories]
) -> tuple[Network, Vocabulary, float]:
    """Train a network on all sessions, for as many epochs as the best trial.

    Args:
        name: of MODELS.
        seed: of the training.
        best: the line of its best trial.
        histories_of: looks up the queries of the test, given the tracks and their plays.

    Returns:
        The network, the tracks that it knows, and processor time of its training in s.
    """
    vocabulary, library = the_data()[0].as_training().vocabulary, MODELS[name].library
    assert library is not None, "a model that counts is trained by train.py"
    ranker = network(vocabulary)
    ranker.decide(json.loads(best["decided"]))
    histories = {"test": histories_of(vocabulary.catalog, vocabulary.plays)}
    asked = _asked(name, int(best["trial"]), int(best["epoch"]), seed)
    found = ranker.train_library(library, asked, histories, None)
    return ranker, vocabulary, float(found["fit_s"])
