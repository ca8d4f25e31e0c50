"""How a head ranks: by the inner products of its vectors, with what is counted and what the listener heard before.

B queries of a block, Q queries, P pairs, N tracks in the catalogue, A artists, V width of a vector.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from segue.errors import InputError
from segue.histories import Histories
from segue.models.contracts import Context, Scorer
from segue.models.counted import add_counts, blocks_of
from segue.models.listener_part import ListenerPart
from segue.models.ranker import Ranker, Scoring
from segue.models.repeats import MOST_AGES
from segue.models.retrieval.lists import ListSearch
from segue.models.retrieval.nearest import near_lists
from segue.models.retrieval.ranks import add_entries, block_size, boost_heard, refuse_non_finite
from segue.runs.counted_part import CountedPart
from segue.runs.session_vectors import SessionVectors

_PAIRS_AT_ONCE = 65_536  # given pairs that are scored together


class HeadRanker(Ranker):
    """Every ranker with a head has these methods.

    Attributes:
        scorer: the head.
    """

    scorer: Scorer

    def scoring(self, *, every: bool = False, alone: bool = False) -> Scoring:
        """Prepare the scores: products, parts that are added, and boosts of what was heard."""
        plain, repeats = self.products(None if alone else self.counted), self.context.repeats
        boosts, of_artists = repeats.boosts(every=every), repeats.artist_boosts()
        values = np.append(np.zeros(MOST_AGES), of_artists)

        def score(histories: Histories) -> Float[Tensor, "B N"]:
            scores = plain(histories)
            if len(of_artists):
                add_entries(scores, repeats.added(histories, values, every=every))
            return boost_heard(scores, torch.from_numpy(histories.newest_rows(len(boosts))).to(scores.device), boosts)

        return score

    def products(self, part: CountedPart | None) -> Scoring:
        """Prepare the scores without the rule for tracks already heard.

        Args:
            part: what is counted and added; None for nothing.
        """
        items, listener = self.scorer.item_vectors(), self.listener
        refuse_non_finite(items)
        product = _product_with(items)

        def score(histories: Histories) -> Float[Tensor, "B N"]:
            vectors = session_queries(self.scorer, self.context, histories)
            refuse_non_finite(vectors)
            scores = product(vectors)
            if part is not None:
                add_counts(scores, part, Histories.of_tracks(histories.previous) if self.context.is_last else histories)
            if listener is not None and (values := listener.values(histories)) is not None:
                add_entries(scores, values)
            return scores

        return score

    def scoring_of_tracks(self) -> Scoring:
        """Prepare the scores of a list: of the query vectors of tracks, with what followed each."""
        part, queries, items = self.counted, self.scorer.query_vectors(), self.scorer.item_vectors()
        refuse_non_finite(queries, items)
        product = _product_with(items)

        def score(tracks: Histories) -> Float[Tensor, "B N"]:
            scores = product(queries[torch.from_numpy(tracks.previous).to(queries.device)])
            return scores if part is None else add_counts(scores, part, tracks)

        return score

    def lists(self, k: int, rows: Int64[np.ndarray, "Q"] | None = None, *, recall: float | None = None) -> ListSearch:
        """Prepare a search for lists; with a recall by an inverted file, see `retrieval.nearest`."""
        exact = super().lists(k, rows)
        if recall is None:
            return exact
        vectors = self.scorer.query_vectors(), self.scorer.item_vectors()
        return near_lists(exact, *vectors, rows, plays=self.order, part=self.counted, recall=recall)

    def session_vectors(self) -> SessionVectors | None:
        """The vectors, and the numbers of the context."""
        return session_vectors(self.scorer, self.context, self.counted, self.listener)


def session_vectors(
    scorer: Scorer, context: Context, counted: CountedPart | None = None, listener: ListenerPart | None = None
) -> SessionVectors:
    """The vectors of a trained head, and the numbers of its context: all that a session query needs without torch.

    Args:
        scorer: the head.
        context: which query vector a history gives.
        counted: what is added to its scores.
        listener: the listener's part; without weights it adds nothing.

    Raises:
        InputError: a vector is not finite.
    """
    with torch.inference_mode():
        tables, parts = (scorer.query_vectors(), scorer.item_vectors()), scorer.query_parts()
        queries, items = (table.float().cpu().numpy() for table in tables)
        ages = torch.arange(1 if context.is_last else context.max_length, device=tables[0].device)
        unknown, none = torch.full_like(ages, torch.nan, dtype=torch.float32), ages[:1] * 0.0
        if not (np.isfinite(queries).all() and np.isfinite(items).all()):
            raise InputError("training diverged: vectors are not finite and cannot be exported; lower optimizer.lr")
        weights = None if listener is None else listener.weights
        return SessionVectors(
            queries=queries,
            items=items,
            parts=tuple(parts),
            ends=np.array([part.columns.stop for part in parts.values()], np.int64),
            shares=np.array([np.nan if one.share is None else float(one.share) for one in parts.values()], np.float32),
            age_weights=np.stack([context.weights(part, ages, unknown).float().cpu().numpy() for part in parts]),
            skipped=float(context.weights(next(iter(parts)), ages[:1], none)),
            boosts=context.repeats.boosts(),
            artist_boosts=context.repeats.artist_boosts(),
            context="listener" if weights is not None else "last" if context.is_last else "session",
            listener=weights,
            counted=counted,
            orders=context.orders(),
        )


def _product_with(items: Float[Tensor, "N V"]) -> Callable[[Tensor], Tensor]:
    """Products of vectors with items, in the memory of the product before: new memory takes as long as a product."""
    kept = [items.new_empty(0, len(items))]

    def product(vectors: Float[Tensor, "B V"]) -> Float[Tensor, "B N"]:
        if len(kept[0]) < len(vectors):
            kept[0] = items.new_empty(max(len(vectors), block_size(len(items))), len(items))
        return torch.mm(vectors.detach(), items.detach().T, out=kept[0][: len(vectors)])

    return product


def session_queries(scorer: Scorer, context: Context, histories: Histories) -> Float[Tensor, "B V"]:
    """The query vector of each history."""
    place, columns = next(scorer.parameters()).device, histories.newest(max(1, context.max_length))
    found = context.queries(scorer, *(torch.from_numpy(one).to(place) for one in (histories.previous, *columns)))
    return found.vectors[found.of_pair]


def score_pairs(
    scorer: Scorer, context: Context, histories: Histories, following: Int64[np.ndarray, "P"]
) -> Float[Tensor, "P"]:
    """Score the track that followed each history.

    Args:
        scorer: the head.
        context: which query vector a history gives.
        histories: what was heard before.
        following: rows of the tracks.
    """
    items, scores = scorer.item_vectors(), []
    for own, rows in blocks_of(histories, following, _PAIRS_AT_ONCE):
        vectors = session_queries(scorer, context, own)
        scores.append(torch.linalg.vecdot(vectors, items[torch.from_numpy(rows).to(items.device)]))
    return torch.cat(scores)


def artist_vectors(scorer: Scorer, artist_of: Int64[np.ndarray, "N"]) -> Float[Tensor, "A V"]:
    """The vectors of artists: the mean item vector of their tracks; of its part `artist` where a head has one.

    Tracks that no training pair shows have the zero vector and do not count; zero where an artist has no others.
    """
    tracks, own = scorer.item_vectors(), scorer.query_parts().get("artist")
    if own is not None:
        tracks = tracks[:, own.columns]
    of = torch.from_numpy(artist_of).to(tracks.device)
    sums = tracks.new_zeros(int(artist_of.max()) + 1, tracks.shape[1]).index_add_(0, of, tracks)
    counts = tracks.new_zeros(len(sums)).index_add_(0, of, tracks.any(1).to(tracks.dtype))
    return sums / counts.clamp(min=1)[:, None]
