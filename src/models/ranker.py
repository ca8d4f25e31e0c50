"""A ranker: whatever scores the catalogue after a history. Ranks, lists and probabilities follow from its scores.

`HeadRanker` is one with vectors, trained (`PairRanker`) or read from a run (`RestoredHead`); the others are `Baseline`
and `Mixture`.

Q queries, B queries of a block, N tracks in the catalogue, K candidates of a list. A row is a place 0..N-1 in the
catalogue.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, Real
from torch import Tensor

from segue.catalog import most_played
from segue.errors import InputError
from segue.histories import Histories
from segue.models.contracts import Context, Loss, Rated, Scorer
from segue.models.counted import Counted
from segue.models.listener_part import ListenerPart
from segue.models.retrieval.lists import ListSearch
from segue.models.retrieval.ranks import block_size, lines_of, ranks_in
from segue.models.retrieval.top import top_k
from segue.runs.counted_part import CountedPart
from segue.runs.recommendations import SCORE_DECIMALS, check_k
from segue.runs.session_vectors import SessionVectors

OnBlock = Callable[[int], None]
"""Reports progress: called after each block of queries with the number of queries in that block."""
Among = Bool[np.ndarray, "N"] | None
"""True for each track that is a candidate; None for all tracks."""
Scoring = Callable[[Histories], Float[Tensor, "B N"]]
"""From histories to the scores of all tracks, which the caller may overwrite, and the next call does."""

_AT_ONCE = 512  # histories whose best candidates are searched for together, at most


class Ranker(ABC):
    """Every trained head, every baseline and every mixture. A subclass says how it scores; callbacks use only this.

    Attributes:
        scorer: the trained head; None for a model that has no vectors.
        loss: the loss that the head was trained with; None where there is none.
        context: which query vector a history gives, and how tracks already heard are ranked.
        order: of every track, such as its popularity: decides between equal scores, the higher value first.
        temperature: what divides scores in a softmax; None where they are no logarithms of probabilities.
        listener: the part of the listener's own past; None without it.
        counts: counts what is added to the scores, in training; None for nothing.
        near_ties: whether scores are sums of many numbers: such as differ by noise alone then tie, whatever their
            order, and they are rounded in lists.
    """

    scorer: Scorer | None
    loss: Loss | None
    context: Context
    order: Real[np.ndarray, "N"]
    temperature: float | None = None
    listener: ListenerPart | None = None
    counts: Counted | None = None
    near_ties = True

    @abstractmethod
    def scoring(self, *, every: bool = False, alone: bool = False) -> Scoring:
        """Prepare the scores of all tracks, by the rule for tracks already heard.

        Args:
            every: whether `Histories.previous` is a candidate too.
            alone: whether the counted part of a head is left out.

        Raises:
            InputError: a vector is not finite.
        """

    def scoring_of_tracks(self) -> Scoring:
        """Prepare the scores after one track alone, as its list has them.

        Heads and counts leave out the rule for tracks already heard: whoever plays the list decides.
        """
        return self.scoring()

    @property
    def counted(self) -> CountedPart | None:
        """What is counted and added to the scores, once it is chosen; None where nothing is."""
        return None if self.counts is None or self.temperature is None else self.counts.part(self.temperature)

    def by_previous(self, every: bool) -> bool:
        """Whether the scores after a history depend on `Histories.previous` alone."""
        repeats = self.context.repeats
        is_plain = not (len(repeats.boosts(every=every)) or repeats.by_artist)
        return self.context.is_last and is_plain and self.listener is None

    def ranks(
        self,
        histories: Histories,
        following: Int64[np.ndarray, "Q"],
        on_block: OnBlock = lambda _: None,
        *,
        among: Among = None,
        every: bool = False,
    ) -> Float64[np.ndarray, "Q"]:
        """Rank the track that followed each history among all tracks except `Histories.previous`.

        Queries with the same previous track share a line of scores, where nothing else is known of them.

        Args:
            histories: what was heard before.
            following: rows of the tracks that followed.
            on_block: reports progress.
            among: True for each track that is a candidate, with all of `following`; None for all tracks.
            every: whether `Histories.previous` is a candidate too, and may be the track that followed.

        Returns:
            Rank of each `following`, at least 1. Candidates that tie share the mean of the ranks they occupy.
        """
        ranks, score = np.empty(len(following)), self.scoring(every=every)
        order = None if self.near_ties else self.order
        is_shared = self.by_previous(every)
        by_line = np.argsort(histories.previous, kind="stable") if is_shared else np.arange(len(following))
        at_once = block_size(len(self.order))
        for start in range(0, len(by_line), at_once):
            some = by_line[start : start + at_once]
            own = histories.where(some)
            line, first = lines_of(own.previous if is_shared else np.arange(len(some)))
            lines = own.where(first)
            scores = self.among_candidates(score(lines), lines, among, every)
            ranks[some] = ranks_in(scores, line, following[some], order)
            on_block(len(some))
        return ranks

    def top(
        self, histories: Histories, k: int, *, among: Among = None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Find the K best candidates of each history: those with the ranks 1 to K.

        Args:
            histories: what was heard before, as in `ranks`.
            k: number of candidates, 1 <= k < N.
            among: True for each track that is a candidate; None for all tracks.

        Returns:
            Rows of the candidates, best first, and their scores. Of equal scores the track of the higher `order` comes
            first. Row -1 and score NaN fill up, where there are fewer candidates.

        Raises:
            InputError: `k` is not in [1, N-1].
        """
        rows, values = self._search(self.scoring(), histories, k, among).collect()
        is_there = values > -np.inf
        return np.where(is_there, rows, -1), np.where(is_there, values, np.float32(np.nan))

    def shares(self, histories: Histories, *, every: bool = False, alone: bool = False) -> Float[Tensor, "Q N"]:
        """The probability of each track to follow each history, as the model ranks them.

        Args:
            histories: what was heard before.
            every: whether `Histories.previous` is a candidate too; otherwise its probability is 0.
            alone: whether the counted part of a head is left out.

        Returns:
            The sum of a line is 1, or 0 where a model that counts has seen nothing.

        Raises:
            InputError: the scores of the model are no probabilities.
        """
        if self.temperature is None:
            raise InputError("the scores of a model of shares played are no probabilities; use loss=softmax")
        scores = self.scoring(every=every, alone=alone)(histories).div_(self.temperature)
        if len(boosts := self.context.repeats.boosts(every=every)) and not np.isfinite(boosts).all():
            line, age = ((heard := histories.newest_rows(len(boosts))) >= 0).nonzero()
            scores[torch.from_numpy(line), torch.from_numpy(heard[line, age])] = -torch.inf
        return self.among_candidates(scores, histories, None, every).softmax(1)

    def lists(
        self,
        k: int,
        rows: Int64[np.ndarray, "Q"] | None = None,
        *,
        recall: float | None = None,  # noqa: ARG002 - exact search is fast enough for most models
    ) -> ListSearch:
        """Prepare a search for the K best candidates of tracks, or nearly those, faster. None is its own candidate.

        Args:
            k: length of a list, 1 <= k < N.
            rows: the tracks; None for all.
            recall: share of the exact lists to aim at, in (0, 1]; None for exact lists.

        Returns:
            The search. Its recall is None where the lists are exact, also because exact search is fast enough.

        Raises:
            InputError: `k` is not in [1, N-1].
        """
        own = np.arange(len(self.order)) if rows is None else rows
        return self._search(self.scoring_of_tracks(), Histories.of_tracks(own), k)

    def _search(self, score: Scoring, histories: Histories, k: int, among: Among = None) -> ListSearch:
        """Prepare an exact search for the K best candidates of histories."""
        check_k(k, len(self.order))
        order = torch.from_numpy(most_played(self.order))

        def find(places: Int64[np.ndarray, "B"]) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
            some = histories.where(places)
            scores = self.among_candidates(score(some), some, among)
            return top_k(scores, k, order.to(scores.device), decimals=SCORE_DECIMALS if self.near_ties else None)

        return ListSearch(len(histories), k, min(_AT_ONCE, block_size(len(self.order))), find)

    def among_candidates(
        self, scores: Float[Tensor, "B N"], histories: Histories, among: Among, every: bool = False
    ) -> Float[Tensor, "B N"]:
        """The scores, −∞ for what is no candidate."""
        if not every:
            scores.scatter_(1, torch.from_numpy(histories.previous).to(scores.device)[:, None], -torch.inf)
        return scores if among is None else scores.masked_fill_(torch.from_numpy(~among).to(scores.device), -torch.inf)

    def session_vectors(self) -> SessionVectors | None:
        """The vectors of all tracks, with which a session can be the query; None for a model that has none.

        Raises:
            InputError: a vector is not finite.
        """
        return None

    def fit_to(self, histories: Histories, following: Int64[np.ndarray, "Q"], rated: Rated | None = None) -> None:  # noqa: B027
        """Fit to validation queries what the training sessions cannot give; by default nothing.

        Args:
            histories: what was heard before.
            following: rows of the tracks that followed.
            rated: validation pairs whose shares are known, for a loss of shares; None for none.
        """

    @property
    def parts(self) -> list[Any]:
        """What validation decides, each with `describe`, `decided`, `decide` and `logged` as `Repeats` has them."""
        return [self.context.repeats, *(part for part in (self.counts, self.listener) if part is not None)]

    def describe(self) -> list[str]:
        """Lines about what was chosen, for people."""
        return [line for part in self.parts if (line := part.describe()) is not None]

    def decided(self) -> dict[str, Any]:
        """What validation decided, plain values by name: how tracks already heard are ranked, how much parts weigh."""
        return {name: value for part in self.parts for name, value in part.decided().items()}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take what validation decided for another model of the same recipe."""
        for part in self.parts:
            part.decide(decided)
