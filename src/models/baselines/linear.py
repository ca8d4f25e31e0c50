"""Linear item-item models in closed form: EASE and SLIST.

N tracks in the catalogue, M of them in the model, S training sessions, R rows (a session cut at a place), B queries in
a block.
"""

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.linalg import cho_solve
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array, diags_array

from segue.catalog import Listens, Vocabulary
from segue.errors import InputError
from segue.models.baselines.counting import LeastPlayed, no_scores
from segue.models.baselines.history_weights import (
    OF_DECAY,
    ArtistsWeight,
    artist_scores,
    decayed,
    largest_distance,
    played_rows,
    query_matrix,
)
from segue.models.retrieval.sparse import largest_positive
from segue.settings import Setting, settings


@settings("model")
class Slist:
    """A matrix of weights between tracks that reconstructs sessions (SLIS) and predicts their rest (SLIT).

    X has a row for each session, with 1 for its tracks. Y and Z have a row for each place where a session can be cut:
    Y has the tracks before the cut, with exp(−distance/place_decay) to the last of them, and Z those after it, with
    exp(−distance/place_decay) to the first of them. The weights W minimise

    `share·‖X − XW‖² + (1 − share)·‖Z − YW‖² + regularization·‖W‖²`

    where a row counts exp(−age/recency), and the diagonal of W is at most `self_weight`. The solution is
    `W = P·(share·XᵀX + (1 − share)·YᵀZ − diag(γ))` with `P = (share·XᵀX + (1 − share)·YᵀY + regularization·I)⁻¹`. Here
    γ is 0 where the diagonal is below the bound without it, and otherwise what puts it there. EASE is `share=1
    self_weight=0` without decays. The code of the paper has no bound for share < 1.

    The score of a track is the sum of its weights over the tracks of the session so far, each times
    exp(−age/query_decay).

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: a setting is out of range, or too many tracks have `min_plays`.

    Source:
        Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019 (EASE);
        Choi, Kim, Lee, Shim and Lee, Session-aware linear item-item models for session-based recommendation, WWW 2021,
        section 4 (SLIS, SLIT, SLIST). The rows are normalised as in their code.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        num_neighbours: Annotated[
            int, Setting("number of largest positive weights that are kept for each track", least=1)
        ] = 500,
        share: Annotated[
            float,
            Setting(
                "of reconstructing sessions; the rest is predicting their end",
                least=0,
                most=1,
                hint="1 is SLIS, 0 is SLIT",
            ),
        ] = 1.0,
        self_weight: Annotated[
            float | None,
            Setting("bound of the weight of a track with itself", least=0, most=1, hint="0 is EASE, null is no bound"),
        ] = 0.0,
        regularization: Annotated[float, Setting("of the squares of the weights", above=0)] = 100.0,
        normalise: Annotated[bool, Setting("whether the weights of a session have the sum 1")] = False,
        place_decay: Annotated[
            float | None, Setting("λ in places, of the tracks before and after a cut; null: off", **OF_DECAY)
        ] = None,
        recency: Annotated[
            float | None, Setting("λ in sessions: older sessions count less; null: off", **OF_DECAY)
        ] = None,
        query_decay: Annotated[
            float | None, Setting("λ in places, of the tracks of the session so far; null: off", **OF_DECAY)
        ] = None,
        min_plays: Annotated[int, Setting("tracks with fewer plays in training are not in the model", least=1)] = 1,
        max_tracks: Annotated[
            int, Setting("most tracks in the model: the dense inverse takes 12 bytes × the square of this", least=1)
        ] = 20000,
        least_played: LeastPlayed = 0.5,
        artist_weight: ArtistsWeight = 0.0,
    ) -> None:
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._artist_of = vocabulary.catalog.artist_of
        _check_size(vocabulary.plays, min_plays, max_tracks)
        self._num_neighbours, self._min_plays = num_neighbours, min_plays
        self._share, self._self_weight, self._regularization = share, self_weight, regularization
        self._normalise, self._place_decay, self._recency = normalise, place_decay, recency
        self._query_decay, self._least_played = query_decay, least_played

    def count(self, listens: Listens) -> csr_array:
        """Solve for the weights.

        Args:
            listens: the events of the training sessions.

        Returns:
            The kept weights of candidates (columns) after tracks of the session (rows), N × N.
        """
        played = listens.where(~(listens.played_ratio < np.float32(self._least_played)))
        [tracks] = (np.bincount(played.track, minlength=self.num_tracks) >= self._min_plays).nonzero()
        played = played.where(np.isin(played.track, tracks))
        if len(tracks) < 2:
            return no_scores(self.num_tracks)
        _, session, length = np.unique(played.session, return_inverse=True, return_counts=True)
        column = np.searchsorted(tracks, played.track)
        weights = np.ones(len(length))
        if self._recency is not None:
            weights = np.exp((np.arange(len(length)) - len(length) + 1) / self._recency)
        shape = len(length), len(tracks)
        gram: np.ndarray = np.zeros((len(tracks), len(tracks)), np.float32)
        wanted = gram
        if self._share:
            whole = _rows(session, column, np.ones(len(column)), shape, self._normalise, once=True)
            gram += self._share * _product(whole, whole, weights)
            wanted = gram.copy() if self._share < 1 else gram
        if self._share < 1:
            before, after = self._cut(session, column, length, len(tracks))
            of_row = weights[np.repeat(np.arange(len(length)), length - 1)]
            wanted = wanted + (1 - self._share) * _product(before, after, of_row)
            gram += (1 - self._share) * _product(before, before, of_row)
        gram[np.diag_indices(len(gram))] += self._regularization
        factor, _ = spotrf(gram, lower=1, overwrite_a=1)
        inverse = _inverted(factor) if self._share == 1 or self._self_weight is not None else None
        if self._share == 1:  # P·XᵀX = I − regularization·P
            assert inverse is not None
            solved = -np.float32(self._regularization) * inverse
            solved[np.diag_indices(len(solved))] += 1
        else:
            solved = cho_solve((factor, True), wanted, overwrite_b=True, check_finite=False)
        if self._self_weight is not None:
            assert inverse is not None
            solved -= inverse * ((np.diag(solved) - self._self_weight).clip(0) / np.diag(inverse))
        table, num_kept = torch.from_numpy(solved), self._num_neighbours
        return largest_positive(lambda part: table[part], tracks, num_tracks=self.num_tracks, num_kept=num_kept)

    def _cut(
        self, session: Int64[np.ndarray, "E"], column: Int64[np.ndarray, "E"], length: Int64[np.ndarray, "S"], num: int
    ) -> tuple[csr_array, csr_array]:
        """The tracks before and after each place where a session can be cut, R × M each."""
        starts = length.cumsum() - length
        place = np.arange(len(session)) - starts[session]
        row_of = (starts - np.arange(len(length)))[
            session
        ] + place  # of the cut after this event, if it is not the last
        parts: dict[str, list[tuple[np.ndarray, ...]]] = {"before": [], "after": []}
        for distance in range(largest_distance(self._place_decay, int(length.max())) + 1):
            weight = 1.0 if self._place_decay is None else float(np.exp(-distance / self._place_decay))
            [first] = (place + distance < length[session] - 1).nonzero()  # the cut is `distance` events later
            if not len(first):
                break
            parts["before"].append((row_of[first] + distance, column[first], np.full(len(first), weight)))
            parts["after"].append((row_of[first], column[first + 1 + distance], np.full(len(first), weight)))
        shape = int((length - 1).sum()), num
        if not shape[0]:
            return csr_array(shape), csr_array(shape)
        tables = []
        for name in ("before", "after"):
            row, track, weights = (np.concatenate(part) for part in zip(*parts[name], strict=True))
            tables.append(_rows(row, track, weights, shape, self._normalise))
        return tables[0], tables[1]

    def scores(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], shares: Float32[np.ndarray, "B H"]
    ) -> csr_array:
        """Score the candidates of a block of queries.

        Args:
            counts: what `count` returned.
            rows: rows of the tracks heard, newest first; -1 where a session is shorter.
            shares: share of each that was played; NaN where unknown.

        Returns:
            Scores, B × N; positive where there is one.
        """
        rows, age, length = played_rows(rows, shares, float(self._least_played))
        weights = decayed(age, length, self._query_decay)
        queries = query_matrix(rows, weights, self.num_tracks, newest_only=False)
        scores = csr_array(queries @ counts)
        if self.artist_weight:
            scores = csr_array(scores + artist_scores(queries, self._artist_of, self.artist_weight))
        return scores


def _check_size(plays: Int64[np.ndarray, "N"], min_plays: int, max_tracks: int) -> None:
    num = int((plays >= min_plays).sum())
    if num <= max_tracks:
        return
    enough = int(np.sort(plays)[-max_tracks - 1]) + 1
    raise InputError(
        f"{num:,} tracks have model.min_plays={min_plays} plays or more, and the dense inverse takes at most "
        f"model.max_tracks={max_tracks:,}; use model.min_plays={enough}, or a larger max_tracks with "
        f"{12 * num**2 / 1e9:.0f} GB of free memory"
    )


def _rows(
    row: Int64[np.ndarray, "E"],
    column: Int64[np.ndarray, "E"],
    weight: np.ndarray,
    shape: tuple[int, int],
    normalise: bool,
    once: bool = False,
) -> csr_array:
    table = csr_array((weight, (row, column)), shape=shape)
    table.sum_duplicates()
    if once:
        table.data[:] = 1
    if normalise:
        table = csr_array(diags_array(1 / np.maximum(table.sum(1), 1e-300)) @ table)
    return table


def _product(left: csr_array, right: csr_array, weights: np.ndarray) -> Float32[np.ndarray, "M M"]:
    """`leftᵀ · diag(weights) · right`, dense."""
    dense: np.ndarray = csr_array((diags_array(weights) @ left).T @ right).astype(np.float32).toarray()
    return dense


def _inverted(factor: Float32[np.ndarray, "M M"]) -> Float32[np.ndarray, "M M"]:
    """The inverse of the matrix that has this lower Cholesky factor."""
    lower, _ = spotri(factor, lower=1)
    inverse: np.ndarray = np.tril(lower) + np.tril(lower, -1).T
    return inverse
