"""Comparisons, simulations and A/B tests from Python: each calls the verb that does the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from segue.errors import InputError
from segue.verbs.abtest import abtest as abtest_verb
from segue.verbs.api.calling import Folder, Result, call, value_of, words_of
from segue.verbs.api.fitting import Recommender
from segue.verbs.compare import compare as compare_verb
from segue.verbs.simulate import simulate as simulate_verb


class ModelComparison(Result):
    """Which model is best, and whether the difference is real: what `compare.py` prints and draws."""

    name = "comparison"

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        return str(self.record["verdict"])

    @property
    def table(self) -> pd.DataFrame:
        """A line for each set-up, best first, with the mean of each metric over its runs."""
        lines = {
            one["setup"]: {name: value["mean"] for name, value in one["metrics"].items()}
            for one in self.record["setups"]
        }
        return pd.DataFrame.from_dict(lines, orient="index")


class Simulation(Result):
    """What simulated listeners played: what `simulate.py` prints. The logs are below `folder`."""

    name = "simulation"

    @property
    def arms(self) -> pd.DataFrame:
        """A line for each arm: sessions and their means."""
        return pd.DataFrame.from_dict(self.record["arms"], orient="index")

    @property
    def logs(self) -> Path:
        """The folder for `segue.abtest` and `segue.read_plays`."""
        return self.folder


class ABTest(Result):
    """The verdict of an A/B test: what `abtest.py` prints and draws."""

    name = "abtest"

    @property
    def verdict(self) -> dict[str, str]:
        """The verdict of each treatment."""
        return dict(self.record["verdicts"])

    @property
    def effects(self) -> pd.DataFrame:
        """A line for each treatment and metric: the effect and its interval."""
        return pd.DataFrame(self.record["effects"])


def compare(
    models: Sequence[Recommender] | Mapping[str, Recommender], *, folder: str | Path | None = None, **options: Any
) -> ModelComparison:
    """Compare fitted models on the same test queries, as `compare.py` does.

    Models that differ in the seed alone are runs of one set-up.

    Args:
        models: two or more models that are fitted to the same plays; a mapping gives them names.
        folder: where the report is written; a temporary folder by default.
        options: of `compare.py`, such as `select="val/ndcg_at_10"` or `metrics=["test/ndcg_at_10"]`.

    Returns:
        The comparison. Validation chooses the best set-up; test metrics are reported.

    Raises:
        InputError: there are fewer than two models, one is not fitted, or they are fitted to different plays.
    """
    if len(models) < 2:
        raise InputError(f"compare needs two models or more, got {len(models)}")
    place = Folder(folder, "comparison")
    return ModelComparison(call(compare_verb, [f"runs={value_of(models)}", *words_of(options)], place)[1], place)


def simulate(arms: Mapping[str, Any], *, folder: str | Path | None = None, **options: Any) -> Simulation:
    """Play recommenders to simulated listeners, as `simulate.py` does.

    Args:
        arms: what is recommended in each arm, by its name: a fitted model, a word such as `popular` or `random`, or
            settings such as `{"recommender": model, "pick": "ranked"}`. A model must be fitted to the tracks of the
            world.
        folder: where the logs are written; a temporary folder by default.
        options: of `simulate.py`, such as `sessions=20000` or `world="small"`.

    Returns:
        The means of each arm, and where the logs are.

    Raises:
        InputError: a recommender or an option cannot be used.
    """
    place = Folder(folder, "simulation")
    return Simulation(call(simulate_verb, [f"arms={value_of(arms)}", *words_of(options)], place)[1], place)


def abtest(logs: str | Path | Simulation | None = None, *, folder: str | Path | None = None, **options: Any) -> ABTest:
    """Analyse an A/B test, as `abtest.py` does.

    Args:
        logs: folder of the event logs, or a simulation; None to simulate `control` and `treatment` first.
        folder: where the report is written; a temporary folder by default.
        options: of `abtest.py`; `control` and `treatment` may be fitted models.

    Returns:
        Effects with intervals, and the verdict.

    Raises:
        InputError: the logs cannot be read, or an option cannot be used.
    """
    place = Folder(folder, "abtest")
    given = logs.logs if isinstance(logs, Simulation) else logs
    words = [] if given is None else [f"logs={value_of(given)}"]
    return ABTest(call(abtest_verb, [*words, *words_of(options)], place)[1], place)
