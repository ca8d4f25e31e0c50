"""Weighted sums of vectors for each history, a kernel of training.

The gradients of `embedding_bag` sort the places for each part, which takes ten times as long; those of single weights
take longer still. Its plain form, number by number, is in `tests/contracts/test_contexts.py`.

B histories, U distinct tracks in them, E tracks of all histories, V width of a vector, W of a part.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable


class Heard(NamedTuple):
    """The tracks of histories, one after another.

    Attributes:
        place: place of each track among the distinct ones.
        of_history: number of its history.
        start: the first of each history.
    """

    place: Int64[Tensor, "E"]
    of_history: Int64[Tensor, "E"]
    start: Int64[Tensor, "B"]

    def sum(self, table: Float[Tensor, "U W"], weight: Float[Tensor, "E"]) -> Float[Tensor, "B W"]:
        """Weighted sum of the rows of a table for each history."""
        return F.embedding_bag(self.place, table, self.start, mode="sum", per_sample_weights=weight.to(table.dtype))


class _WeightedSums(torch.autograd.Function):
    """Weighted sum of vectors for each history. Each part of a vector has weights, which depend on learned numbers.

    Its gradients are sums too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Float[Tensor, "U V"],
        heard: Heard,
        widths: Sequence[int],
        weights: Sequence[Float[Tensor, "E"]],
        slopes: Sequence[tuple[int, Float[Tensor, "E"]]],
        *_: Float[Tensor, ""],
    ) -> Float[Tensor, "B V"]:
        parts = [part.contiguous() for part in vectors.split(widths, dim=1)]
        ctx.widths, ctx.size, ctx.part_of = widths, vectors.shape, [number for number, _ in slopes]
        changes = [heard.sum(parts[number], slope) for number, slope in slopes]
        ctx.save_for_backward(heard.place, heard.of_history, *weights, *changes)
        return torch.cat([heard.sum(part, weight) for part, weight in zip(parts, weights, strict=True)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B V"]) -> tuple[Tensor | None, ...]:
        place, of_history, *others = ctx.saved_tensors
        weights, changes = others[: len(ctx.widths)], others[len(ctx.widths) :]
        of_events, parts = gradient.index_select(0, of_history), gradient.split(ctx.widths, dim=1)
        for part, weight in zip(of_events.split(ctx.widths, dim=1), weights, strict=True):
            part.mul_(weight[:, None])
        of_vectors = gradient.new_zeros(ctx.size).index_add_(0, place, of_events)
        of_numbers = [(parts[number] * change).sum() for number, change in zip(ctx.part_of, changes, strict=True)]
        return of_vectors, None, None, None, None, *of_numbers


weighted_sums: Callable[..., Tensor] = _WeightedSums.apply
"""Weighted sum of vectors for each history, with the parameters of `_WeightedSums.forward`."""
