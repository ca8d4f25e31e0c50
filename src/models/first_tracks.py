"""The first track of a session, ranked from the listener's own past alone: there is no session yet.

Q queries, N tracks, f favourites.
"""

import numpy as np
import torch
from jaxtyping import Float64, Int64

from segue.histories import Histories
from segue.models.contracts import Scorer
from segue.models.listener_part import ListenerPart, past_before
from segue.models.retrieval.ranks import add_entries, block_size, ranks_by_plays, ranks_in
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
    queries, items, ranks = scorer.query_vectors(), scorer.item_vectors(), ranks_by_plays(plays, None, following)
    for start in range(0, len(following), block_size(len(items))):
        some = histories.part(start, start + block_size(len(items)))
        own = torch.from_numpy(favourites(past_before(some), NUM_FAVOURITES)).long().to(items.device)
        is_there = (own >= 0)[:, :, None]
        scores = ((queries[own] * is_there).sum(1) / is_there.sum(1).clamp(min=1)) @ items.T
        if (values := listener.values(some)) is not None:
            add_entries(scores, values)
        targets = following[start : start + len(some)]
        found, has_favourites = ranks_in(scores, np.arange(len(some)), targets), is_there.any(1)[:, 0].cpu().numpy()
        ranks[start : start + len(some)] = np.where(has_favourites, found, ranks[start : start + len(some)])
    return ranks
