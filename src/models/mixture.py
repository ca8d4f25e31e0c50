"""A mixture of finished runs: a weighted sum of their scores, with weights that are fitted to validation queries.

M members, Q queries, B queries of a block, N tracks, K candidates of a list, C candidates of a fit.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

from segue.catalog import Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.module import PART, OneStep
from segue.models.contracts import Context, Rated
from segue.models.counted import MOST_QUERIES, Counted, add_counts, blocks_of, sample_of
from segue.models.fitted import FittedModel
from segue.models.ranker import Ranker, Scoring
from segue.models.restoring import CHECKPOINT, lists_of_vectors
from segue.models.retrieval.lists import ListSearch
from segue.models.retrieval.ranks import block_size
from segue.picking.counted_scores import UNIT
from segue.runs.counted_part import CountedPart
from segue.runs.session_vectors import CONTEXTS, MAX_LENGTH, MAX_PARTS, MAX_WIDTH, SessionVectors
from segue.settings import Setting, settings

_MOST_CANDIDATES = 20
_LEAST_NATS = 1.0  # of the likelihood, for one more weight (Akaike)


@settings("model")
class Members:
    """The runs of a mixture.

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: fewer than two runs are named.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        models: Annotated[
            Mapping[str, str] | Sequence[str] | None,
            Setting("folders of finished runs of the same data, by names of your choice"),
        ] = None,
    ) -> None:
        if not isinstance(models, Mapping) or len(models) < 2:
            raise InputError(
                f"model.models must give two finished runs or more, each with a name, got {models}; such as "
                "'model.models={convex: outputs/convex, vstan: outputs/vstan}'"
            )
        self.folders = {str(name): Path(str(folder)).absolute() for name, folder in models.items()}
        self._vocabulary = vocabulary

    def read(self, name: str) -> Ranker:
        """The model of a run, which learned the sessions of the vocabulary: the tested one, or the refitted one.

        Raises:
            InputError: the run cannot be read, or learned other sessions.
        """
        keys, plays = self._vocabulary.catalog.keys, self._vocabulary.plays
        for evaluated in (True, False):
            found = FittedModel.read(self.folders[name], name, evaluated=evaluated)
            if np.array_equal(found.catalog.keys, keys) and np.array_equal(found.plays, plays):
                return found.ranker
        raise InputError(
            f"model.models.{name}={self.folders[name]} was trained on other sessions than those of this command; name "
            "the same datamodule= and its settings, and runs that are refitted if the mixture is"
        )

    def digest(self, name: str) -> str:
        """A digest of the model of a run that was tested."""
        with (self.folders[name] / CHECKPOINT).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class Mixture(OneStep):
    """Mixes finished runs: the score of a track is `Σ weight · score of each run`, with what is counted around the sum.

    The score of a head, without its own counted part, is the logarithm of a probability, plus a constant. That of a
    model that counts is what its share adds as a counted part (`picking/counted_scores.py`): tracks that it has never
    seen after the session get 0. The sum of heads is a head, of longer vectors, and a service answers it with the
    session as the query.

    The weights are those of maximum likelihood among the best tracks of validation queries. A run that adds less than
    one nat to the likelihood is dropped, the least useful first. A refit mixes the refitted models of the runs that are
    left, with the same weights.

    Args:
        vocabulary: the catalogue and what the training data shows of it.
        model: factory of the members; takes the vocabulary.
        context: factory of the context, which is the last track; takes the vocabulary and the names of parts.
        counted: factory of the part that is counted around the sum, or None; takes the vocabulary.

    Raises:
        InputError: the model is another one, or the context has settings, which nothing would read.

    Attributes:
        weights: of each member that is used, by name; their sum is 1.
        gains: how many nats each adds to the likelihood that the weights are fitted by; none if it is alone.
    """

    temperature = 1.0  # scores are logarithms of probabilities

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        model: Any,
        context: Callable[..., Context],
        counted: Callable[[Vocabulary], Counted] | None = None,
    ) -> None:
        super().__init__()
        self._members = model(vocabulary)
        if not isinstance(self._members, Members):
            raise InputError("recipe=mixture is for model=mixture; leave recipe= out")
        self.context: Context = build("context", lambda words: context(words, [PART], learns=False), vocabulary)
        if not self.context.is_last or self.context.max_length:
            raise InputError(
                "the runs of model=mixture have contexts of their own, and it is served by the last track; use "
                "context=last, without context.*"
            )
        self.order = vocabulary.popularity
        self.counts: Counted | None = None if counted is None else build("counted", counted, vocabulary)
        self._digests: dict[str, str] = {}
        self.weights: dict[str, float] = {}
        self.gains: dict[str, float] = {}

    @cached_property
    def rankers(self) -> dict[str, Ranker]:
        """The models by name; without those that were dropped, if it is read again.

        Raises:
            InputError: a run cannot be read, or has another model than the mixture has weighted.
        """
        found = {name: self._members.read(name) for name in self.weights or self._members.folders}
        for name in found:
            digest = self._members.digest(name)
            if self._digests.setdefault(name, digest) != digest:
                raise InputError(
                    f"model.models.{name}={self._members.folders[name]} has another model than this mixture has "
                    "weighted; train the mixture again"
                )
        return found

    def on_fit_start(self) -> None:
        """Read the runs. Before the weights are fitted, all weigh alike."""
        alike = dict.fromkeys(self.rankers, 1 / len(self.rankers))  # a refit is refused here if a run has none
        self.weights = self.weights or alike

    @property
    def counted(self) -> CountedPart | None:
        """What is counted and added to the sum, once it is chosen."""
        return None if self.counts is None else self.counts.part(self.temperature)

    @property
    def parts(self) -> list[Any]:
        """What is counted around the sum, and the rule of its context, which has nothing to decide."""
        return super().parts + ([] if self.counts is None else [self.counts])

    @property
    def _is_last(self) -> bool:
        return all(self.rankers[name].context.is_last for name in self.weights)

    def by_previous(self, every: bool) -> bool:
        """Whether all runs look at the previous track alone."""
        return all(self.rankers[name].by_previous(every) for name in self.weights)

    def scoring(self, *, every: bool = False, alone: bool = False) -> Scoring:
        """Prepare the weighted sum of the scores of the runs, with what is counted around them."""
        each, part, is_last = self._scoring_of_each(every), None if alone else self.counted, self._is_last

        def score(histories: Histories) -> Float[Tensor, "B N"]:
            mixed = torch.stack([self.weights[name] * of(histories) for name, of in each.items()]).sum(0)
            if part is None:
                return mixed
            return add_counts(mixed, part, Histories.of_tracks(histories.previous) if is_last else histories)

        return score

    def _scoring_of_each(self, every: bool = False) -> dict[str, Scoring]:
        return {name: _scoring_of(self.rankers[name], every) for name in self.weights}

    def session_vectors(self) -> SessionVectors | None:
        """The vectors of all runs, side by side, with what is counted; None where the session cannot be the query."""
        found = {name: self.rankers[name].session_vectors() for name in self.weights}
        if why_not_side_by_side(found):
            return None
        by = {name: weight / (self.rankers[name].temperature or 1.0) for name, weight in self.weights.items()}
        return side_by_side({name: one for name, one in found.items() if one is not None}, by, self.counted)

    def lists(self, k: int, rows: Int64[np.ndarray, "Q"] | None = None, *, recall: float | None = None) -> ListSearch:
        """Prepare a search for lists: of heads as of one head with longer vectors, and otherwise exact."""
        if (vectors := self.session_vectors()) is None:
            return super().lists(k, rows)
        return lists_of_vectors(vectors, self.order, k, rows, recall=recall)

    def fit_to(self, histories: Histories, following: Int64[np.ndarray, "Q"], rated: Rated | None = None) -> None:  # noqa: ARG002
        """Fit the weights, drop members that add nothing, and choose what is counted around them.

        The weights stay as they are where no next track is among the best.
        """
        if not len(following):
            return
        queries, at_once = sample_of(histories, following, MOST_QUERIES), min(256, block_size(len(self.order)))
        each = list(self._scoring_of_each().values())
        candidates = np.concatenate([self._candidates(each, *some) for some in blocks_of(*queries, at_once)])
        if len(candidates):
            self.weights, self.gains = weights_and_gains(candidates, list(self.weights))
        if (counts := self.counts) is not None:
            score, is_last = self.scoring(alone=True), self._is_last
            counts.choose(
                lambda: ((score(some), some, of) for some, of in blocks_of(*queries, at_once)), is_last=is_last
            )

    def _candidates(
        self, each: Sequence[Scoring], histories: Histories, following: Int64[np.ndarray, "B"]
    ) -> Float64[np.ndarray, "b C M"]:
        """The scores by each member of the track that followed, which is the first one, and of the best others.

        Queries are left out whose track is none of the best, if all members weigh alike. A fit to them would ask which
        model gives some probability to everything, and not which one knows what belongs at the top.
        """
        scores = torch.stack([score(histories) for score in each])
        rows, num = torch.from_numpy(following)[:, None], min(_MOST_CANDIDATES, len(self.order) - 1)
        mean = self.among_candidates(scores.mean(0), histories, None)
        kept = (mean.gather(1, rows) >= mean.topk(num).values[:, -1:])[:, 0]
        best = mean.scatter_(1, rows, torch.inf).topk(num).indices
        return np.asarray(scores.gather(2, best.expand(len(scores), -1, -1)).permute(1, 2, 0)[kept].double().numpy())

    def on_validation_epoch_end(self) -> None:
        """Log weight and gain of each member."""
        values = {f"weight_{name}": self.weights.get(name, 0.0) for name in self._members.folders}
        values |= {f"nats_{name}": gain for name, gain in self.gains.items()}
        values |= {} if self.counts is None else self.counts.logged()
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})

    def describe(self) -> list[str]:
        """A line for each member, and how the mixture is served."""
        says = dict.fromkeys(self._members.folders, "dropped, it adds less than one nat")
        for name, weight in self.weights.items():
            says[name] = f"weight {weight:.3f}, {self.gains.get(name, 0.0):.1f} nats of the likelihood"
        why = why_not_side_by_side({name: self.rankers[name].session_vectors() for name in self.weights})
        why = why or "so are its runs" * self._is_last
        how = f"by the lists of the last track: {why}" if why else "with the session as the query"
        lines = [f"mixture      {name}: {how_much}" for name, how_much in says.items()]
        return [*lines, *super().describe(), f"served       {how}"]

    def decided(self) -> dict[str, Any]:
        """What validation decided: the weights, and how much counts."""
        return super().decided() | {"weights": self.weights, "gains": self.gains}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take it from another model."""
        super().decide(decided)
        self.weights, self.gains = dict(decided["weights"]), dict(decided["gains"])

    def get_extra_state(self) -> dict[str, Any]:
        """Return weights and counts for a checkpoint, and where the runs are and what they had."""
        folders, part = {name: str(folder) for name, folder in self._members.folders.items()}, self.counted
        table = {name: torch.from_numpy(one) for name, one in (part.arrays() if part is not None else {}).items()}
        return {**self.decided(), "folders": folders, "digests": self._digests, "table": table}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.decide(state)
        self._digests = dict(state["digests"])
        self._members.folders = {name: Path(folder) for name, folder in state["folders"].items()}
        table = {name: one.numpy(force=True) for name, one in state["table"].items()}
        part = CountedPart.of_arrays(table, num_tracks=len(self.order), max_length=MAX_LENGTH)
        if self.counts is not None and part is not None:
            self.counts.tables[None] = part


def _scoring_of(ranker: Ranker, every: bool) -> Scoring:
    """The scores of a run without its own counted part, as logarithms of probabilities, plus a constant."""
    unit = ranker.temperature
    if ranker.scorer is None and unit is None:  # a model that counts
        return lambda histories: ranker.shares(histories, every=every).div_(UNIT).log1p_()
    of = ranker.scoring(every=every, alone=True)
    if unit is None:
        raise InputError("a run of model=mixture has scores that are no probabilities; train it with loss=softmax")
    return lambda histories: of(histories).div_(unit)


def why_not_side_by_side(models: Mapping[str, SessionVectors | None]) -> str:
    """Why the session cannot be the query of some models together; empty if it can.

    Args:
        models: their vectors, by name; None for a model without.
    """
    if others := [name for name, one in models.items() if one is None or one.listener is not None]:
        return f"{' and '.join(others)} without vectors of the session alone"
    some = [one for one in models.values() if one is not None]
    if len({(one.max_length, one.skipped) for one in some}) > 1:
        return "its runs differ in context.max_length or context.skipped"
    if len({len(one.boosts) for one in some}) > 1 and any(len(one.artist_boosts) for one in some):
        return "its runs differ in the rule for tracks heard, and boost artists"
    parts, width = sum(len(one.parts) for one in some), sum(one.items.shape[1] for one in some)
    is_large = parts > MAX_PARTS or width > MAX_WIDTH
    return f"{parts} parts and {width} columns are more than {MAX_PARTS} or {MAX_WIDTH}" * is_large


def side_by_side(
    models: Mapping[str, SessionVectors], weights: Mapping[str, float], counted: CountedPart | None = None
) -> SessionVectors:
    """The vectors of models whose score is the weighted sum of their scores.

    Args:
        models: by name, of the same tracks, with vectors alone.
        weights: of the score of each, by name.
        counted: what is added to the sum.
    """
    some, by = list(models.values()), [np.float32(weights[name]) for name in models]
    ends = [int(one.ends[-1]) for one in some]
    first = [sum(ends[:nth]) for nth in range(len(ends))]

    def columns(tables: Sequence[np.ndarray]) -> np.ndarray:
        """Those of the parts, then those after them."""
        halves = [np.hsplit(table, [end]) for table, end in zip(tables, ends, strict=True)]
        return np.hstack([half[nth] for nth in range(2) for half in halves])

    def summed(boosts: Sequence[np.ndarray]) -> np.ndarray:
        length = max(map(len, boosts))
        of_each = [weight * np.pad(one, (0, length - len(one))) for one, weight in zip(boosts, by, strict=True)]
        return np.asarray(np.stack(of_each).sum(0))

    orders = [
        replace(own, first=start + own.first) for one, start in zip(some, first, strict=True) for own in one.orders
    ]
    ages = np.concatenate([one.age_weights for one in some])
    return SessionVectors(
        queries=columns([one.queries for one in some]),
        items=columns([weight * one.items for one, weight in zip(some, by, strict=True)]),
        parts=tuple(f"{name}_{part}" for name, one in models.items() for part in one.parts),
        ends=np.concatenate([start + one.ends for one, start in zip(some, first, strict=True)]),
        shares=np.full(len(ages), np.nan, np.float32),
        age_weights=ages,
        skipped=some[0].skipped,
        boosts=summed([one.boosts for one in some]),
        artist_boosts=summed([one.artist_boosts for one in some]),
        context=max((one.context for one in some), key=CONTEXTS.index),
        counted=counted,
        orders=tuple(orders),
    )


def weights_and_gains(
    candidates: Float64[np.ndarray, "Q C M"], names: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """The weights of the members that add one nat to the likelihood, and how many nats each of them adds.

    Args:
        candidates: as for `fit_weights`.
        names: of the members. The least useful one is left out first.
    """

    def fit(kept: Sequence[str]) -> tuple[Float64[np.ndarray, "M"], float]:
        return fit_weights(candidates[..., [names.index(name) for name in kept]])

    kept = list(names)
    while True:
        weights, nats = fit(kept)
        gains = {one: nats - fit([name for name in kept if name != one])[1] for one in kept if len(kept) > 1}
        least = min(gains, key=gains.__getitem__, default="")
        if not least or gains[least] >= _LEAST_NATS:
            return dict(zip(kept, weights.tolist(), strict=True)), gains
        kept.remove(least)


def fit_weights(values: Float64[np.ndarray, "Q C M"]) -> tuple[Float64[np.ndarray, "M"], float]:
    """Fit the weights of a sum by maximum likelihood among some candidates of each query.

    Among few candidates, the sum of the weights is too small. It does not change the order, and 1 is nearly that of
    maximum likelihood among all tracks.

    Args:
        values: the score of each candidate by each member, of which the first one followed; of one query or more.

    Returns:
        Weights, at least 0, whose sum is 1; and the logarithm of the likelihood, in nats.
    """

    def loss(weights: Float64[np.ndarray, "M"]) -> tuple[float, Float64[np.ndarray, "M"]]:
        logs = log_softmax(values @ weights, axis=1)
        expected = np.einsum("qc,qcm->m", np.exp(logs), values)
        return -float(logs[:, 0].mean()), (expected - values[:, 0].sum(0)) / len(values)

    first = np.full(values.shape[2], 1 / values.shape[2])
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(first))
    weights = found.x if found.x.any() else first
    return weights / weights.sum(), -float(found.fun) * len(values)
