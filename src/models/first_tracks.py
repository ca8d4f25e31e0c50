"""The first track of a session, ranked from the listener's own past alone: there is no session yet.

Q queries, N tracks, f favourites.
"""

import numpy as np
import torch
from jaxtyping import Float64, Int64

from segue.histories import Histories
from segue.models.contracts import Queries, Scorer
from segue.models.listener_part import ListenerPart, past_before
from segue.models.retrieval.ranks import ranks_by_plays, ranks_of_vectors
from segue.picking.listener_scores import favourites

NUM_FAVOURITES = 20
"""Tracks of the past whose query vectors are averaged, at most."""


def ranks_of_first_tracks(
    scorer: Scorer,
    listener: ListenerPart,
    plays: Int64[np.ndarray, "N"],
    histories: Histories,
    following: Int64[np.ndarray, "Q"],
) -> Float64[np.ndarray, "Q"]:
    """Rank first tracks among all tracks.

    The query vector is the mean of those of the listener's favourites, and the listener's part is added to the scores.
    A listener without favourites gets the tracks by plays.

    Args:
        scorer: the head.
        listener: the listener's part.
        plays: popularity of every track.
        histories: of no tracks, with a timeline; `last` is the first track itself, whose session and time count.
        following: rows of the first tracks.

    Returns:
        Rank of each of them, in [1, N].
    """
    vectors, has_favourites = scorer.query_vectors(), np.zeros(len(following), bool)

    def queries(first: int, end: int) -> Queries:
        some = histories.part(first, end)
        own = torch.from_numpy(favourites(past_before(some)[0], NUM_FAVOURITES)).long().to(vectors.device)
        is_there = (own >= 0)[:, :, None]
        has_favourites[first:end] = is_there.any(1)[:, 0].cpu().numpy()
        means = (vectors[own] * is_there).sum(1) / is_there.sum(1).clamp(min=1)
        rows, added = torch.arange(len(own), device=own.device), listener.part(some)
        return Queries(means, rows, rows, own[:, :0], [] if added is None else [added])

    ranks = ranks_of_vectors(
        queries=queries,
        items=scorer.item_vectors(),
        following=following,
        boosts=np.empty(0, np.float32),
        every=True,
    )
    return np.where(has_favourites, ranks, ranks_by_plays(plays, None, following))
