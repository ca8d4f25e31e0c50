"""Encoders: what the order of the tracks of a session adds to their weighted sum.

Nothing is added before the second track: the query of a session of one track is that of the track.

B histories, H tracks of a history, S sessions, T tracks of the longest one, Q of which the values are asked for, U
distinct tracks, W columns of all parts of a query vector, D width of an encoder.
"""

from copy import deepcopy
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from segue.models.onnx_model import onnx_of
from segue.picking.session_query import SHORTEST
from segue.runs.session_vectors import OrderPart
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
    share = share.nan_to_num(-1)  # what is unknown is equal
    same = (history[1:].gather(1, place) == history[:-1]) & (share[1:].gather(1, place) == share[:-1])
    goes_on = (newer >= 0) & (same | ~is_there[:-1]).all(1)
    is_longest = torch.cat([~goes_on, length[-1:] >= 0])  # the last history begins no other; there may be none
    return Prefixes(is_longest.nonzero()[:, 0], is_longest.cumsum(0) - is_longest.long(), length)


class _Recurrent(nn.Module):
    """A gated recurrent unit.

    Args:
        width: columns of all parts of a query vector (W).
        dim: width of the encoder (D).
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.unit = nn.GRU(width, dim, batch_first=True)

    def forward(self, tracks: Float[Tensor, "S T W"], last: Int64[Tensor, "S"] | None = None) -> Float[Tensor, "S Q D"]:
        """Compute what it has read after each track; in an ONNX model, only after that at the place `last`.

        The operator of ONNX is named here: torch's own translation keeps the number of tracks of its example, or fails.
        """
        if last is None:
            return torch.as_tensor(self.unit(tracks)[0])
        (num, length), dim = tracks.shape[:2], self.unit.hidden_size
        # ONNX has the update gate before the reset gate
        ordered = (one.unflatten(0, (3, dim))[[1, 0, 2]].flatten(0, 1) for one in self.unit.parameters())
        of_input, of_state, *biases = (one[None] for one in ordered)
        given = tracks.transpose(0, 1), of_input, of_state, torch.cat(biases, 1)
        how: dict[str, Any] = {"hidden_size": dim, "linear_before_reset": 1}
        states = torch.onnx.ops.symbolic("GRU", given, how, dtype=tracks.dtype, shape=(length, 1, num, dim))
        return states[last, 0, torch.arange(num)][:, None]


class _Attention(nn.Module):
    """Causal self-attention with one head: a block with gated residuals and SwiGLU.

    Args:
        width: columns of all parts of a query vector (W).
        dim: width of the encoder (D).
        max_length: largest number of tracks of a session.
        dropout: share of what each half of the block adds that is set to 0 in training.

    Source:
        Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018; the block is that of LiGR (Borisyuk et
        al. 2025), as eSASRec (Tikhonovich et al., RecSys 2025) has it.
    """

    def __init__(self, width: int, dim: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.input, self.place = nn.Linear(width, dim, bias=False), nn.Parameter(torch.empty(max_length, dim))
        self.attention, self.mix = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(2 * dim, dim, bias=False)
        self.attention_norm, self.up_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention_gate, self.up_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tracks: Float[Tensor, "S T W"], last: Int64[Tensor, "S"] | None = None) -> Float[Tensor, "S Q D"]:
        """Compute what it has read after each track, or only after the track at the place `last` of each session."""
        values = self.input(tracks) + self.place[: tracks.shape[1]]
        query, key, value = self.attention(self.attention_norm(values)).chunk(3, -1)
        places = torch.arange(tracks.shape[1], device=tracks.device)
        is_read = places <= places[:, None]
        if last is not None:
            at = torch.arange(last.shape[0], device=tracks.device), last
            query, values, is_read = query[at][:, None], values[at][:, None], is_read[last][:, None, None]
        heads = query[:, None], key[:, None], value[:, None]
        attended = self.mix(F.scaled_dot_product_attention(*heads, is_read)[:, 0])
        values = values + torch.sigmoid(self.attention_gate(values)) * self.dropout(attended)
        first, second = self.up(self.up_norm(values)).chunk(2, -1)
        fed = self.down(F.silu(first) * second)
        return torch.as_tensor(values + torch.sigmoid(self.up_gate(values)) * self.dropout(fed))


@settings("context.encoder")
class Encoder(nn.Module):
    """Reads the tracks of a session in their order; what it has read is added to the weighted sum of their vectors.

    `gru` is a gated recurrent unit (GRU4Rec), `ligr` causal self-attention with gated residuals (SASRec, as eSASRec has
    it). It reads a session once for all pairs of the session, if they are in one batch.

    Args:
        width: columns of all parts of a query vector (W).
        max_length: largest number of tracks of a session.

    Raises:
        InputError: a setting is out of range.

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
        dropout: Annotated[float, Setting("share of what it has read set to 0 in training", least=0, most=0.9)] = 0.0,
        rate: Annotated[float, Setting("its learning rate, relative to optimizer.lr", above=0)] = 0.3,
    ) -> None:
        super().__init__()
        self.rate, self.dropout, self.output = rate, nn.Dropout(dropout), nn.Linear(dim, width, bias=False)
        self.reader = _Recurrent(width, dim) if kind == "gru" else _Attention(width, dim, max_length, dropout)
        spreads = {"output.weight": 0.1 * dim**-0.5, "reader.place": 0.02}  # little is added at first
        for name, numbers in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(numbers)
            elif numbers.dim() > 1:  # each matrix keeps the variance
                nn.init.normal_(numbers, std=spreads.get(name, numbers.shape[1] ** -0.5))

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
        longest = int(length.max()) if len(length) else 0
        if longest < SHORTEST:
            return vectors.new_zeros(len(prefixes.length), self.output.out_features)
        states = vectors.new_zeros(len(length), longest, self.output.in_features)
        for lines in length.argsort().chunk(_GROUPS):
            age = length[lines, None] - 1 - torch.arange(int(length[lines].max()), device=length.device)
            at = prefixes.longest[lines, None], age.clamp(min=0)
            tracks = vectors[place[at]] * (weight[at] * (age >= 0))[..., None]
            states[lines, : age.shape[1]] = self.reader(tracks)
        ends = states[prefixes.of_history, (prefixes.length - 1).clamp(min=0)]
        return torch.as_tensor(self.output(self.dropout(ends)) * (prefixes.length >= SHORTEST)[:, None])

    def forward(self, tracks: Float[Tensor, "S T W"], last: Int64[Tensor, "S"]) -> Float[Tensor, "S W"]:
        """Compute what is `added` in an ONNX model.

        Args:
            tracks: vectors of the tracks of sessions, oldest first, each multiplied by its weight.
            last: place of the last track of each session.
        """
        return torch.as_tensor(self.output(self.reader(tracks, last)[:, 0]))

    def part(self) -> OrderPart:
        """It for a service: an ONNX model from `tracks`, S × T × W as for `forward`, and `last`, the place of the last
        track of each session, to what is `added` to the query vectors, S × W.
        """
        width, own = self.output.out_features, deepcopy(self).eval().float().cpu()
        tracks, last = torch.zeros(3, 2, width), torch.tensor([0, 1, 0])
        model = onnx_of(own, "added", tracks=(tracks, ["sessions", "tracks"]), last=(last, ["sessions"]))
        return OrderPart(network=model.SerializeToString(), first=0, width=width)
