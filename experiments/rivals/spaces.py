"""What is compared in `study.py`: data, models, and the settings among which the trials of a model are drawn."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.studying import SMALL_WORLD, sized

ARTISTS = [0.0, 0.03, 0.1, 0.3, 1.0, 3.0]
"""Weights of the same artist, so that rivals know what convex knows; 0 is the method of the papers."""
SMALL_ARTISTS = [0.0, 0.001, 0.003, 0.01, 0.03, 0.1]
"""The same where scores are weights of a linear model."""
DECAYS = ["null", 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]


@dataclass(frozen=True, kw_only=True)
class Log:
    """A number whose logarithm is drawn uniformly from an interval.

    Args:
        low: above 0.
        high: above `low`.
    """

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the study.

    Args:
        kind: `counting` (counted in the process of the study), `head` (trained by `train.py`), or the name of a library
            with a Python of its own.
        words: for `train.py`.
        space: settings that are searched: a list of choices, an interval `(low, high)`, or `Log`.
        of_data: words that only one data set needs.
        is_ours: whether it is a head of Segue.
        is_random: whether it is trained with several seeds.
    """

    kind: str = "counting"
    words: tuple[str, ...] = ()
    space: Mapping[str, Any] = field(default_factory=dict)
    of_data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_ours: bool = False
    is_random: bool = False

    @property
    def is_network(self) -> bool:
        """Whether it is trained in a Python of its own."""
        return self.kind not in ("counting", "head")


DATA: Mapping[str, tuple[str, ...]] = sized(
    {"yes": ("datamodule=yes",), "polimi": ("datamodule=polimi",)},
    {"world": ("datamodule=simulated", *SMALL_WORLD, "datamodule.prepare.sessions=500")},
)
"""Words for `train.py` by name of the data."""

_SESSION: Mapping[str, Any] = {
    "loss.temperature": Log(low=0.1, high=0.3),
    "model.dim": [64, 128, 256],
    "model.dropout": (0.0, 0.6),
    "model.order_std": [0.0, 0.1],
    "optimizer.lr": Log(low=0.003, high=0.03),
    "context.earlier": ["learned", 1.0],
}
_VOTES = {"model.num_neighbours": [50, 100, 200, 500, 1000, 1500], "model.sample_size": [500, 1000, 2500, 5000, 10000]}
_LINEAR = {"polimi": ("model.min_plays=2",)}  # 12,565 tracks were played once or more, 8,874 twice or more
_RULES: Mapping[str, Any] = {
    "model.window": list(range(1, 21)),
    "model.decay": ["inverse", 0.7, 0.8, 0.9, 1.0],
    "model.reverse_weight": (0.0, 1.0),
    "model.artist_weight": ARTISTS,
}
_NETWORK: Mapping[str, Any] = {"artist": [1], "temperature": [0.0, 0.07, 0.1, 0.14, 0.2], "dropout": (0.0, 0.6)}
"""The artist is known to the networks, as it is to convex; only the first trial, the library's own, is without it."""
_ATTENTION: Mapping[str, Any] = {
    **_NETWORK, "lr": Log(low=1e-3, high=1e-2), "blocks": [1, 2], "heads": [1, 2], "batch": [32, 64, 128]
}  # fmt: skip
_RECURRENT: Mapping[str, Any] = {**_NETWORK, "lr": Log(low=1e-3, high=1e-2), "hidden": [64, 128, 256]}

_LAST = ("context=last", "context.max_length=20", "context.repeats=auto")
"""One track decides, and the tracks of the session are known to the rule for tracks already heard alone."""


def _convex(*context: str, **space: Any) -> Model:
    of_data = {"world": ("recipe=playlists",)}
    return Model(kind="head", words=("model=convex", *context), of_data=of_data, is_ours=True, is_random=True, **space)


MODELS: Mapping[str, Model] = {
    "popular": Model(words=("model=popular", "context=session")),
    "rules, last track": Model(words=("model=rules", *_LAST), space=_RULES),
    "rules, session": Model(words=("model=rules", "context=session"), space={**_RULES, "context.decay": (0.3, 1.0)}),
    "item-kNN, session": Model(
        words=("model=neighbours", "context=session"),
        space={
            "model.shrinkage": Log(low=0.1, high=100),
            "model.norm_power": (0.0, 1.0),
            "model.length_power": (0.0, 1.0),
            "model.artist_weight": SMALL_ARTISTS,
            "context.decay": (0.3, 1.0),
        },
    ),
    "VSKNN": Model(
        words=("model=vsknn",),
        space={
            **_VOTES,
            "model.position_decay": ["linear", 1.0, 2.0, 4.0, 8.0, "null"],
            "model.match_decay": ["inverse", "linear", "null"],
            "model.idf": [0.0, 1.0, 2.0, 5.0, 10.0],
            "model.artist_weight": ARTISTS,
        },
    ),
    "STAN": Model(
        words=("model=stan",),
        space={
            **_VOTES,
            "model.position_decay": DECAYS,
            "model.recency": ["null", 1000, 5000, 20000],
            "model.place_decay": DECAYS,
            "model.artist_weight": ARTISTS,
        },
    ),
    "VSTAN": Model(
        words=("model=vstan",),
        space={
            **_VOTES,
            "model.position_decay": DECAYS,
            "model.recency": ["null", 1000, 5000, 20000],
            "model.place_decay": DECAYS,
            "model.match_decay": ["null", 1.0, 2.0, 4.0, 8.0],
            "model.idf": [0.0, 1.0, 2.0, 5.0, 10.0],
            "model.artist_weight": ARTISTS,
        },
    ),
    "EASE": Model(
        words=("model=ease",),
        space={"model.regularization": Log(low=10, high=3000), "model.artist_weight": SMALL_ARTISTS},
        of_data=_LINEAR,
    ),
    "SLIST": Model(
        words=("model=slist",),
        space={
            "model.share": [0.2, 0.4, 0.6, 0.8],
            "model.self_weight": ["null", 0.0],
            "model.regularization": Log(low=1, high=1000),
            "model.normalise": ["true", "false"],
            "model.place_decay": DECAYS,
            "model.query_decay": DECAYS,
            "model.artist_weight": SMALL_ARTISTS,
        },
        of_data=_LINEAR,
    ),
    "SASRec": Model(kind="rectools", space=_ATTENTION, is_random=True),
    "GRU4Rec": Model(kind="recbole", space=_RECURRENT, is_random=True),
    "convex, default": _convex("context=session"),
    "convex, session": _convex("context=session", space=_SESSION),
    "convex, last track": _convex(*_LAST),
}
"""Models by name. The settings that `conf/` has are the first trial of each."""


def settings_of(data: str, model: str, trial: int) -> tuple[str, ...]:
    """The words of a trial. Trial 0 has none: it has the settings of `conf/`.

    Args:
        data: name of the data.
        model: name of the model.
        trial: number of the trial.

    Returns:
        `name=value` for each setting of its space.
    """
    if not trial:
        return ()
    rng = np.random.default_rng(zlib.crc32(f"{data} {model} {trial}".encode()))
    return tuple(f"{name}={_drawn(choices, rng)}" for name, choices in MODELS[model].space.items())


def _drawn(choices: Any, rng: np.random.Generator) -> str:
    if isinstance(choices, list):
        return str(choices[rng.integers(len(choices))])
    if isinstance(choices, Log):
        return f"{float(np.exp(rng.uniform(np.log(choices.low), np.log(choices.high)))):.4g}"
    low, high = choices
    return f"{rng.uniform(low, high):.4g}"
