"""Exact search over the whole catalogue by inner product: the best candidates, and the rank of a given one.

N tracks in the catalogue, Q queries, K candidates kept, V width of a vector. The query itself is never a candidate.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from src.errors import InputError
from src.recommendations import SCORE_DECIMALS, check_k

TIE = 1e-6
"""Scores closer than this, times the larger of 1 and the score's size, tie: beyond it float32 is noise."""


def top_k(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
    """Exact K best candidates for each of the `query_rows` by inner product, the query itself excluded.

    Scores are rounded to SCORE_DECIMALS first. Among equal scores the track with more `plays` comes first, then the
    one with the lower row, so that a query of which nothing is known gets the most popular tracks.

    Args:
        queries: query vector of every track.
        items: candidate vector of every track.
        query_rows: the rows to make lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        on_block: called with the number of queries done after each block.
        block: queries scored at once.

    Raises:
        InputError: `k` does not lie in [1, N-1], or a vector is not finite.
    """
    num_tracks = len(items)
    check_k(k, num_tracks)
    _refuse_non_finite(queries, items)
    # Candidates stand in the order in which ties are broken: a lower place wins.
    order = torch.from_numpy(np.lexsort((np.arange(num_tracks), -plays))).to(items.device)
    candidates = items[order]
    # Tracks that no training pair shows share their artist's vector: each distinct query is searched once, for one
    # candidate more than asked, since the query itself may be among them.
    distinct, of_distinct = _distinct_lines(queries[query_rows.to(queries.device)])
    scores = torch.empty(min(block, len(distinct)), num_tracks, device=items.device)
    found_rows, found_scores = [], []
    served = np.bincount(of_distinct)
    for start, chunk in zip(range(0, len(distinct), block), distinct.split(block), strict=True):
        block_scores = torch.mm(chunk, candidates.T, out=scores[: len(chunk)]).mul_(10**SCORE_DECIMALS).round_()
        values, places = _first_of_ties(block_scores, k + 1)
        found_rows.append(order[places].cpu())
        found_scores.append((values / 10**SCORE_DECIMALS).cpu())
        on_block(int(served[start : start + len(chunk)].sum()))
    rows = torch.cat(found_rows).numpy()[of_distinct]
    others = rows != query_rows.cpu().numpy()[:, None]
    others[others.all(1), -1] = False
    return rows[others].reshape(-1, k), torch.cat(found_scores).numpy()[of_distinct][others].reshape(-1, k)


def _refuse_non_finite(*tables: Tensor) -> None:
    """NaN is above and below nothing: it would rank first."""
    if not all(table.isfinite().all() for table in tables):
        raise InputError("training diverged: vectors are not finite, so nothing can be ranked; lower optimizer.lr")


def _distinct_lines(vectors: Float[Tensor, "Q V"]) -> tuple[Float[Tensor, "U V"], Int64[np.ndarray, "Q"]]:
    """The distinct vectors, bit by bit, and which of them each line is."""
    lines = np.ascontiguousarray(vectors.cpu().numpy())
    _, first, which = np.unique(
        lines.view(np.dtype((np.void, lines[0].nbytes))), return_index=True, return_inverse=True
    )
    return vectors[torch.from_numpy(first).to(vectors.device)], which.ravel()


def _first_of_ties(scores: Float[Tensor, "B N"], k: int) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Top k of each line, where equal scores go to the lower place first, at the edge as well as inside."""
    values, places = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # topk takes any of the candidates that tie with the last one: where it left some out, choose again.
    undecided = ((values[:, k - 1] == values[:, -1]) & (values.shape[1] > k)).nonzero()[:, 0]
    values, places = values[:, :k].contiguous(), places[:, :k].contiguous()
    if len(undecided):
        lines, edge = scores[undecided], values[undecided, -1:]
        above = lines > edge
        tied = lines == edge
        taken = above | (tied & (tied.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
        places[undecided] = taken.nonzero()[:, 1].view(len(undecided), k)
        values[undecided] = lines[taken].view(len(undecided), k)
    places, by_place = places.sort(dim=1)
    values, by_value = values.gather(1, by_place).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, by_value)


def mean_ranks(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    previous: Int64[Tensor, "Q"],
    following: Int64[Tensor, "Q"],
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> Float64[np.ndarray, "Q"]:
    """Rank of each `following` among all candidates of its `previous`, by inner product.

    Candidates that tie share the mean of the ranks they take up. Scores are made for `block` queries at a time, so
    that the memory is block × N.

    Args:
        queries: query vector of every track.
        items: item vector of every track.
        previous: rows of the queries.
        following: rows of the tracks that followed, each another track than its query.
        on_block: called with the number of queries done after each block.
        block: queries scored at once.

    Raises:
        InputError: a vector is not finite.
    """
    _refuse_non_finite(queries, items)
    ranks = []
    buffer = torch.empty(min(block, len(previous)), len(items), device=items.device)
    for query, target in zip(previous.split(block), following.split(block), strict=True):
        scores = torch.mm(queries[query], items.T, out=buffer[: len(query)])
        of_target = scores.gather(1, target[:, None])
        scores.scatter_(1, query[:, None], -torch.inf)
        margin = TIE * of_target.abs().clamp(min=1)
        above = (scores > of_target + margin).sum(1)
        up_to = (scores >= of_target - margin).sum(1)  # the target itself among them
        ranks.append((above + 1 + up_to).double().cpu().numpy() / 2)
        on_block(len(query))
    return np.concatenate(ranks) if ranks else np.empty(0)
