"""Kernels of heads and contexts: faster forms of plain operations. A test compares each with its plain form.

B tracks, pairs or histories, D width of an embedding, U distinct tracks of histories, E tracks of all histories, V
width of a vector, W of a part. On a CPU, training with `nn.Dropout`, `F.normalize` and `F.cosine_similarity` takes up
to eight times as long in these operations. The gradients of `embedding_bag` sort the places for each part, which takes
ten times as long as those of `weighted_sums`; those of single weights take longer still.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Dropout(nn.Module):
    """Sets each number to 0 with a given probability in training; the others are scaled such that the mean stays.

    It has the distribution of `nn.Dropout` and takes a quarter of its time on a CPU: each number needs 16 random bits,
    and one draw of 64 bits serves four numbers.

    Args:
        share: probability of 0, in [0, 1); rounded to a multiple of 1/65536.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self._num_zeros = round(share * 2**16)

    def forward(self, values: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The numbers that are kept, scaled, and 0 for the others."""
        if not (self.training and self._num_zeros):
            return values
        draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: values.numel()].view(values.shape)
        return values * (bits >= self._num_zeros - 2**15).to(values.dtype).mul_(1 / (1 - self._num_zeros / 2**16))


class _UnitVectors(torch.autograd.Function):
    """Vectors divided by √(|v|² + h²); zero stays zero. `F.normalize` takes eight times as long in training."""

    @staticmethod
    def forward(ctx: Any, vectors: Float[Tensor, "B D"], squared: float) -> Float[Tensor, "B D"]:
        one_over_length = (vectors * vectors).sum(dim=-1, keepdim=True).add_(squared).clamp_(min=1e-24).rsqrt_()
        unit = vectors * one_over_length
        ctx.save_for_backward(unit, one_over_length)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B D"], None]:
        unit, one_over_length = ctx.saved_tensors
        along = (unit * gradient).sum(dim=-1, keepdim=True)
        return torch.addcmul(gradient, unit, along, value=-1).mul_(one_over_length), None


unit: Callable[[Tensor, float], Tensor] = _UnitVectors.apply
"""`v / √(|v|² + h²)` of each vector, from the vectors and h²."""


def cosine(
    first: Float[Tensor, "B D"], second: Float[Tensor, "B D"], dropout: Dropout, squared: float
) -> Float[Tensor, "B"]:
    """Compute the product of the `unit` vectors of each pair. Takes half the time of dividing both vectors first.

    Args:
        first: vectors in the first place.
        second: vectors in the second place.
        dropout: of the numbers of the unit vectors.
        squared: h².
    """
    dot = torch.linalg.vecdot
    with torch.autocast(first.device.type, enabled=False):  # these squares are too small for half precision
        dropped = dot(dropout(first), dropout(second))
        lengths = (dot(first, first) + squared) * (dot(second, second) + squared)
        return torch.as_tensor(dropped * lengths.clamp(min=1e-24).rsqrt())


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
