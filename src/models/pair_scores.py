"""Scores of given pairs, and the vector of an artist, by a trained head.

P pairs, N tracks in the catalogue, A artists, V width of an item vector.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from segue.histories import Histories
from segue.models.contracts import Context, PairBatch, Scorer

_BLOCK = 65_536


def score_pairs(
    scorer: Scorer,
    context: Context,
    histories: Histories,
    following: Int64[np.ndarray, "P"],
    device: torch.device,
) -> Float32[Tensor, "P"]:
    """Score the track that followed each history.

    Args:
        scorer: the head.
        context: which query vector a history gives.
        histories: what was heard before.
        following: rows of the tracks.
        device: where the scorer is.
    """
    scores = []
    for start in range(0, len(following), _BLOCK):
        part, candidates = histories.part(start, start + _BLOCK), following[start : start + _BLOCK]
        rows, shares = part.newest(context.max_length)
        unknown, nobody = np.full(len(part), np.nan, np.float32), np.zeros(len(part), np.int64)
        columns = (part.previous, candidates, unknown, nobody, rows, shares)
        scores.append(context.score(scorer, PairBatch(*(torch.from_numpy(column).to(device) for column in columns))))
    return torch.cat(scores)


def mean_of_tracks(scorer: Scorer, artist_of: Int64[Tensor, "N"]) -> Float[Tensor, "A V"]:
    """The mean item vector of each artist's tracks, for a scorer that has no vectors of artists.

    Tracks that no training pair shows have the zero vector and do not count; zero where an artist has no others.
    """
    tracks = scorer.item_vectors()
    artist_of = artist_of.to(tracks.device)
    sums = tracks.new_zeros(int(artist_of.max()) + 1, tracks.shape[1]).index_add_(0, artist_of, tracks)
    counts = tracks.new_zeros(len(sums)).index_add_(0, artist_of, tracks.any(1).to(tracks.dtype))
    return sums / counts.clamp(min=1)[:, None]
