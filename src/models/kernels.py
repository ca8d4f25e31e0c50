"""Kernels of heads, contexts and losses: faster forms of plain operations. A test compares each with its plain form.

B tracks, pairs or histories, D width of an embedding, U distinct tracks of histories, E tracks of all histories, V
width of a vector, W of a part, P parts, Q queries, K candidates. On a CPU, training with `nn.Dropout` and
`F.normalize` takes up to eight times as long in these operations. The gradients of `embedding_bag` sort the places for
each part, which takes ten times as long as those of `weighted_sums`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CACHED = 2**17
"""Numbers that are computed at once on a CPU: with the intermediate results they fit into its cache."""


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

    def sums(
        self, vectors: Float[Tensor, "U V"], weights: Float[Tensor, "P E"], widths: Sequence[int]
    ) -> Float[Tensor, "B V"]:
        """Weighted sum of the vectors of each history, whose parts have weights of their own."""
        parts = zip(vectors.split(widths, dim=1), weights.to(vectors.dtype), strict=True)
        given: dict[str, Any] = {"offsets": self.start, "mode": "sum"}
        bags = [F.embedding_bag(self.place, part.contiguous(), per_sample_weights=one, **given) for part, one in parts]
        return torch.cat(bags, dim=1)


class _WeightedSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, vectors: Float[Tensor, "U V"], weights: Float[Tensor, "P E"], heard: Heard, widths: Sequence[int]
    ) -> Float[Tensor, "B V"]:
        ctx.heard, ctx.widths = heard, widths
        ctx.save_for_backward(vectors, weights)
        return heard.sums(vectors, weights, widths)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B V"]) -> tuple[Tensor | None, ...]:
        vectors, weights = ctx.saved_tensors
        of_vectors, of_weights = torch.zeros_like(vectors), None
        if ctx.needs_input_grad[1]:  # that of `embedding_bag` is fast for weights
            free = weights.detach().requires_grad_()
            with torch.enable_grad():
                sums = ctx.heard.sums(vectors.detach(), free, ctx.widths)
            [of_weights] = torch.autograd.grad(sums, free, gradient)
        at_once = max(1, CACHED // vectors.shape[1]) if vectors.is_cpu else max(1, weights.shape[1])
        columns = (one.split(at_once, dim=-1) for one in (ctx.heard.place, ctx.heard.of_history, weights))
        for place, of_history, weight in zip(*columns, strict=True):
            of_events = gradient.index_select(0, of_history)
            for part, one in zip(of_events.split(ctx.widths, dim=1), weight, strict=True):
                part.mul_(one[:, None])
            of_vectors.index_add_(0, place, of_events)
        return of_vectors, of_weights, None, None


weighted_sums: Callable[[Tensor, Tensor, Heard, Sequence[int]], Tensor] = _WeightedSums.apply
"""Weighted sum of vectors (U × V) for each history, from the weights of its tracks in each part of a vector (P × E),
the tracks, and the widths of the parts."""


class _SumsAndTaken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Float[Tensor, "Q K"], line: Int64[Tensor, "B"], column: Int64[Tensor, "B"]
    ) -> tuple[Float[Tensor, "Q"], Float[Tensor, "B"]]:
        largest, taken = logits.amax(dim=1), logits[line, column]
        ctx.shares, ctx.places = torch.softmax(logits, dim=1, out=logits), (line, column)
        return largest - ctx.shares.amax(dim=1).log(), taken

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Float[Tensor, "Q"], of_taken: Float[Tensor, "B"]) -> tuple[Tensor | None, ...]:
        gradient: Tensor = ctx.shares * of_sums[:, None]
        return gradient.index_put_(ctx.places, of_taken, accumulate=True), None, None


sums_and_taken: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = _SumsAndTaken.apply
"""`logsumexp` of each line of an array, and the values at some lines and columns of it. Nothing else may need the
array: its memory becomes that of the shares. New memory of this size takes as long as the product that filled it."""
