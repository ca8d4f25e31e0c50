"""Segue: from listening logs to recommendations of the next track, and to a verdict on them.

The package `segue` is the folder `src/`.

Examples:
    >>> import segue
    >>> plays = segue.read_plays("examples/plays.csv")
    >>> model = segue.fit(plays, model="convex", context="session", seed=1)
    >>> session = plays.tracks[:3]
    >>> len(model.next(session, k=10))
    10
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.errors import InputError
    from segue.verbs.api.experiments import ABTest, ModelComparison, Simulation, abtest, compare, simulate
    from segue.verbs.api.fitting import Evaluation, Recommender, fit, load
    from segue.verbs.api.plays import Description, Plays, read_plays

__version__: str

_HOME = {
    "segue.verbs.api.plays": ("Description", "Plays", "read_plays"),
    "segue.verbs.api.fitting": ("Evaluation", "Recommender", "fit", "load"),
    "segue.verbs.api.experiments": ("ABTest", "ModelComparison", "Simulation", "abtest", "compare", "simulate"),
    "segue.errors": ("InputError",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [  # noqa: RUF022  in the order in which they are used, which is that of the reference
    "read_plays",
    "Plays",
    "Description",
    "fit",
    "load",
    "Recommender",
    "Evaluation",
    "compare",
    "ModelComparison",
    "simulate",
    "Simulation",
    "abtest",
    "ABTest",
    "InputError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import what is used: torch, pandas and MLflow come with it, and not with `import segue`."""
    if name == "__version__":  # in a clone git knows it
        from segue.runs.provenance import segue_version

        return segue_version()
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'segue' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
