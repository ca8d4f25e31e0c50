"""What processes that train one model together exchange in a step: three numbers, and the gradients of the batch.

P parameters, W processes, L numbers of one process, Q queries. Tables with sparse gradients exchange row numbers and
gradients of the rows that the batch has. What a step sends therefore depends on the batch and not on the catalogue.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor, nn

_NO_GRADIENT, _DENSE = -2, -1
"""In place of a number of rows."""


def is_shared() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def by_parts(work: Callable[[int, int], Float64[np.ndarray, "_"]], size: int) -> Float64[np.ndarray, "Q"]:
    """Divide work among the processes; each gets all results.

    Args:
        work: from the first and the end of a range to the results of this range.
        size: number of results (Q).

    Returns:
        The results for all of 0..size-1.
    """
    if not is_shared():
        return work(0, size)
    index, count = dist.get_rank(), dist.get_world_size()
    parts: list[Any] = [None] * count
    dist.all_gather_object(parts, work(size * index // count, size * (index + 1) // count))
    return np.concatenate(parts)


def part_of_loss(
    loss: Float[Tensor, ""], weight: Float[Tensor, ""], num_pairs: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], int]:
    """Weight the loss of a part of a batch, such that the losses of all processes sum to that of the batch.

    Args:
        loss: mean of the pairs of this process.
        weight: what this mean is weighted with, at least 0; see `Loss.weight`.
        num_pairs: pairs of this process, at least 0.

    Returns:
        What this process adds to the loss of the batch, with its gradients; the loss of the batch, and its pairs.
    """
    weight = weight.detach().double()
    # a part without weight may have a loss without meaning
    sums = torch.stack([weight, torch.where(weight > 0, weight * loss.detach(), 0.0), weight.new_tensor(num_pairs)])
    dist.all_reduce(sums)
    total = sums[0].clamp(min=1e-9)
    return loss * (weight / total).to(loss.dtype), (sums[1] / total).to(loss.dtype), int(sums[2])


def exchange_gradients(parameters: Sequence[nn.Parameter]) -> int:
    """Replace the gradients of each process by their sum over all processes. All processes get the same numbers.

    A parameter may have a gradient in some processes only. One that has none anywhere keeps none.

    Args:
        parameters: in the same order in all processes.

    Returns:
        Bytes that this process sends to each other one.
    """
    own = [None if p.grad is None else p.grad.coalesce() if p.grad.is_sparse else p.grad for p in parameters]
    of_own = [_NO_GRADIENT if one is None else one.indices().shape[1] if one.is_sparse else _DENSE for one in own]
    sizes = torch.stack(_gathered(torch.tensor(of_own, device=parameters[0].device)))
    most = sizes.amax(0).tolist()
    num_bytes = sizes[0].nbytes
    dense = [nth for nth, size in enumerate(most) if size == _DENSE]
    sparse = [nth for nth, size in enumerate(most) if size >= 0]
    if dense:
        num_bytes += _sum_dense([parameters[nth] for nth in dense], [own[nth] for nth in dense])
    if sparse:
        num_rows = sizes[:, sparse].clamp(min=0)
        num_bytes += _gather_rows([parameters[nth] for nth in sparse], [own[nth] for nth in sparse], num_rows)
    return num_bytes


def _sum_dense(parameters: Sequence[nn.Parameter], own: Sequence[Tensor | None]) -> int:
    pairs = zip(parameters, own, strict=True)
    flat = torch.cat([(torch.zeros_like(p) if gradient is None else gradient).flatten() for p, gradient in pairs])
    dist.all_reduce(flat)
    for parameter, summed in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = summed.view_as(parameter)
    return flat.nbytes


def _gather_rows(
    parameters: Sequence[nn.Parameter], own: Sequence[Tensor | None], num_rows: Int64[Tensor, "W P"]
) -> int:
    there = [gradient for gradient in own if gradient is not None]
    own_rows = torch.cat([num_rows.new_empty(0), *(gradient.indices().flatten() for gradient in there)])
    own_values = torch.cat([parameters[0].new_empty(0), *(gradient.values().flatten() for gradient in there)])
    widths = torch.tensor([p.numel() // len(p) for p in parameters], device=num_rows.device)
    rows, values = _gathered_parts(own_rows, num_rows), _gathered_parts(own_values, num_rows * widths)
    for nth, parameter in enumerate(parameters):
        indices = torch.cat([of_process[nth] for of_process in rows])[None]
        summands = torch.cat([of_process[nth] for of_process in values]).view(-1, *parameter.shape[1:])
        parameter.grad = None  # it may be of another size
        parameter.grad = torch.sparse_coo_tensor(indices, summands, parameter.shape, check_invariants=False)
    return int(num_rows.sum(1).max()) * own_rows.itemsize + int((num_rows @ widths).max()) * own_values.itemsize


def _gathered_parts(own: Shaped[Tensor, "L"], sizes: Int64[Tensor, "W P"]) -> list[Sequence[Tensor]]:
    """The numbers of every process, cut into those of each parameter. All send as many as the one that has most."""
    padded = own.new_zeros(int(sizes.sum(1).max()))
    padded[: len(own)] = own
    return [sent[: sum(parts)].split(parts) for sent, parts in zip(_gathered(padded), sizes.tolist(), strict=True)]


def _gathered(own: Shaped[Tensor, "L"]) -> list[Shaped[Tensor, "L"]]:
    """The tensor of every process, which have the same size."""
    tensors = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, own)
    return tensors
