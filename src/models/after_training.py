"""What is fitted around a head after each epoch, by its weights: one after another, since each needs those before it.

1. what is counted, to validation queries (`Counted.choose`);
2. the listener's part, to validation queries or to pairs whose shares are known;
3. boosts of tracks already heard, to training targets (`fit_boosts`; a refit, which has no validation, does it alone);
4. whether these boosts are used, by validation: `Repeats.choose`, as it ranks validation queries anyway.

Q queries, B queries of a block, N tracks in the catalogue, P pairs.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from segue.histories import Histories
from segue.models.contracts import Rated
from segue.models.counted import MOST_QUERIES, Query, blocks_of, sample_of
from segue.models.head_ranker import HeadRanker, score_pairs
from segue.models.listener_part import MOST_FITTED, ListenerPart
from segue.models.retrieval.ranks import block_size, ndcg
from segue.runs.counted_part import CountedPart


def fit_around(
    ranker: HeadRanker, histories: Histories, following: Int64[np.ndarray, "Q"], rated: Rated | None
) -> None:
    """Fit 1 to 3: how much the parts weigh; 1 and 2 are left out where validation is not better with them.

    Args:
        ranker: the head with its parts.
        histories: what was heard before.
        following: rows of the tracks that followed.
        rated: validation pairs whose shares are known; None for none.
    """
    counts, listener = ranker.counts, ranker.listener
    if listener is not None:
        listener.decide({})
    if ranker.temperature is None:
        if listener is not None and rated is not None and rated.histories.timeline is not None:
            _fit_listener_to_shares(ranker, listener, rated)
    elif len(following):
        if counts is not None:
            queries = sample_of(histories, following, MOST_QUERIES)
            counts.choose(lambda: _scored(ranker, None, *queries), is_last=ranker.context.is_last)
        if listener is not None and histories.timeline is not None:
            _fit_listener_to_ranks(ranker, listener, *sample_of(histories, following, MOST_FITTED))
    fit_boosts(ranker)


@torch.inference_mode()
def fit_boosts(ranker: HeadRanker) -> None:
    """Fit the boosts of tracks already heard to training targets, by the weights of the epoch."""
    repeats, unit = ranker.context.repeats, ranker.temperature
    if repeats.asked is None or unit is None:
        return
    counted = None if ranker.counts is None else ranker.counts.part(unit, repeats.asked.first_event)
    score = ranker.products(counted)

    def shares_of(histories: Histories) -> Float[Tensor, "B N"]:
        return (score(histories) / unit).softmax(1)

    repeats.fit(shares_of, unit=unit, adds=False, at_once=block_size(ranker.scorer.num_tracks))


def _scored(
    ranker: HeadRanker, part: CountedPart | None, histories: Histories, following: Int64[np.ndarray, "Q"]
) -> Iterator[Query]:
    """Some queries at a time, with what is counted."""
    score = ranker.products(part)
    for own, targets in blocks_of(histories, following, min(256, block_size(ranker.scorer.num_tracks))):
        logits = score(own) / (ranker.temperature or 1.0)
        yield ranker.among_candidates(logits, own, None), own, targets


def _fit_listener_to_ranks(
    ranker: HeadRanker, listener: ListenerPart, histories: Histories, following: Int64[np.ndarray, "Q"]
) -> None:
    def gain() -> float:
        return float(ndcg(ranker.ranks(histories, following)).mean())

    weights, without = listener.fit_ranks(_scored(ranker, ranker.counted, histories, following)), gain()
    listener.weights = np.float32(ranker.temperature) * weights
    value = gain()
    listener.keep(listener.weights, "ndcg@10", without, value)


def _fit_listener_to_shares(ranker: HeadRanker, listener: ListenerPart, rated: Rated) -> None:
    """Fit the weights to pairs of artists that the session had not heard: of others less and less is played."""
    is_other = listener.of_other_artists(rated.histories, rated.following)
    histories, following = rated.histories.where(np.flatnonzero(is_other)), rated.following[is_other]
    is_first = rated.listener[is_other] % 2 == 0
    if is_first.all() or not is_first.any():
        return
    scores = score_pairs(ranker.scorer, ranker.context, histories, following).double().cpu().numpy()
    listener.fit_shares(scores, listener.features(histories, following), rated.played_ratio[is_other], is_first)
