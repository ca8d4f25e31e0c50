"""The best candidates of lines of scores, with one rule for ties.

B lines, N candidates, K best ones, S candidates of a group.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor

from segue.catalog import most_played


def top_k(
    scores: Float[Tensor, "B N"], k: int, *, order: Real[np.ndarray, "N"] | None = None, decimals: int | None = None
) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Find the K highest scores of each line, best first.

    Candidates are taken in groups: those with the K + 1 largest maxima contain the K + 1 best, which takes half the
    time of looking at each candidate. Where the last of them ties with the next one, the whole line is sorted.

    Args:
        scores: scores of all candidates; −∞ for what is none.
        k: number of scores to find, below N.
        order: of equal scores that with the higher value comes first, then the lower place; None for the place alone.
        decimals: of scores, which are rounded before they are compared; None for scores as they are.

    Returns:
        Scores and their places in the line.
    """
    by_order = None if order is None else torch.from_numpy(most_played(order)).to(scores.device)
    size = max(32, 2 ** round(np.log2(max(1, scores.shape[1] / (k + 1))) / 2))
    values, places = _highest(scores, k + 1, size, decimals)
    undecided = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
    values, places = values[:, :k], places[:, :k]
    if len(undecided):
        lines = _rounded(scores[undecided] if by_order is None else scores[undecided][:, by_order], decimals)
        last = values[undecided, -1:]
        above, tied = lines > last, lines == last
        chosen = above | (tied & (tied.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
        found = chosen.nonzero()[:, 1].view(len(undecided), k)
        values[undecided] = lines[chosen].view(len(undecided), k)
        places[undecided] = found if by_order is None else by_order[found]
    keys = places if by_order is None else by_order.argsort()[places]
    first = keys.argsort(dim=1)
    values, places = values.gather(1, first), places.gather(1, first)
    values, best = values.sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, best)


def _highest(
    scores: Float[Tensor, "B N"], k: int, size: int, decimals: int | None
) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """The K highest of each line, highest first; any of those that tie with the last one."""
    num = scores.shape[1]
    if num < 4 * k * size:
        values, places = _rounded(scores.clone(), decimals).topk(k, dim=1)
        return values, places
    whole = num // size * size
    maxima = scores[:, :whole].view(len(scores), -1, size).amax(2)
    if whole < num:
        maxima = torch.cat([maxima, scores[:, whole:].amax(1, keepdim=True)], dim=1)
    groups = _rounded(maxima, decimals).topk(k, dim=1).indices
    places = (groups[:, :, None] * size + torch.arange(size, device=scores.device)).flatten(1)
    inside = scores.gather(1, places.clamp(max=num - 1))
    if whole < num:
        inside.masked_fill_(places >= num, -torch.inf)
    values, best = _rounded(inside, decimals).topk(k, dim=1)
    return values, places.gather(1, best)


def _rounded(scores: Float[Tensor, "..."], decimals: int | None) -> Float[Tensor, "..."]:
    """The scores, rounded in place."""
    return scores if decimals is None else scores.mul_(10**decimals).round_().div_(10**decimals)
