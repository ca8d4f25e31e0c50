"""Attention: which earlier tracks of a session the newest one asks for.

B histories, H tracks of a history, E = H − 1 of them earlier than the newest, U distinct tracks, W columns of the parts
of a query vector. Scores are dimensionless.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SHARP = 8.0
"""Factor of the logits: vectors are at most 1 long, and a softmax of such small products would be nearly flat."""
_SMALL = 0.1
"""Factor of what is read: the sum of the session is learned first."""
_AT_ONCE = 128
"""Histories whose vectors are looked up together on a CPU. They then fit into its cache."""


class Attention(nn.Module):
    """One layer of attention with one head: the newest track asks which of the earlier ones count.

    `read = Σ_k a_k · g(share_k) · query(track_k) · R` over the earlier tracks, k = 1 directly before the newest, where
    `a` is the softmax of `query(track_0) · A · query(track_k) + b_k`, and `g` what its share makes of a track. The
    matrices A and R and the numbers b of each age are learned. Of a session of one track nothing is read.

    Args:
        width: number of columns of the parts of a query vector (W).
        max_length: number of newest tracks that count (H), at least 2.

    Source:
        Luong, Pham and Manning, Effective approaches to attention-based neural machine translation, EMNLP 2015
        (`general` attention).
    """

    def __init__(self, width: int, max_length: int) -> None:
        super().__init__()
        self._asks, self._reads = (nn.Parameter(torch.randn(width, width) / width**0.5) for _ in range(2))
        self.ages = nn.Parameter(torch.zeros(max_length - 1))

    @property
    def asks(self) -> Float[Tensor, "W W"]:
        """The matrix A."""
        return _SHARP * self._asks

    @property
    def reads(self) -> Float[Tensor, "W W"]:
        """The matrix R."""
        return _SMALL * self._reads

    def forward(
        self, vectors: Float[Tensor, "U W"], place: Int64[Tensor, "B H"], gain: Float[Tensor, "B H"]
    ) -> Float[Tensor, "B W"]:
        """Compute what is read of each history.

        Args:
            vectors: query vectors of the distinct tracks.
            place: place of each track of a history among them, newest first; -1 where there is none.
            gain: what the share of each track makes of it.

        Returns:
            What is added to the weighted sum of each history.
        """
        asked, place, gain = vectors.index_select(0, place[:, 0]) @ self.asks, place[:, 1:], gain[:, 1:]
        order = (place >= 0).sum(1).argsort()
        read = _weighted(vectors, asked[order], self.ages[: place.shape[1]], gain[order], place[order])
        return torch.empty_like(read).index_copy(0, order, read) @ self.reads


class _Weighted(torch.autograd.Function):
    """The sum that attention weights, before R, of histories in ascending order of their lengths.

    The vectors of histories are looked up again for its gradients, because that is faster than to keep them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Float[Tensor, "U W"],
        asked: Float[Tensor, "B W"],
        ages: Float[Tensor, "E"],
        gain: Float[Tensor, "B E"],
        place: Int64[Tensor, "B E"],
    ) -> Float[Tensor, "B W"]:
        shares, sums = torch.zeros_like(gain), torch.empty_like(asked)
        for some in _blocks(place):
            heard, places = _looked_up(vectors, place[some]), place[some]
            logits = torch.bmm(heard, asked[some[0], :, None])[..., 0] + ages[some[1]]
            shares[some] = logits.masked_fill(places < 0, -torch.inf).softmax(1).nan_to_num()
            sums[some[0]] = torch.bmm((shares[some] * gain[some])[:, None], heard)[:, 0]
        ctx.save_for_backward(vectors, asked, gain, place, shares)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B W"]) -> tuple[Tensor | None, ...]:
        vectors, asked, gain, place, shares = ctx.saved_tensors
        of_vectors, of_asked = torch.zeros_like(vectors), torch.empty_like(asked)
        of_logits, of_gain = torch.zeros_like(gain), torch.zeros_like(gain)
        for some in _blocks(place):
            heard, share, block = _looked_up(vectors, place[some]), shares[some], some[0]
            of_weight = torch.bmm(heard, gradient[block, :, None])[..., 0]
            of_gain[some] = share * of_weight
            of_share = gain[some] * of_weight
            of_logits[some] = share * (of_share - (share * of_share).sum(1, keepdim=True))
            of_asked[block] = torch.bmm(of_logits[some][:, None], heard)[:, 0]
            weights = torch.stack([share * gain[some], of_logits[some]], dim=2)
            of_heard = torch.bmm(weights, torch.stack([gradient[block], asked[block]], dim=1))
            is_there = place[some] >= 0
            of_vectors.index_add_(0, place[some][is_there], of_heard[is_there])
        return of_vectors, of_asked, of_logits.sum(0), of_gain, None


_weighted: Callable[..., Tensor] = _Weighted.apply


def _blocks(place: Int64[Tensor, "B E"]) -> list[tuple[slice, slice]]:
    """Some histories, and the columns that the longest of them needs."""
    at_once, lengths = _AT_ONCE if place.is_cpu else len(place), (place >= 0).sum(1).tolist()
    return [
        (slice(first, first + at_once), slice(0, max(lengths[first : first + at_once])))
        for first in range(0, len(place), at_once or 1)
    ]


def _looked_up(vectors: Float[Tensor, "U W"], place: Int64[Tensor, "B E"]) -> Float[Tensor, "B E W"]:
    found: Tensor = vectors.index_select(0, place.clamp(min=0).flatten()).unflatten(0, place.shape)
    return found
