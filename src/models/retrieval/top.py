"""The best candidates of lines of scores, with one rule for ties.

B lines, N candidates, K best ones, S candidates of a group.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

_MORE = 8  # candidates beyond the K best: nearly always all that tie with the last one are among them
_FIRST = 16  # times K candidates, the first in the order, in which the last of equal ones are looked for


def top_k(
    scores: Float[Tensor, "B N"], k: int, order: Int64[Tensor, "N"] | None = None, *, decimals: int | None = None
) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Find the K highest scores of each line, best first.

    Candidates are taken in groups: those with the M largest maxima contain the M best, which takes half the time of
    looking at each candidate. Where the last of the K ties with all that follow it, the order decides which are taken.

    Args:
        scores: scores of all candidates; −∞ for what is none.
        k: number of scores to find, below N.
        order: the candidates in the order that decides between equal scores; None for the lower place.
        decimals: of scores, which are rounded before they are compared; None for scores as they are.

    Returns:
        Scores and their places in the line.
    """
    if order is None:
        order = torch.arange(scores.shape[1], device=scores.device)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    size = max(32, 2 ** round(np.log2(max(1, scores.shape[1] / (k + 1))) / 2))
    values, places = _highest(scores, min(k + _MORE, scores.shape[1]), size, decimals)
    lines = (values[:, k - 1] == values[:, -1]).nonzero()[:, 0]
    last, values[lines, k:] = values[lines, k - 1 : k], -torch.inf
    for num in (_FIRST * (k + 1), scores.shape[1]):  # nearly always the first ones are enough
        if not len(lines):
            break
        num_above = (values[lines, :k] > last).sum(1, keepdim=True)
        columns = order[:num]
        is_tied = _rounded(scores[lines[:, None], columns], decimals) == last
        first = columns[is_tied.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]]
        slot = torch.arange(k, device=scores.device) - num_above
        is_enough = is_tied.sum(1) >= k - num_above[:, 0]
        chosen = torch.where(slot < 0, places[lines, :k], first.gather(1, slot.clamp(min=0, max=first.shape[1] - 1)))
        places[lines[is_enough], :k] = chosen[is_enough]
        lines, last = lines[~is_enough], last[~is_enough]
    by_order = place[places].argsort(dim=1)
    values, places = values.gather(1, by_order), places.gather(1, by_order)
    values, best = values.sort(dim=1, descending=True, stable=True)
    return values[:, :k], places.gather(1, best)[:, :k]


def _highest(
    scores: Float[Tensor, "B N"], k: int, size: int, decimals: int | None
) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """The K highest of each line, highest first; any of those that tie with the last one."""
    num = scores.shape[1]
    if num < 4 * k * size:
        values, places = _rounded(scores.clone(), decimals).topk(k, dim=1)
        return values, places
    whole = num // size * size  # the candidates after it are all looked at
    groups = scores[:, :whole].view(len(scores), -1, size)
    best = _rounded(groups.amax(2), decimals).topk(k, dim=1, sorted=False).indices
    lines = torch.arange(len(scores), device=scores.device)[:, None]
    inside = torch.cat([groups[lines, best].flatten(1), scores[:, whole:]], dim=1)
    values, nth = _rounded(inside, decimals).topk(k, dim=1)
    in_group = nth < k * size
    places = best.gather(1, (nth // size).clamp(max=k - 1)) * size + nth % size
    return values, torch.where(in_group, places, whole + nth - k * size)


def _rounded(scores: Float[Tensor, "..."], decimals: int | None) -> Float[Tensor, "..."]:
    """The scores, rounded in place."""
    return scores if decimals is None else scores.mul_(10**decimals).round_().div_(10**decimals)
