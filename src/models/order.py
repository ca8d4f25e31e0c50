"""Encoders: what the order of the tracks of a session adds to their weighted sum.

B histories, H tracks of a history, S sessions, T tracks of the longest one, U distinct tracks, W columns of all parts
of a query vector, D width of an encoder. `picking/order_query.py` has the formulas for the service.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segue.errors import InputError
from segue.picking.order_query import SHORTEST, ligr
from segue.runs.order_part import GRU, LIGR, MAX_BLOCKS, MOST_BYTES, OrderPart, shapes_of, size_of
from segue.settings import Setting, settings

_GROUPS = 4
"""Groups of sessions of similar length, of which each is as wide as its longest one."""


class Prefixes(NamedTuple):
    """Histories of which some begin others, as those of the pairs of one session do.

    Attributes:
        longest: lines of the histories that begin no other one.
        of_history: place of the one among them that each history begins, or is.
        length: number of tracks of each history.
    """

    longest: Int64[Tensor, "S"]
    of_history: Int64[Tensor, "B"]
    length: Int64[Tensor, "B"]


def prefixes_of(history: Int64[Tensor, "B H"], share: Float[Tensor, "B H"]) -> Prefixes:
    """Find the histories that begin the one in the next line: the same tracks with the same shares, and newer ones.

    Args:
        history: rows of the tracks, newest first; -1 where a history is shorter.
        share: share of each that was played; NaN where unknown.
    """
    is_there, ages = history >= 0, torch.arange(history.shape[1], device=history.device)
    length = is_there.sum(1)
    newer = length[1:] - length[:-1]
    place = (newer[:, None] + ages).clamp(0, history.shape[1] - 1)
    later, earlier = share[1:].gather(1, place), share[:-1]
    same = (history[1:].gather(1, place) == history[:-1]) & ((later == earlier) | (later.isnan() & earlier.isnan()))
    is_longest = torch.ones(len(history), dtype=torch.bool, device=history.device)
    is_longest[:-1] = ~((newer >= 0) & (same | ~is_there[:-1]).all(1))
    return Prefixes(is_longest.nonzero()[:, 0], is_longest.cumsum(0) - is_longest.long(), length)


@settings("context.encoder")
class Encoder(nn.Module):
    """Reads the tracks of a session in their order; what it has read is added to the weighted sum of their vectors.

    `gru` is a gated recurrent unit (GRU4Rec), `ligr` causal self-attention with gated residuals (SASRec, as eSASRec has
    it). It reads a session once for all pairs of the session, if they are in one batch.

    Args:
        width: columns of all parts of a query vector (W).
        max_length: largest number of tracks of a session.

    Raises:
        InputError: a setting is out of range, or a service would not take an encoder of this size.

    Source:
        Hidasi et al., Session-based recommendations with recurrent neural networks, ICLR 2016. Tikhonovich et al.,
        eSASRec, RecSys 2025.
    """

    def __init__(
        self,
        width: int,
        max_length: int,
        *,
        kind: Annotated[Literal["gru", "ligr"], Setting("of the encoder")],
        dim: Annotated[int, Setting("width of what it remembers (D)", least=1)],
        blocks: Annotated[int, Setting("number of blocks of the attention (ligr)", least=1, most=MAX_BLOCKS)] = 1,
        dropout: Annotated[float, Setting("share of what it has read set to 0 in training", least=0, most=0.9)] = 0.0,
        rate: Annotated[float, Setting("its learning rate, relative to optimizer.lr", above=0)] = 0.3,
    ) -> None:
        super().__init__()
        if kind == GRU and blocks > 1:
            raise InputError(
                f"context.encoder.blocks={blocks} is of the attention, which kind={GRU} has not; leave it out, or use "
                "model=sasrec"
            )
        self.kind, self.rate = kind, rate
        shapes = shapes_of(kind, width=width, dim=dim, max_length=max_length, blocks=0 if kind == GRU else blocks)
        if (size := size_of(shapes)) > MOST_BYTES:
            raise InputError(
                f"context.encoder.dim={dim} makes an encoder of {size:,} bytes, and a service takes at most "
                f"{MOST_BYTES:,}; use a smaller dim, or a smaller model.dim"
            )
        self.numbers = nn.ParameterDict({name: _first(name, shape) for name, shape in shapes.items()})
        self.dropout = nn.Dropout(dropout)

    def added(
        self,
        vectors: Float[Tensor, "U W"],
        place: Int64[Tensor, "B H"],
        weight: Float[Tensor, "B H"],
        prefixes: Prefixes,
    ) -> Float[Tensor, "B W"]:
        """Compute what is added to the query vector of each history.

        Args:
            vectors: query vectors of the distinct tracks.
            place: place of each track of a history among them, newest first; anything after the oldest.
            weight: weight of each track by its share.
            prefixes: which histories begin others.
        """
        length = prefixes.length[prefixes.longest]
        numbers, output = dict(self.numbers), self.numbers["output"]
        longest = int(length.max()) if len(length) else 0
        if longest < SHORTEST:
            return vectors.new_zeros(len(prefixes.length), output.shape[1])
        states = vectors.new_zeros(len(length), longest, len(output))
        for lines in length.argsort().chunk(_GROUPS):
            age = length[lines, None] - 1 - torch.arange(int(length[lines].max()), device=length.device)
            at = prefixes.longest[lines, None], age.clamp(min=0)
            tracks = vectors[place[at]] * (weight[at] * (age >= 0))[..., None]
            states[lines, : age.shape[1]] = self.read(tracks, numbers)
        ends = states[prefixes.of_history, (prefixes.length - 1).clamp(min=0)]
        return torch.as_tensor(self.dropout(ends) @ output * (prefixes.length >= SHORTEST)[:, None])

    def read(self, tracks: Float[Tensor, "S T W"], numbers: Mapping[str, Tensor]) -> Float[Tensor, "S T D"]:
        """Compute what it has read after each track.

        Args:
            tracks: vectors of the tracks of sessions, oldest first, each multiplied by its weight.
            numbers: its arrays by name.
        """
        if self.kind == LIGR:
            return torch.as_tensor(ligr(tracks, numbers, xp=torch, drop=self.dropout))
        weights = [numbers["input"].T, numbers["state"].T, numbers["input_bias"], numbers["state_bias"]]
        first = tracks.new_zeros(1, len(tracks), len(numbers["state"]))
        states, _ = torch.gru(tracks, first, weights, True, 1, 0.0, False, False, True)
        return states

    def part(self) -> OrderPart:
        """Its numbers, for a service."""
        numbers = {name: one.detach().float().cpu().numpy() for name, one in self.numbers.items()}
        return OrderPart(kind=self.kind, numbers=numbers)


def _first(name: str, shape: tuple[int, ...]) -> Tensor:
    """What an array begins with: matrices of which each keeps the variance, and little that is added."""
    if name.endswith("scale"):
        return torch.ones(shape)
    if name.endswith(("shift", "bias")):
        return torch.zeros(shape)
    spread = 0.02 if name == "place" else (0.1 if name == "output" else 1.0) * shape[-2] ** -0.5
    return torch.randn(shape) * spread
