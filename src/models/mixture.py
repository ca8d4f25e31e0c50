"""A mixture of finished runs: their probabilities, with weights that are fitted to validation queries.

M members, Q queries, B queries of a block, N tracks, V width of a query vector, K candidates of a list, C of a fit.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor

from segue.catalog import Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.module import PART, OneStep
from segue.models.contracts import Among, Context, OnBlock, Ranker, Rated
from segue.models.counted import MOST_QUERIES, Counted, Query, added_counts, lists_of_head
from segue.models.fitted import FittedModel
from segue.models.restoring import TableOfVectors
from segue.models.retrieval.lists import ListBlock, ListSearch, digest_of_arrays
from segue.models.retrieval.nearest import in_parts, top_of_scores
from segue.models.retrieval.ranks import add_parts, block_size, ndcg, ranks_of_shares
from segue.picking.session_query import SessionQuery
from segue.runs.counted_part import CountedPart
from segue.runs.recommendations import check_k
from segue.runs.session_vectors import CONTEXTS, MAX_LENGTH, MAX_PARTS, MAX_WIDTH, SessionVectors
from segue.settings import Setting, settings

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


class _Fit(NamedTuple):
    """Weights by name, and the logarithm of their likelihood."""

    weights: dict[str, float]
    nats: float


class Mixture(OneStep):
    """Mixes the probabilities of finished runs.

    Heads mix the logarithms of their probabilities, `log p = Σ weight · log p of each + a constant`: a weighted sum of
    their scores, which are inner products, is one of longer vectors. Such a mixture is a head: what is counted is added
    to it and not to each of its runs, and a service answers it with the session as the query. With a run that has
    no session vectors, or knows its listeners, probabilities are mixed as they are, `p = Σ weight · p of each`.

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
        self._plays = vocabulary.popularity
        self._at_once = min(128, block_size(len(self._plays)))
        self._counts = None if counted is None else build("counted", counted, vocabulary)
        self._head: tuple[Mapping[str, float], SessionVectors, TableOfVectors] | None = None
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
        found = dict(self._members.read(self.weights or self._members.folders))
        for name in self.weights if self._digests else ():
            if name not in found or found[name].lists_digest() != self._digests[name]:
                raise InputError(
                    f"model.models.{name}={self._members.folders.get(name)} has another model than this mixture has "
                    "weighted; train the mixture again"
                )
        return found

    def on_fit_start(self) -> None:
        """Read the runs. Before the weights are fitted, all weigh alike."""
        self._digests = {name: ranker.lists_digest() for name, ranker in self.rankers.items()}
        if not self.weights:
            self.weights = dict.fromkeys(self.rankers, 1 / len(self.rankers))
            self._adds_scores = not self._without_session

    @cached_property
    def _vectors(self) -> dict[str, SessionVectors | None]:
        return {name: ranker.session_vectors() for name, ranker in self.rankers.items()}

    @property
    def _without_session(self) -> str:
        """Why the session cannot be the query of the runs that are used; empty if it can."""
        vectors, lacks = list[SessionVectors](), list[str]()
        for name in self.weights:
            if (one := self._vectors[name]) is None:
                lacks.append(f"{name} has no session vectors")
            elif one.listener is not None:
                lacks.append(f"{name} knows its listeners")
            else:
                vectors.append(one)
        if lacks:
            return ", ".join(lacks)
        if len({(one.max_length, one.skipped) for one in vectors}) > 1:
            return "its runs differ in context.max_length or context.skipped"
        if len({len(one.boosts) for one in vectors}) > 1 and any(len(one.artist_boosts) for one in vectors):
            return "its runs differ in the rule for tracks heard, and boost artists"
        if (num_parts := sum(len(one.parts) for one in vectors)) > MAX_PARTS:
            return f"its vectors have {num_parts} parts, more than {MAX_PARTS}"
        width = sum(one.items.shape[1] for one in vectors)
        return f"its vectors are {width} wide, more than {MAX_WIDTH}" if width > MAX_WIDTH else ""

    @property
    def counted(self) -> CountedPart | None:
        """What is counted and added to heads, once it is chosen; None where probabilities are mixed."""
        return self._counts.whole(1.0) if self._adds_scores and self._counts is not None else None

    def session_vectors(self) -> SessionVectors | None:
        """The vectors of all runs, side by side, with what is counted; None where probabilities are mixed."""
        if not self._adds_scores:
            return None
        vectors, part = self._of_heads()[0], self.counted
        if part is not None and vectors.context == "last":
            part = replace(part, age_weights=part.age_weights[:1])
        return replace(vectors, counted=part)

    def _of_heads(self) -> tuple[SessionVectors, TableOfVectors]:
        """The vectors of all runs side by side, with the weights that they have now; twice, the second for torch."""
        if self._head is None or self._head[0] != self.weights:
            by = {name: weight / (self.rankers[name].temperature or 1.0) for name, weight in self.weights.items()}
            known = {name: one for name, weight in self.weights.items() if weight and (one := self._vectors[name])}
            vectors = side_by_side(known, by)
            self._head = dict(self.weights), vectors, TableOfVectors(vectors)
        return self._head[1:]

    def _scored(self, histories: Histories) -> Float[Tensor, "B N"]:
        """The scores of all tracks by the heads, without counts and boosts."""
        vectors, _ = self._of_heads()
        if vectors.context == "last":
            histories = Histories.of_tracks(histories.previous)
        queries = torch.from_numpy(SessionQuery(vectors).of(*histories.newest(vectors.max_length)))
        return queries @ torch.from_numpy(vectors.items).T

    def shares(self, histories: Histories, *, every: bool = False, alone: bool = False) -> Float[Tensor, "Q N"]:
        """The probabilities of the mixture."""
        shares = self._shares_of_each(histories, every=every)
        return self._mixed(shares, self.weights, None if alone else histories)

    def _shares_of_each(self, histories: Histories, *, every: bool = False) -> dict[str, Float[Tensor, "B N"]]:
        """The probabilities of the runs that are used; those of heads are of their vectors alone."""
        alone = self._adds_scores
        return {name: self.rankers[name].shares(histories, every=every, alone=alone) for name in self.weights}

    def _mixed(
        self,
        shares: Mapping[str, Float[Tensor, "B N"]],
        weights: Mapping[str, float],
        histories: Histories | None = None,
    ) -> Float[Tensor, "B N"]:
        """The mixture of the probabilities of runs; with histories also of what was counted."""
        used = {name: weight for name, weight in weights.items() if weight}
        if not self._adds_scores:
            return torch.as_tensor(sum((weight * shares[name] for name, weight in used.items()), torch.zeros(())))
        logits = sum((weight * shares[name].log() for name, weight in used.items()), torch.zeros(()))
        if histories is not None and (part := self.counted) is not None:
            if self._of_heads()[0].context == "last":
                histories = Histories.of_tracks(histories.previous)
            logits = add_parts(logits, [added_counts(part, histories)])
        return torch.as_tensor(logits).softmax(1)

    def ranks(
        self,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        on_block: OnBlock,
        *,
        among: Among = None,
        every: bool = False,
    ) -> Float64[np.ndarray, "Q"]:
        """Rank the track that followed each history among all tracks except `histories.previous`."""
        found = [np.empty(0)]
        for start in range(0, len(following), self._at_once):
            part, target = histories.part(start, start + self._at_once), following[start : start + self._at_once]
            shares = self.shares(part, every=every)
            if not every:
                shares[torch.arange(len(part)), torch.from_numpy(part.previous)] = -1
            if among is not None:
                shares[:, torch.from_numpy(~among)] = -1
            found.append(ranks_of_shares(shares, target))
            on_block(len(target))
        return np.concatenate(found)

    def top(
        self, histories: Histories, k: int, *, among: Among = None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Find the K best candidates of each history; their scores are probabilities, those of lists may be others."""
        return in_parts(
            histories,
            len(self._plays),
            lambda some: top_of_scores(
                self.shares(some).float(),
                previous=torch.from_numpy(some.previous),
                heard=torch.empty(len(some), 0, dtype=torch.int64),
                boosts=np.empty(0, np.float32),
                plays=self._plays,
                k=k,
                among=among,
            ),
        )

    def lists(self, k: int, rows: Int64[np.ndarray, "Q"] | None = None, *, recall: float | None = None) -> ListSearch:
        """Prepare a search for lists: those of heads have sums of scores, others are exact and have probabilities."""
        if self._adds_scores:
            return lists_of_head(self._of_heads()[1], self.counted, self._plays, k, rows, recall=recall)
        check_k(k, len(self._plays))
        own = np.arange(len(self._plays)) if rows is None else rows

        def block(nth: int) -> ListBlock:
            places = np.arange(nth * self._at_once, min((nth + 1) * self._at_once, len(own)))
            return ListBlock(places, *self.top(Histories.of_tracks(own[places]), k))

        return ListSearch(num_queries=len(own), k=k, num_blocks=-(-len(own) // self._at_once), block=block)

    def lists_digest(self) -> str:
        """Return a digest of the weights, of the models and of what was counted."""
        digests = "".join(self.rankers[name].lists_digest() for name in self.weights).encode()
        counted = () if (part := self.counted) is None else part.arrays().values()
        return digest_of_arrays(np.array(list(self.weights.values())), np.frombuffer(digests, np.uint8), *counted)

    def fit_to(
        self,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        rated: Rated | None = None,  # noqa: ARG002 - probabilities are mixed, and no shares
    ) -> None:
        """Fit the weights, and drop members that add nothing; none where no next track is among the best.

        Where only heads are left, their scores are added, and a counted part is chosen around them.
        """
        if not len(following):
            return
        places = np.arange(0, len(following), 1 + len(following) // MOST_QUERIES)
        is_weighted = self._fit_weights(histories, following, places)
        if is_weighted and not self._adds_scores and not self._without_session:
            self._adds_scores = True
            self._fit_weights(histories, following, places)
        if self._adds_scores and self._counts is not None:
            self._choose_counts(self._counts, histories, following, places)

    def _fit_weights(
        self, histories: Histories, following: Int64[np.ndarray, "Q"], places: Int64[np.ndarray, "q"]
    ) -> bool:
        """Fit the weights of the runs that are used to some of the queries; False where no query says anything."""
        names, seen = list(self.weights), []
        self.ms_per_query |= dict.fromkeys(names, 0.0)
        for some in np.split(places, range(self._at_once, len(places), self._at_once)):
            part, shares = histories.where(some), dict[str, Tensor]()
            for name in names:
                began = time.perf_counter()
                shares[name] = self.rankers[name].shares(part, alone=self._adds_scores)
                self.ms_per_query[name] += 1000 * (time.perf_counter() - began) / len(places)
            seen.append(self._seen(shares, following[some], part.previous))
        if not len(candidates := np.concatenate(seen)):
            return False

        def fit(kept: Sequence[str]) -> _Fit:
            own = candidates[..., [name in kept for name in names]]
            weights, nats = fit_weights(own, adds_scores=self._adds_scores)
            return _Fit(dict(zip(kept, weights, strict=True)), nats)

        own = fit(names)
        while True:
            kept = list(own.weights)
            without = {one: fit([name for name in kept if name != one]) for one in kept if len(kept) > 1}
            least = max(without, key=lambda name: without[name].nats, default="")
            if not least or (adds := own.nats - without[least].nats) >= _LEAST_NATS:
                break
            own, self.dropped[least] = without[least], adds
        weights = {"": own.weights} | {name: one.weights for name, one in without.items()}
        self.weights = own.weights
        ndcg = self._ndcg(histories.where(places), following[places], weights)
        self.gains = {name: ndcg[""] - ndcg[name] for name in without}
        return True

    def _choose_counts(
        self,
        counts: Counted,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        places: Int64[np.ndarray, "q"],
    ) -> None:
        """Choose how much is counted around the heads; see `Counted`."""
        parts = np.split(places, range(self._at_once, len(places), self._at_once))
        queries = (Query(self._scored(histories.where(some)), histories.where(some), following[some]) for some in parts)
        counts.choose(queries, is_last=self._of_heads()[0].context == "last")

    def _seen(
        self,
        shares: Mapping[str, Float[Tensor, "B N"]],
        following: Int64[np.ndarray, "B"],
        previous: Int64[np.ndarray, "B"],
    ) -> Float64[np.ndarray, "b C M"]:
        """The probabilities of the track that followed, which is the first one, and of the best others.

        Queries are left out whose track is none of the best. A fit to them would ask which model gives some probability
        to everything, and not which one knows what belongs at the top.
        """
        rows, mean = torch.from_numpy(following)[:, None], self._mixed(shares, dict.fromkeys(shares, 1 / len(shares)))
        mean[torch.arange(len(mean)), torch.from_numpy(previous)] = -1
        num = min(_MOST_CANDIDATES, len(self._plays) - 1)
        kept = (mean.gather(1, rows) >= mean.topk(num).values[:, -1:])[:, 0]
        best = mean.scatter(1, rows, torch.inf).topk(num).indices
        return torch.stack([own.gather(1, best) for own in shares.values()], 2)[kept].double().numpy()

    def _ndcg(
        self, histories: Histories, following: Int64[np.ndarray, "Q"], weights: Mapping[str, Mapping[str, float]]
    ) -> dict[str, float]:
        """Validation ndcg@10 with each of some weights. The members score each query once."""
        gains: dict[str, list[np.ndarray]] = {name: [] for name in weights}
        for start in range(0, len(following), self._at_once):
            part, target = histories.part(start, start + self._at_once), following[start : start + self._at_once]
            shares = self._shares_of_each(part)
            for name, of in weights.items():
                mixed = self._mixed(shares, of)
                mixed[torch.arange(len(part)), torch.from_numpy(part.previous)] = -1
                gains[name].append(ndcg(ranks_of_shares(mixed, target)))
        return {name: float(np.concatenate(of).mean()) for name, of in gains.items()}

    def on_validation_epoch_end(self) -> None:
        """Log weight, gain and cost of each member."""
        values = {f"weight_{name}": self.weights.get(name, 0.0) for name in self.rankers}
        values |= {f"gain_{name}": gain for name, gain in self.gains.items()}
        values |= {f"ms_per_query_{name}": ms for name, ms in self.ms_per_query.items()}
        values |= {} if self._counts is None else self._counts.logged()
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})

    def describe(self) -> Sequence[str]:
        """A line for each member, and how the mixture is served."""
        lines = []
        for name in self._members.folders:
            ms, seconds = self.ms_per_query.get(name, np.nan), self._members.seconds(name)
            nats, gain = self.dropped.get(name, 0.0), self.gains.get(name, 0.0)
            role = f"dropped, it adds {nats:.2f} nats to the likelihood, less than {_LEAST_NATS:g}"
            if name in self.weights:
                role = f"weight {self.weights[name]:.3f}, gain {gain:+.4f} (validation ndcg@10)"
            cost = f"{ms:.1f} ms a query, {seconds:.0f} s of training"
            lines.append(f"mixture      {name}: {role}; {cost}")
        if self._counts is not None:
            of_each = "counted      nothing around them: probabilities are mixed, each head with its own counted part"
            lines.append(self._counts.describe() if self._adds_scores else of_each)
        how = "with the session as the query"
        if not self._adds_scores:
            why = self._without_session
            how = f"by the lists of the last track: {why}"
        elif self._of_heads()[0].context == "last":
            how = "by the lists of the last track: so are its runs"
        return [*lines, f"served       {how}"]

    @property
    def _fitted(self) -> dict[str, Any]:
        names = ("weights", "gains", "ms_per_query", "dropped")
        fitted = {} if self._counts is None else self._counts.decided()
        return {**{name: getattr(self, name) for name in names}, "adds_scores": self._adds_scores, **fitted}

    def _take_fitted(self, given: Mapping[str, Any]) -> None:
        self.weights, self.gains = dict(given["weights"]), dict(given["gains"])
        self.ms_per_query, self.dropped = dict(given["ms_per_query"]), dict(given["dropped"])
        self._adds_scores = given["adds_scores"]
        if self._counts is not None:
            self._counts.decide(given)

    def get_extra_state(self) -> dict[str, Any]:
        """Return weights and counts for a checkpoint, and where the runs are and what they had."""
        folders = {name: str(folder) for name, folder in self._members.folders.items()}
        arrays = {} if (part := self.counted) is None else part.arrays()
        table = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {**self._fitted, "folders": folders, "digests": self._digests, "table": table}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self._take_fitted(state)
        self._digests = dict(state["digests"])
        self._members.folders = {name: Path(folder) for name, folder in state["folders"].items()}
        if self._counts is not None and (table := state["table"]):
            arrays = {name: array.numpy(force=True) for name, array in table.items()}
            self._counts.keep(CountedPart.of_arrays(arrays, num_tracks=len(self._plays), max_length=MAX_LENGTH))

    def decided(self) -> dict[str, Any]:
        """What validation decided: the weights."""
        return {**self.context.repeats.decided(), **self._fitted}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take it from another model."""
        self.context.repeats.decide(decided)
        self._take_fitted(decided)


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


def fit_weights(candidates: Float64[np.ndarray, "Q C M"], *, adds_scores: bool) -> tuple[list[float], float]:
    """Fit the weights of a mixture by maximum likelihood among some candidates of each query.

    Among few candidates, the sum of the weights of scores is too small. It does not change the order, and 1 is nearly
    that of maximum likelihood among all tracks.

    Args:
        candidates: the probability that each member gives each candidate, of which the first one followed; of one query
            or more.
        adds_scores: whether logarithms of probabilities are added, and not probabilities.

    Returns:
        Weights, at least 0, whose sum is 1; and the logarithm of the likelihood, in nats.
    """
    values = np.log(candidates.clip(_TINY)) if adds_scores else candidates

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
