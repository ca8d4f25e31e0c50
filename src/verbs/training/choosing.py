"""What `recipe=auto` takes: recipes after a short training, and counting models, compared on validation queries.

Q queries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hydra.errors import HydraException
from hydra.utils import instantiate
from jaxtyping import Float64
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from segue.callbacks.query_sample import QuerySample, half_width
from segue.callbacks.run_context import ranker_of
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.sources import ADJUSTED
from segue.errors import InputError
from segue.models.ranker import Ranker
from segue.reports.console import console
from segue.reports.result_table import Table
from segue.runs.folder import as_dict, check_choices
from segue.runs.provenance import CONF
from segue.verbs.training.next_steps import BetterModel

Compose = Callable[[Sequence[str]], DictConfig]
"""From words of the command line to a config."""

_LEAST_SESSIONS = 3  # two have an interval, which is empty where both differences are equal
_SEED = 0
_EPOCHS = 20  # epochs that a full training of a head takes, as a rule
_SHARE, _STEPS = 0.1, 200
"""All short trainings together take this share of the steps of a full one, but at least `_STEPS`; none takes more than
a quarter of a full one."""
_MOST_PLAYS, _MOST_OF_SESSIONS = 20_000_000, 2_000_000
"""Training plays that models count, at most, and those that keep whole sessions: their memory grows with them."""
# Settings of a datamodule that candidates may differ in: its pairs do not depend on them.
_NOT_OF_PAIRS = (*ADJUSTED, "rejected_path", "seed")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What one candidate reached on the validation queries.

    Args:
        words: of the command line that choose it.
        gains: ndcg@10 of each query.
        steps: of its training; 0 for a model that counts.
    """

    words: str
    gains: Float64[np.ndarray, "Q"]
    steps: int = 0


@dataclass(kw_only=True)
class Choice:
    """The candidates that were compared.

    Args:
        session: of each query.
        candidates: those that fit.
        left_out: why the others do not fit, by their words.
    """

    session: np.ndarray
    candidates: list[Candidate] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Candidate:
        """The candidate that is used: the best head, unless a counting model is ahead of it beyond the interval."""
        heads, counting = ([one for one in self._sorted if bool(one.steps) == is_head] for is_head in (True, False))
        if not heads or not counting:
            return self._sorted[0]
        ahead = counting[0].gains - heads[0].gains
        return counting[0] if ahead.mean() > half_width(ahead, self.session) else heads[0]

    @property
    def ranked(self) -> list[Candidate]:
        """The one that is used, then the others, the best first."""
        return [self.best, *(one for one in self._sorted if one is not self.best)]

    @property
    def _sorted(self) -> list[Candidate]:
        return sorted(self.candidates, key=lambda one: -one.gains.mean())

    def table(self) -> Table:
        """The candidates with their numbers, for people."""
        rows = [
            [one.words, f"{one.gains.mean():.4f}", f"{half_width(one.gains, self.session):.4f}",
             f"{one.steps:,}" if one.steps else ""]
            for one in self.ranked
        ]  # fmt: skip
        notes = [f"left out: {', '.join(self.left_out)}; choice.json says why"] if self.left_out else []
        return Table(
            columns=["candidate", "ndcg@10", "±", "steps"],
            rows=rows,
            align="Lrrr",
            title=f"recipe=auto: {len(self.session):,} validation queries, the first is used",
            notes=notes,
        )

    def record(self) -> dict[str, Any]:
        """The same in plain values, for `choice.json`."""
        candidates = [
            {
                "words": one.words,
                "ndcg_at_10": float(one.gains.mean()),
                "half_width": half_width(one.gains, self.session),
                "steps": one.steps,
            }
            for one in self.ranked
        ]
        return {
            "chosen": self.best.words,
            "num_queries": len(self.session),
            "candidates": candidates,
            "left_out": self.left_out,
        }


def _short_run(
    datamodule: PairDataModule, queries: QuerySample, config: DictConfig, words: str, *, num_steps: int
) -> Candidate:
    """Train a candidate for a short time, or count.

    Args:
        datamodule: the data, set up; it gets the settings of the candidate.
        num_steps: steps of a head, at most.

    Returns:
        What it reached at the best of the steps n/8, n/4, n/2 and n.

    Raises:
        InputError: the candidate does not fit the data.
    """
    datamodule.adjust(config.datamodule)
    seed_everything(_SEED, workers=True, verbose=False)
    model = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    checks = _Checks(queries, [max(1, num_steps * part // 8) for part in (1, 2, 4, 8)])
    trainer: Trainer = instantiate(
        config.trainer,
        max_steps=num_steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        callbacks=[checks],
        _convert_="all",
    )
    trainer.fit(model, datamodule.train_dataloader(_SEED), datamodule.val_dataloader())
    return Candidate(words=words, gains=checks.best, steps=0 if model.scorer is None else trainer.global_step)


class _Checks(Callback):
    """Ranks at some steps of a training, and at its end."""

    def __init__(self, queries: QuerySample, steps: Sequence[int]) -> None:
        self._gains, self._fit, self._steps = queries.gains, queries.fit, steps
        self._values: dict[int, np.ndarray] = {}

    @property
    def best(self) -> Float64[np.ndarray, "Q"]:
        return max(self._values.values(), key=np.mean)

    def _check(self, trainer: Trainer, module: LightningModule) -> None:
        module.eval()
        self._fit(ranker_of(module))
        ranker = ranker_of(module)
        self._values[trainer.global_step] = ranker.context.repeats.choose(lambda: self._gains(ranker))
        module.train()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step in self._steps:
            self._check(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step not in self._values:
            self._check(trainer, pl_module)


def choose(datamodule: PairDataModule, config: DictConfig, words: Sequence[str], compose: Compose) -> Choice | None:
    """Compare the candidates of `recipe=auto`.

    Args:
        config: of the run, with the candidates.
        words: of the command line; a candidate does not change what they name.

    Returns:
        The comparison; None where fewer than three validation sessions have queries.

    Raises:
        InputError: no candidate fits.
    """
    given: list[str] = list(config.recipe.candidates)
    if any(word.startswith(_OF_HEADS) for word in words):
        given = [one for one in given if _is_of_a_head(one)]
    candidates = [words_beside(one, words) for one in given]
    key = (datamodule.digest(), *candidates, *(word for word in words if not word.startswith(_OF_A_JOB)))
    if key not in _known:
        _known[key] = _compared(datamodule, config, candidates, words, compose)
    if (choice := _known[key]) is not None and not choice.candidates:
        why = "; ".join(f"{one}: {why}" for one, why in choice.left_out.items())
        raise InputError(f"recipe=auto: no candidate fits ({why}); name a recipe, such as recipe=playlists")
    return choice


# What the jobs of a multirun have chosen: those that differ in the seed choose once.
_known: dict[tuple[str, ...], Choice | None] = {}
_OF_A_JOB = ("seed=", "parent_run_id=", "swept=", "run_name=")
# Beginnings of words that a counting model does not fit.
_OF_HEADS = ("model=", "model.", "loss", "optimizer", "scheduler", "counted", "context=listener")


def rivals_of(datamodule: PairDataModule, config: DictConfig, words: Sequence[str], compose: Compose) -> Choice | None:
    """Count what the counting models among the candidates of `recipe=auto` reach, for a run that names its model.

    Returns:
        The comparison; None where fewer than three validation sessions have queries.
    """
    known = OmegaConf.load(CONF / "recipe" / "auto.yaml").recipe.candidates
    counting = [one for one in known if not _is_of_a_head(one)]
    return _compared(datamodule, config, counting, words_of_data(words), compose)


def better_than(model: Ranker, choice: Choice, datamodule: PairDataModule) -> BetterModel | None:
    """The best counting model of a comparison, if it ranks the queries better than a trained model.

    Returns:
        None where none is better beyond the interval of the difference.
    """
    counting = [one for one in choice.ranked if not one.steps] if choice.candidates else []
    if not counting:
        return None
    best, own = counting[0], QuerySample(datamodule).gains(model)
    ahead = best.gains - own
    if ahead.mean() <= half_width(ahead, choice.session):
        return None
    return BetterModel(words=best.words, ndcg=float(best.gains.mean()), own=float(own.mean()))


def without_auto(words: Sequence[str]) -> list[str]:
    """The words of a command line but those that ask for a comparison."""
    return [word for word in words if word != "recipe=auto" and not word.startswith("recipe.candidates=")]


def words_of_data(words: Sequence[str], *more: str) -> list[str]:
    """The words of a command line that say what is read, and those that begin with `more`."""
    return [word for word in words if word.lstrip("+~").startswith(("datamodule", "trainer.accelerator", *more))]


def words_beside(candidate: str, words: Sequence[str]) -> str:
    """The words of a candidate without those that the command line has."""
    keys = {word.lstrip("+~").partition("=")[0] for word in words} - {"recipe"}
    return " ".join(word for word in candidate.split() if word.partition("=")[0] not in keys)


def _compared(
    datamodule: PairDataModule, config: DictConfig, candidates: Sequence[str], words: Sequence[str], compose: Compose
) -> Choice | None:
    queries = QuerySample(datamodule)
    if len(np.unique(queries.session)) < _LEAST_SESSIONS:
        return None
    choice, fitting = Choice(session=queries.session), {}
    for one in candidates:
        try:
            fitting[one] = _fitting(datamodule, config, one, words, compose)
        except (InputError, HydraException) as error:
            choice.left_out[one] = str(error).splitlines()[0]
    num_batches = -(-len(datamodule.pairs["train"]) // datamodule.batch_size)
    full = min(_EPOCHS, config.trainer.max_epochs) * num_batches
    num_heads = sum(map(_is_of_a_head, fitting))
    num_steps = max(1, min(int(max(_STEPS, _SHARE * full)) // max(1, num_heads), full // 4))
    for one, its_config in fitting.items():
        with console.status(f"comparing {one}"):
            try:
                choice.candidates.append(_short_run(datamodule, queries, its_config, one, num_steps=num_steps))
            except InputError as error:
                choice.left_out[one] = str(error)
    return choice


def _is_of_a_head(candidate: str) -> bool:
    return not candidate.startswith("model=")


def _fitting(
    datamodule: PairDataModule, config: DictConfig, candidate: str, words: Sequence[str], compose: Compose
) -> DictConfig:
    """The config of a candidate.

    Raises:
        InputError: it does not fit the data or the words.
    """
    given = without_auto(words)
    if not _is_of_a_head(candidate):
        given = words_of_data(given, "context=")
    given += candidate.split()
    own = compose(given)
    if not _is_of_a_head(candidate):
        most = _MOST_OF_SESSIONS if ".whole_sessions." in str(own.model.get("_target_")) else _MOST_PLAYS
        if (num_plays := int(datamodule.vocabulary.plays.sum())) > most:
            raise InputError(f"it would count {num_plays:,} training plays, more than {most:,}")
    typed = dict(word.partition("=")[::2] for word in given)
    usual = {"model": "convex", "recipe": "counting", "context": "session"}
    check_choices(own, **{group: typed.get(group, name) for group, name in usual.items()})
    wanted, read = as_dict(own.datamodule), as_dict(config.datamodule)
    if other := [name for name in wanted if name not in _NOT_OF_PAIRS and wanted[name] != read.get(name)]:
        raise InputError(f"it reads other pairs: datamodule.{other[0]}={wanted[other[0]]}")
    if "loss" in own:
        instantiate(own.loss, _convert_="all")(datamodule.vocabulary)  # refuses data without shares, if it needs them
    return own
