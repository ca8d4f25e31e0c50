"""A mixture of finished runs: a weighted sum of their scores, with weights that are fitted to validation queries.

M members, Q queries, B queries of a block, N tracks, V width of a query vector, K candidates of a list, C of a fit.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor

from segue.catalog import Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.module import PART, OneStep
from segue.models.contracts import Context, Rated
from segue.models.counted import MOST_QUERIES, Counted, Query, add_counts
from segue.models.fitted import FittedModel
from segue.models.ranker import Ranker, Scoring
from segue.models.restoring import CHECKPOINT, lists_of_vectors
from segue.models.retrieval.lists import ListSearch
from segue.models.retrieval.ranks import block_size, ndcg, ranks_in
from segue.runs.counted_part import CountedPart
from segue.runs.session_vectors import CONTEXTS, MAX_LENGTH, MAX_PARTS, MAX_WIDTH, SessionVectors
from segue.settings import Setting, settings

_Asked = tuple[Histories, Int64[np.ndarray, "_"]]
"""Some queries: what was heard, and the rows of the tracks that followed."""
_MOST_CANDIDATES = 20
_LEAST_NATS = 1.0  # of the likelihood, for one more weight (Akaike)
_TINY = 1e-30


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

    def read(self, names: Collection[str]) -> dict[str, Ranker]:
        """Those of their models that learned the sessions of the vocabulary: all tested ones, or all refitted ones.

        Args:
            names: of the runs that are read.

        Raises:
            InputError: a run cannot be read, or learned other sessions.
        """
        return {name: self._read(name, folder) for name, folder in self.folders.items() if name in names}

    def digest(self, name: str) -> str:
        """A digest of the model of a run that was tested."""
        with (self.folders[name] / CHECKPOINT).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _read(self, name: str, folder: Path) -> Ranker:
        own = self._vocabulary
        if not (folder / "config.yaml").is_file():
            raise InputError(f"model.models.{name}={folder} has no run; give the folder of a finished run of train.py")
        try:
            for evaluated in (True, False):
                found = FittedModel.read(folder, name, evaluated=evaluated)
                if found.ranker.scorer is not None and found.ranker.temperature is None:
                    raise InputError(f"the scores in {folder} are no probabilities; train it with loss=softmax")
                if np.array_equal(found.catalog.keys, own.catalog.keys) and np.array_equal(found.plays, own.plays):
                    return found.ranker
        except InputError as error:
            raise InputError(f"model.models.{name}: {error}") from None
        raise InputError(
            f"model.models.{name}={folder} was trained on other sessions than those of this command; name the same "
            "datamodule= and its settings, and runs of this version, which are refitted if the mixture is"
        )

    def seconds(self, name: str) -> float:
        """How long a run took; NaN where it does not say."""
        try:
            metrics = json.loads((self.folders[name] / "metrics.json").read_text(encoding="utf-8"))
            return float(metrics["fit_seconds"])
        except (OSError, ValueError, TypeError, LookupError):
            return float("nan")


class Mixture(OneStep):
    """Mixes finished runs.

    Heads add their scores, `log p = Σ weight · log p of each + a constant`: scores are inner products, and so is their
    sum, of longer vectors. Such a mixture is a head: what is counted is added to it and not to each of its runs, and a
    service answers it with the session as the query. With a run that has no session vectors, or knows its listeners,
    the score is `log Σ weight · p of each`.

    The weights are those of maximum likelihood among the best tracks of validation queries. A run that adds less than
    one nat to the likelihood is dropped, the least useful first. A refit mixes the refitted models of the runs that are
    left, with the same weights.

    Args:
        vocabulary: the catalogue and what the training data shows of it.
        model: factory of the members; takes the vocabulary.
        context: factory of the context, which is the last track; takes the vocabulary and the names of parts.
        counted: factory of the part that is counted around heads, or None; takes the vocabulary.

    Raises:
        InputError: the model is another one, or the context has settings, which nothing would read.

    Attributes:
        weights: of each member that is used, by name; their sum is 1.
        gains: what each adds to validation ndcg@10.
        ms_per_query: what each takes to score all tracks for a query.
        dropped: what each that was dropped adds to the logarithm of the likelihood, in nats.
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
        self._vocabulary, self.order = vocabulary, vocabulary.popularity
        self._counts = None if counted is None else build("counted", counted, vocabulary)
        self._digests: dict[str, str] = {}
        self._adds_scores = False
        self.weights: dict[str, float] = {}
        self.gains: dict[str, float] = {}
        self.ms_per_query: dict[str, float] = {}
        self.dropped: dict[str, float] = {}

    @cached_property
    def rankers(self) -> dict[str, Ranker]:
        """The models by name; without those that were dropped, if it is read again.

        Raises:
            InputError: a run cannot be read, or has another model than the mixture has weighted.
        """
        found: dict[str, Ranker] = self._members.read(self.weights or self._members.folders)
        for name in (name for name in found if self._digests.get(name, "") not in ("", self._members.digest(name))):
            raise InputError(
                f"model.models.{name}={self._members.folders[name]} has another model than this mixture has weighted; "
                "train the mixture again"
            )
        return found

    def on_fit_start(self) -> None:
        """Read the runs. Before the weights are fitted, all weigh alike."""
        self._digests |= {name: self._members.digest(name) for name in self.rankers}
        if not self.weights:
            self.weights = dict.fromkeys(self.rankers, 1 / len(self.rankers))
            self._adds_scores = not self._without_session

    @property
    def _without_session(self) -> str:
        """Why the session cannot be the query of the runs that are used; empty if it can."""
        found = {name: self.rankers[name].session_vectors() for name in self.weights}
        lacks = [f"{name} has no session vectors" for name, one in found.items() if one is None]
        vectors = [one for one in found.values() if one is not None]
        lacks += [f"{name} knows its listeners" for name, one in found.items() if one and one.listener is not None]
        if not lacks and len({(one.max_length, one.skipped) for one in vectors}) > 1:
            lacks.append("its runs differ in context.max_length or context.skipped")
        if len({len(one.boosts) for one in vectors}) > 1 and any(len(one.artist_boosts) for one in vectors):
            lacks.append("its runs differ in the rule for tracks heard, and boost artists")
        parts, width = sum(len(one.parts) for one in vectors), sum(one.items.shape[1] for one in vectors)
        if parts > MAX_PARTS or width > MAX_WIDTH:
            lacks.append(f"its vectors have {parts} parts and are {width} wide, more than {MAX_PARTS} or {MAX_WIDTH}")
        return ", ".join(lacks)

    @property
    def counted(self) -> CountedPart | None:
        """What is counted and added to heads, once it is chosen; None where probabilities are mixed."""
        return self._counts.whole(1.0) if self._adds_scores and self._counts is not None else None

    @property
    def _is_last(self) -> bool:
        return all(self.rankers[name].context.is_last for name in self.weights)

    def by_previous(self, every: bool) -> bool:
        """Whether all runs look at the previous track alone."""
        return all(self.rankers[name].by_previous(every) for name in self.weights)

    def scoring(self, *, every: bool = False, alone: bool = False) -> Scoring:
        """Prepare the weighted sum of the scores of the runs, with what is counted around them."""
        each, part = self._scoring_of_each(every), None if alone else self.counted

        def score(histories: Histories) -> Float[Tensor, "B N"]:
            mixed = self._mixed({name: of(histories) for name, of in each.items()}, self.weights)
            if part is None:
                return mixed
            return add_counts(mixed, part, Histories.of_tracks(histories.previous) if self._is_last else histories)

        return score

    def _scoring_of_each(self, every: bool = False) -> dict[str, Scoring]:
        """Of each run the scores divided by their temperature, where they are added; otherwise its probabilities."""

        def scoring(ranker: Ranker) -> Scoring:
            if not self._adds_scores:
                return lambda histories: ranker.shares(histories, every=every)
            of = ranker.scoring(every=every, alone=True)
            return lambda histories: of(histories).div_(ranker.temperature or 1.0)

        return {name: scoring(self.rankers[name]) for name in self.weights}

    def _mixed(self, scores: Mapping[str, Tensor], weights: Mapping[str, float]) -> Float[Tensor, "B N"]:
        total = torch.stack([weight * scores[name] for name, weight in weights.items()]).sum(0)
        return total if self._adds_scores else total.clamp(min=_TINY).log()

    def session_vectors(self) -> SessionVectors | None:
        """The vectors of all runs, side by side, with what is counted; None where probabilities are mixed."""
        if not self._adds_scores:
            return None
        used = {name: weight for name, weight in self.weights.items() if weight}
        by = {name: weight / (self.rankers[name].temperature or 1.0) for name, weight in used.items()}
        found = {name: self.rankers[name].session_vectors() for name in by}
        vectors, part = side_by_side({name: one for name, one in found.items() if one is not None}, by), self.counted
        if part is not None and vectors.context == "last":
            part = replace(part, age_weights=part.age_weights[:1])
        return replace(vectors, counted=part)

    def lists(self, k: int, rows: Int64[np.ndarray, "Q"] | None = None, *, recall: float | None = None) -> ListSearch:
        """Prepare a search for lists: of heads as of one head with longer vectors, and otherwise exact."""
        if (vectors := self.session_vectors()) is None:
            return super().lists(k, rows)
        return lists_of_vectors(vectors, self.order, k, rows, recall=recall)

    def fit_to(
        self,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        rated: Rated | None = None,  # noqa: ARG002 - no shares are predicted
    ) -> None:
        """Fit the weights, and drop members that add nothing; none where no next track is among the best.

        Where only heads are left, their scores are added, and a counted part is chosen around them.
        """
        if not len(following):
            return
        places = np.arange(0, len(following), 1 + len(following) // MOST_QUERIES)
        at_once = min(128, block_size(len(self.order)))
        asked = [
            (histories.where(some), following[some]) for some in np.split(places, range(at_once, len(places), at_once))
        ]
        is_weighted = self._fit_weights(asked)
        if is_weighted and not self._adds_scores and not self._without_session:
            self._adds_scores = True
            self._fit_weights(asked)
        if self._adds_scores and self._counts is not None:
            score = self.scoring(alone=True)
            self._counts.choose((Query(score(some), some, target) for some, target in asked), is_last=self._is_last)

    def _fit_weights(self, asked: Sequence[_Asked]) -> bool:
        """Fit the weights of the runs that are used to queries; False where no query says anything."""
        candidates, names = np.concatenate([self._seen(*some) for some in self._scored(asked)]), list(self.weights)
        if not len(candidates):
            return False

        def fit(kept: Sequence[str]) -> tuple[dict[str, float], float]:
            weights, nats = fit_weights(
                candidates[..., [name in kept for name in names]], adds_scores=self._adds_scores
            )
            return dict(zip(kept, weights, strict=True)), nats

        own, nats = fit(names)
        while True:
            without = {one: fit([name for name in own if name != one]) for one in own if len(own) > 1}
            least = max(without, key=lambda name: without[name][1], default="")
            if not least or nats - without[least][1] >= _LEAST_NATS:
                break
            self.dropped[least], (own, nats) = nats - without[least][1], without[least]
        tried, self.weights = {"": own} | {name: weights for name, (weights, _) in without.items()}, own
        ndcgs = {name: list[np.ndarray]() for name in tried}
        for scores, some, following in self._scored(asked):
            for name, weights in tried.items():
                mixed = self.among_candidates(self._mixed(scores, weights), some, None)
                ndcgs[name].append(ndcg(ranks_in(mixed, np.arange(len(some)), following)))
        means = {name: float(np.concatenate(of).mean()) for name, of in ndcgs.items()}
        self.gains = {name: means[""] - means[name] for name in without}
        return True

    def _scored(self, asked: Sequence[_Asked]) -> Iterator[tuple[dict[str, Tensor], Histories, Int64[np.ndarray, "_"]]]:
        """Queries with the scores of each run."""
        num, each = sum(len(some) for some, _ in asked), self._scoring_of_each()
        self.ms_per_query |= dict.fromkeys(each, 0.0)
        for some, following in asked:
            scores = {}
            for name, of in each.items():
                began = time.perf_counter()
                scores[name] = of(some)
                self.ms_per_query[name] += 1000 * (time.perf_counter() - began) / num
            yield scores, some, following

    def _seen(
        self, scores: Mapping[str, Float[Tensor, "B N"]], histories: Histories, following: Int64[np.ndarray, "B"]
    ) -> Float64[np.ndarray, "b C M"]:
        """The scores of the track that followed, which is the first one, and of the best others.

        Queries are left out whose track is none of the best. A fit to them would ask which model gives some probability
        to everything, and not which one knows what belongs at the top.
        """
        rows, alike = torch.from_numpy(following)[:, None], dict.fromkeys(scores, 1 / len(scores))
        mean = self.among_candidates(self._mixed(scores, alike), histories, None)
        num = min(_MOST_CANDIDATES, len(self.order) - 1)
        kept = (mean.gather(1, rows) >= mean.topk(num).values[:, -1:])[:, 0]
        best = mean.scatter(1, rows, torch.inf).topk(num).indices
        return torch.stack([own.gather(1, best) for own in scores.values()], 2)[kept].double().numpy()

    def on_validation_epoch_end(self) -> None:
        """Log weight, gain and cost of each member."""
        values = {f"weight_{name}": self.weights.get(name, 0.0) for name in self.rankers}
        values |= {f"gain_{name}": gain for name, gain in self.gains.items()}
        values |= {f"ms_per_query_{name}": ms for name, ms in self.ms_per_query.items()}
        values |= {} if self._counts is None else self._counts.logged()
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})

    def describe(self) -> list[str]:
        """A line for each member, and how the mixture is served."""
        lines = []
        for name in self._members.folders:
            role = (
                f"dropped, it adds {self.dropped.get(name, 0.0):.2f} nats to the likelihood, less than {_LEAST_NATS:g}"
            )
            if name in self.weights:
                role = f"weight {self.weights[name]:.3f}, gain {self.gains.get(name, 0.0):+.4f} (validation ndcg@10)"
            cost = (
                f"{self.ms_per_query.get(name, np.nan):.1f} ms a query, {self._members.seconds(name):.0f} s of training"
            )
            lines.append(f"mixture      {name}: {role}; {cost}")
        if self._counts is not None:
            of_each = "counted      nothing around them: probabilities are mixed, each head with its own counted part"
            lines.append(self._counts.describe() if self._adds_scores else of_each)
        how = "by the lists of the last track: so are its runs" if self._is_last else "with the session as the query"
        if not self._adds_scores:
            how = f"by the lists of the last track: {self._without_session}"
        return [*lines, f"served       {how}"]

    def decided(self) -> dict[str, Any]:
        """What validation decided: the weights."""
        names = ("weights", "gains", "ms_per_query", "dropped")
        counts = {} if self._counts is None else self._counts.decided()
        return super().decided() | {name: getattr(self, name) for name in names} | counts | {"adds": self._adds_scores}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take it from another model."""
        super().decide(decided)
        self.weights, self.gains = dict(decided["weights"]), dict(decided["gains"])
        self.ms_per_query, self.dropped = dict(decided["ms_per_query"]), dict(decided["dropped"])
        self._adds_scores = decided["adds"]
        if self._counts is not None:
            self._counts.decide(decided)

    def get_extra_state(self) -> dict[str, Any]:
        """Return weights and counts for a checkpoint, and where the runs are and what they had."""
        folders = {name: str(folder) for name, folder in self._members.folders.items()}
        arrays = {} if (part := self.counted) is None else part.arrays()
        table = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {**self.decided(), "folders": folders, "digests": self._digests, "table": table}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.decide(state)
        self._digests = dict(state["digests"])
        self._members.folders = {name: Path(folder) for name, folder in state["folders"].items()}
        if self._counts is not None and (table := state["table"]):
            arrays = {name: array.numpy(force=True) for name, array in table.items()}
            self._counts.keep(CountedPart.of_arrays(arrays, num_tracks=len(self.order), max_length=MAX_LENGTH))


def side_by_side(models: Mapping[str, SessionVectors], weights: Mapping[str, float]) -> SessionVectors:
    """The vectors of models whose score is the weighted sum of their scores.

    Args:
        models: by name, of the same tracks, with vectors alone.
        weights: of the score of each, by name.
    """
    some, by = list(models.values()), [np.float32(weights[name]) for name in models]
    ends = [int(one.ends[-1]) for one in some]
    first = np.append(0, np.cumsum(ends)[:-1]).tolist()

    def columns(tables: Sequence[np.ndarray]) -> np.ndarray:
        of_parts, others = zip(
            *(np.split(table, [end], 1) for table, end in zip(tables, ends, strict=True)), strict=True
        )
        return np.concatenate([*of_parts, *others], 1)

    def summed(boosts: Sequence[np.ndarray]) -> np.ndarray:
        total = np.zeros(max(map(len, boosts)), np.float32)
        for one, weight in zip(boosts, by, strict=True):
            total[: len(one)] += weight * one
        return total

    numbers: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in some]) for name in ("lengths", "powers", "age_weights")
    }
    return SessionVectors(
        queries=columns([one.queries for one in some]),
        items=columns([weight * one.items for one, weight in zip(some, by, strict=True)]),
        parts=tuple(f"{name}_{part}" for name, one in models.items() for part in one.parts),
        ends=np.concatenate([start + one.ends for one, start in zip(some, first, strict=True)]),
        shares=np.full(len(numbers["powers"]), np.nan, np.float32),
        skipped=some[0].skipped,
        boosts=summed([one.boosts for one in some]),
        artist_boosts=summed([one.artist_boosts for one in some]),
        context=max((one.context for one in some), key=CONTEXTS.index),
        orders=tuple(
            replace(order, first=start + order.first)
            for one, start in zip(some, first, strict=True)
            for order in one.orders
        ),
        **numbers,
    )


def fit_weights(values: Float64[np.ndarray, "Q C M"], *, adds_scores: bool) -> tuple[list[float], float]:
    """Fit the weights of a mixture by maximum likelihood among some candidates of each query.

    Among few candidates, the sum of the weights of scores is too small. It does not change the order, and 1 is nearly
    that of maximum likelihood among all tracks.

    Args:
        values: the score of each candidate by each member, of which the first one followed; of one query or more.
        adds_scores: whether scores are logarithms of probabilities, which are added; otherwise they are probabilities.

    Returns:
        Weights, at least 0, whose sum is 1; and the logarithm of the likelihood, in nats.
    """

    def loss(weights: Float64[np.ndarray, "M"]) -> tuple[float, Float64[np.ndarray, "M"]]:
        mixed = values @ weights
        scores = mixed if adds_scores else np.log(mixed + _TINY)
        slopes = values if adds_scores else values / (mixed + _TINY)[..., None]
        sums = logsumexp(scores, axis=1, keepdims=True)
        expected = np.einsum("qc,qcm->m", np.exp(scores - sums), slopes)
        return float((sums[:, 0] - scores[:, 0]).mean()), (expected - slopes[:, 0].sum(0)) / len(values)

    first = np.full(values.shape[2], 1 / values.shape[2])
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(first))
    weights = found.x if found.x.any() else first
    return [float(weight) for weight in weights / weights.sum()], -float(found.fun) * len(values)
