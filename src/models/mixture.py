"""A mixture of finished runs: a weighted sum of their scores, with weights that are fitted to validation queries.

M members, Q queries, B queries of a block, N tracks, K candidates of a list, C candidates of a fit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
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
from segue.models.restoring import lists_of_vectors
from segue.models.retrieval.lists import ListSearch
from segue.models.retrieval.ranks import block_size
from segue.picking.counted_scores import UNIT
from segue.runs.counted_part import CountedPart
from segue.runs.session_vectors import CONTEXTS, MAX_LENGTH, MAX_PARTS, MAX_WIDTH, SessionVectors
from segue.settings import Setting, settings

_MOST_CANDIDATES = 20
_LEAST_WEIGHT = 0.01  # smaller ones are 0


@settings("model")
class Members:
    """The runs of a mixture.

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: fewer than two runs are named.

    Attributes:
        folders: of the runs, by name.
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
        folder, known = self.folders[name], self._vocabulary
        for evaluated in (True, False):
            try:
                found = FittedModel.read(folder, name, evaluated=evaluated)
            except InputError as error:
                raise InputError(f"model.models.{name} must be the folder of a finished run: {error}") from None
            if found.ranker.scorer is not None and found.ranker.temperature is None:
                raise InputError(f"model.models.{name}={folder} has no probabilities; train it with loss=softmax")
            if np.array_equal(found.catalog.keys, known.catalog.keys) and np.array_equal(found.plays, known.plays):
                return found.ranker
        raise InputError(
            f"model.models.{name}={folder} was trained on other sessions than those of this command; name the same "
            "datamodule= and its settings, and runs that are refitted if the mixture is"
        )


class Mixture(OneStep):
    """Mixes finished runs: the score of a track is `Σ weight · score of each run`, with what is counted around the sum.

    The score of a head, without its own counted part, is the logarithm of a probability, plus a constant. That of a
    model that counts is what its share adds as a counted part (`picking/counted_scores.py`): tracks that it has never
    seen after the session get 0. The sum of heads is a head, of longer vectors, and a service answers it with the
    session as the query.

    The weights are those of maximum likelihood among the best tracks of validation queries. A run without a weight is
    dropped. A refit mixes the refitted models of the runs that are left, with the same weights.

    Args:
        vocabulary: the catalogue and what the training data shows of it.
        model: factory of the members; takes the vocabulary.
        context: factory of the context, which is the last track; takes the vocabulary and the names of parts.
        counted: factory of the part that is counted around the sum, or None; takes the vocabulary.

    Raises:
        InputError: the model is another one, or the context has settings, which nothing would read.

    Attributes:
        weights: of each member that is used, by name; their sum is 1.
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
        self.weights: dict[str, float] = {}

    @cached_property
    def rankers(self) -> dict[str, Ranker]:
        """The models by name; without those that were dropped, if it is read again.

        Raises:
            InputError: a run cannot be read.
        """
        return {name: self._members.read(name) for name in self.weights or self._members.folders}

    def on_fit_start(self) -> None:
        """Read the runs. Before the weights are fitted, all weigh alike."""
        alike = dict.fromkeys(self.rankers, 1 / len(self.rankers))  # a refit is refused here if a run has none
        self.weights = self.weights or alike

    @property
    def _is_last(self) -> bool:
        return all(self.rankers[name].context.is_last for name in self.weights)

    def by_previous(self, every: bool) -> bool:
        """Whether all runs look at the previous track alone."""
        return all(self.rankers[name].by_previous(every) for name in self.weights)

    def scoring(self, *, every: bool = False, alone: bool = False) -> Scoring:
        """Prepare the weighted sum of the scores of the runs, with what is counted around them."""
        each = [(weight, _scoring_of(self.rankers[name], every)) for name, weight in self.weights.items()]
        part, is_last = None if alone else self.counted, self._is_last

        def score(histories: Histories) -> Float[Tensor, "B N"]:
            mixed = torch.stack([weight * of(histories) for weight, of in each]).sum(0)
            if part is None:
                return mixed
            return add_counts(mixed, part, Histories.of_tracks(histories.previous) if is_last else histories)

        return score

    def session_vectors(self) -> SessionVectors | None:
        """The vectors of all runs, side by side, with what is counted; None where the session cannot be the query."""
        found, weights = {}, {name: one / (self.rankers[name].temperature or 1) for name, one in self.weights.items()}
        for name in weights:
            if (own := self.rankers[name].session_vectors()) is None or own.listener is not None:
                return None
            found[name] = own
        return side_by_side(found, weights, self.counted)

    def lists(self, k: int, rows: Int64[np.ndarray, "Q"] | None = None, *, recall: float | None = None) -> ListSearch:
        """Prepare a search for lists: of heads as of one head with longer vectors, and otherwise exact."""
        if (vectors := self.session_vectors()) is None:
            return super().lists(k, rows)
        return lists_of_vectors(vectors, self.order, k, rows, recall=recall)

    def fit_to(self, histories: Histories, following: Int64[np.ndarray, "Q"], rated: Rated | None = None) -> None:  # noqa: ARG002
        """Fit the weights, drop members without one, and choose what is counted around them.

        The weights stay as they are where no next track is among the best.
        """
        if not len(following):
            return
        queries = sample_of(histories, following, MOST_QUERIES)
        blocks = partial(blocks_of, *queries, min(256, block_size(len(self.order))))
        each = [_scoring_of(self.rankers[name]) for name in self.weights]
        candidates = np.concatenate([self._candidates(each, *some) for some in blocks()])
        if len(candidates):
            weights = fit_weights(candidates).tolist()
            self.weights = {name: one for name, one in zip(self.weights, weights, strict=True) if one}
        if self.counts is not None:
            score = self.scoring(alone=True)
            self.counts.choose(lambda: ((score(some), some, of) for some, of in blocks()), is_last=self._is_last)

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
        """Log the weight of each member."""
        values = {f"weight_{name}": self.weights.get(name, 0.0) for name in self._members.folders}
        values |= {} if self.counts is None else self.counts.logged()
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})

    def describe(self) -> list[str]:
        """A line for each member, and how the mixture is served."""
        says = dict.fromkeys(self._members.folders, f"dropped, its weight is below {_LEAST_WEIGHT:g}")
        says |= {name: f"weight {weight:.3f}" for name, weight in self.weights.items()}
        lines = [f"mixture      {name}: {how_much}" for name, how_much in says.items()]
        how = "by the lists of the last track: not all of its runs are heads with alike contexts"
        if self.session_vectors() is not None:
            how = "by the lists of the last track, as its runs" if self._is_last else "with the session as the query"
        return [*lines, *super().describe(), f"served       {how}"]

    def decided(self) -> dict[str, Any]:
        """What validation decided: the weights, and how much counts."""
        return super().decided() | {"weights": self.weights}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take it from another model."""
        super().decide(decided)
        self.weights = dict(decided["weights"])

    def get_extra_state(self) -> dict[str, Any]:
        """Return weights and counts for a checkpoint, and where the runs are."""
        folders, part = {name: str(folder) for name, folder in self._members.folders.items()}, self.counted
        table = {name: torch.from_numpy(one) for name, one in (part.arrays() if part is not None else {}).items()}
        return {**self.decided(), "folders": folders, "table": table}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.decide(state)
        self._members.folders = {name: Path(folder) for name, folder in state["folders"].items()}
        table = {name: one.numpy(force=True) for name, one in state["table"].items()}
        part = CountedPart.of_arrays(table, num_tracks=len(self.order), max_length=MAX_LENGTH)
        if self.counts is not None and part is not None:
            self.counts.tables[None] = part


def _scoring_of(ranker: Ranker, every: bool = False) -> Scoring:
    """The scores of a run without its own counted part, as logarithms of probabilities, plus a constant."""
    if (unit := ranker.temperature) is None:  # a model that counts
        return lambda histories: ranker.shares(histories, every=every).div_(UNIT).log1p_()
    of = ranker.scoring(every=every, alone=True)
    return lambda histories: of(histories).div_(unit)


def side_by_side(
    models: Mapping[str, SessionVectors], weights: Mapping[str, float], counted: CountedPart | None = None
) -> SessionVectors | None:
    """The vectors of models whose score is the weighted sum of their scores.

    Args:
        models: by name, of the same tracks.
        weights: of the score of each, by name.
        counted: what is added to the sum.

    Returns:
        None where one query cannot have the contexts of all, or the vectors would be too long for a file.
    """
    each, by = list(models.values()), [np.float32(weights[name]) for name in models]
    artists = any(len(one.artist_boosts) for one in each)
    is_alike = len({(one.max_length, one.skipped, len(one.boosts) * artists) for one in each}) == 1
    sizes = np.sum([(len(one.parts), one.items.shape[1]) for one in each], axis=0)
    if not is_alike or (sizes > (MAX_PARTS, MAX_WIDTH)).any():
        return None
    ends = np.array([one.ends[-1] for one in each])
    first = (ends.cumsum() - ends).tolist()

    def columns(tables: Sequence[np.ndarray]) -> np.ndarray:
        """Those of the parts, then those after them."""
        halves = [np.hsplit(table, [end]) for table, end in zip(tables, ends, strict=True)]
        return np.hstack([half[nth] for nth in range(2) for half in halves])

    def summed(boosts: Sequence[np.ndarray]) -> np.ndarray:
        total = np.zeros(max(map(len, boosts)), np.float32)
        for own, weight in zip(boosts, by, strict=True):
            total[: len(own)] += weight * own
        return total

    return replace(
        each[0],
        queries=columns([one.queries for one in each]),
        items=columns([weight * one.items for one, weight in zip(each, by, strict=True)]),
        parts=tuple(f"{name}_{part}" for name, one in models.items() for part in one.parts),
        ends=np.concatenate([start + one.ends for one, start in zip(each, first, strict=True)]),
        shares=np.full(sum(len(one.parts) for one in each), np.nan, np.float32),
        age_weights=np.concatenate([one.age_weights for one in each]),
        boosts=summed([one.boosts for one in each]),
        artist_boosts=summed([one.artist_boosts for one in each]),
        context=max((one.context for one in each), key=CONTEXTS.index),
        counted=counted,
        orders=tuple(
            replace(own, first=start + own.first) for one, start in zip(each, first, strict=True) for own in one.orders
        ),
    )


def fit_weights(values: Float64[np.ndarray, "Q C M"]) -> Float64[np.ndarray, "M"]:
    """Fit the weights of a sum by maximum likelihood among some candidates of each query.

    Among few candidates, the sum of the weights is too small. It does not change the order, and 1 is nearly that of
    maximum likelihood among all tracks.

    Args:
        values: the score of each candidate by each member, of which the first one followed; of one query or more.

    Returns:
        Weights, whose sum is 1; each is 0 or at least _LEAST_WEIGHT.
    """

    def loss(weights: Float64[np.ndarray, "M"]) -> tuple[float, Float64[np.ndarray, "M"]]:
        logs = log_softmax(values @ weights, axis=1)
        expected = np.einsum("qc,qcm->m", np.exp(logs), values)
        return -float(logs[:, 0].mean()), (expected - values[:, 0].sum(0)) / len(values)

    first = np.full(values.shape[2], 1 / values.shape[2])
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(first)).x
    weights = found / found.sum() if found.any() else first
    if not (kept := weights >= _LEAST_WEIGHT).all():
        weights = np.zeros(len(weights))
        weights[kept] = fit_weights(values[..., kept])
    return weights
