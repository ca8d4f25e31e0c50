"""Segue: from listening logs to recommendations of the next track, and to a verdict on them.

import segue

plays = segue.read_plays("plays.csv")
model = segue.fit(plays, model="convex", context="session", seed=1)
model.next("track:1", k=10)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.api.experiments import ABTest, ModelComparison, Simulation, abtest, compare, simulate
    from segue.api.fitting import Evaluation, Recommender, fit, load
    from segue.api.plays import Description, Plays, read_plays
    from segue.errors import InputError

__version__ = "0.1.0"

_HOME = {
    "segue.api.plays": ("Description", "Plays", "read_plays"),
    "segue.api.fitting": ("Evaluation", "Recommender", "fit", "load"),
    "segue.api.experiments": ("ABTest", "ModelComparison", "Simulation", "abtest", "compare", "simulate"),
    "segue.errors": ("InputError",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ABTest",
    "Description",
    "Evaluation",
    "InputError",
    "ModelComparison",
    "Plays",
    "Recommender",
    "Simulation",
    "__version__",
    "abtest",
    "compare",
    "fit",
    "load",
    "read_plays",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """Import what is used: torch, pandas and MLflow come with it, and not with `import segue`."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'segue' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
