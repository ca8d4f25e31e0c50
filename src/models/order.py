"""Encoders: what the order of the tracks of a session adds to their weighted sum, in torch and as ONNX models.

Nothing is added before the second track: the query of a session of one track is that of the track.

B histories, H tracks of a history, S sessions, T tracks of the longest one, U distinct tracks, W columns of all parts
of a query vector, D width of an encoder.
"""

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segue.picking.session_query import SHORTEST
from segue.runs.session_vectors import OrderPart
from segue.settings import Setting, settings

_GRU = "gru"
_TINY = 1e-5
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
        self.kind, self.rate = kind, rate
        shapes = _shapes_of(kind, width, dim, max_length)
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
        if self.kind != _GRU:
            return torch.as_tensor(attention(tracks, numbers, torch, drop=self.dropout))
        weights = [numbers["input"].T, numbers["state"].T, numbers["input_bias"], numbers["state_bias"]]
        first = tracks.new_zeros(1, len(tracks), len(numbers["state"]))
        states, _ = torch.gru(tracks, first, weights, True, 1, 0.0, False, False, True)
        return states

    def part(self) -> OrderPart:
        """It for a service: an ONNX model from `tracks`, S × T × W as for `read`, and `last`, the place of the last
        track of each session, to what is `added` to the query vectors, S × W.
        """
        import ndonnx as ndx

        numbers = {name: ndx.asarray(one.detach().float().cpu().numpy()) for name, one in self.numbers.items()}
        width = self.numbers["input"].shape[0]
        tracks = ndx.argument(shape=("sessions", "tracks", width), dtype=ndx.float32)
        last = ndx.argument(shape=("sessions",), dtype=ndx.int64)
        if self.kind == _GRU:
            ends = _at(_gru_of_onnx(tracks, numbers), last, ndx)
        else:
            ends = attention(tracks, numbers, ndx, last)
        added = _product_of_onnx(ends[:, 0, ...], numbers["output"])
        model = ndx.build({"tracks": tracks, "last": last}, {"added": added})
        return OrderPart(network=model.SerializeToString(), first=0, width=width)


def attention(
    tracks: Any,
    numbers: Mapping[str, Any],
    xp: Any,
    last: Any = None,
    drop: Callable[[Any], Any] = lambda values: values,
) -> Any:
    """What causal self-attention gives at the place of each track: a block with gated residuals and SwiGLU.

    Keys and values are not computed: a query times the matrix of the keys is compared with what keys are made of.

    Args:
        tracks: vectors of the tracks of sessions, oldest first, S × T × W.
        numbers: arrays by name; see `_shapes_of`.
        xp: torch or ndonnx.
        last: place of the last track of each session; None for all tracks.
        drop: dropout in training.

    Returns:
        S × T × D, or S × 1 × D at the last places.

    Source:
        Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018; the block is that of LiGR (Borisyuk et
        al. 2025), as eSASRec (Tikhonovich et al., RecSys 2025) has it.
    """
    product, softmax = (torch.matmul, torch.softmax) if xp is torch else (_product_of_onnx, _softmax_of_onnx)
    length = getattr(tracks, "dynamic_shape", tracks.shape)[1]
    places = xp.arange(length, device=tracks.device)
    is_later, values = places > places[:, None], product(tracks, numbers["input"]) + numbers["place"][:length, :]
    asking = normal = _normal(values, numbers, 0, xp)
    if last is not None:
        values, asking, is_later = _at(values, last, xp), _at(normal, last, xp), places > last[:, None, None]
    to_query, to_key, to_value = _thirds(numbers["attention"])
    scores = reduce(product, (asking, to_query, to_key.mT, normal.mT)) / to_key.shape[0] ** 0.5
    shares = softmax(xp.where(is_later, -math.inf, scores), -1)
    attended = reduce(product, (shares, normal, to_value, numbers["mix"]))
    gate = product(values, numbers["gates"][0, ...]) + numbers["gates_bias"][0, :]
    values = values + _sigmoid(gate, xp) * drop(attended)
    up, width = product(_normal(values, numbers, 1, xp), numbers["up"]), numbers["down"].shape[0]
    first, second = up[..., :width], up[..., width:]
    gate = product(values, numbers["gates"][1, ...]) + numbers["gates_bias"][1, :]
    return values + _sigmoid(gate, xp) * drop(product(first * _sigmoid(first, xp) * second, numbers["down"]))


def _at(values: Any, last: Any, xp: Any) -> Any:
    """The values at the last places."""
    is_last = xp.arange(values.dynamic_shape[1]) == last[:, None]
    return xp.sum(xp.where(is_last[:, :, None], values, np.float32(0)), axis=1, keepdims=True)


def _thirds(values: Any) -> tuple[Any, Any, Any]:
    width = values.shape[-1] // 3
    return values[..., :width], values[..., width : 2 * width], values[..., 2 * width :]


def _normal(values: Any, numbers: Mapping[str, Any], nth: int, xp: Any) -> Any:
    centred = values - xp.mean(values, axis=-1, keepdims=True)
    spread = (xp.mean(centred * centred, axis=-1, keepdims=True) + _TINY) ** 0.5
    return centred / spread * numbers["scale"][nth, :] + numbers["shift"][nth, :]


def _sigmoid(values: Any, xp: Any) -> Any:
    return 0.5 * xp.tanh(0.5 * values) + 0.5  # without overflow


def _product_of_onnx(left: Any, right: Any) -> Any:
    """The product of ONNX itself; that of ndonnx asks whether an array is empty, which makes seconds of work of it."""
    import ndonnx as ndx
    from spox.opset.ai.onnx import v17 as onnx

    return ndx.asarray(onnx.matmul(left.unwrap_spox(), right.unwrap_spox()))


def _softmax_of_onnx(scores: Any, axis: int) -> Any:
    import ndonnx as ndx
    from spox.opset.ai.onnx import v17 as onnx

    return ndx.asarray(onnx.softmax(scores.unwrap_spox(), axis=axis))


def _gru_of_onnx(tracks: Any, numbers: Mapping[str, Any]) -> Any:
    """The recurrent unit of torch as that of ONNX, which has the update gate before the reset gate."""
    import ndonnx as ndx
    from spox.opset.ai.onnx import v17 as onnx

    def ordered(name: str) -> Any:
        reset, update, new = _thirds(numbers[name])
        return ndx.concat([update, reset, new], axis=-1)

    weights = [ordered(name).mT[None, ...] for name in ("input", "state")]
    bias = ndx.concat([ordered("input_bias"), ordered("state_bias")], axis=0)[None, :]
    given = [ndx.permute_dims(tracks, (1, 0, 2)), *weights, bias]
    dim = numbers["state"].shape[0]
    states, _ = onnx.gru(*(one.unwrap_spox() for one in given), hidden_size=dim, linear_before_reset=1)
    return ndx.permute_dims(ndx.asarray(states)[:, 0, ...], (1, 0, 2))


def _shapes_of(kind: str, width: int, dim: int, max_length: int) -> dict[str, tuple[int, ...]]:
    """The shape of each array of an encoder.

    Args:
        kind: of the encoder.
        width: columns of all parts of a query vector (W).
        dim: width of the encoder (D).
        max_length: largest number of tracks of a session (H).
    """
    if kind == _GRU:  # reset, update and new gate side by side
        both = {"input": (width, 3 * dim), "state": (dim, 3 * dim)}
        return {"output": (dim, width), **both, "input_bias": (3 * dim,), "state_bias": (3 * dim,)}
    of_block: dict[str, tuple[int, ...]] = {"scale": (2, dim), "shift": (2, dim), "attention": (dim, 3 * dim)}
    of_block |= {
        "mix": (dim, dim),
        "up": (dim, 4 * dim),
        "down": (2 * dim, dim),
        "gates": (2, dim, dim),
        "gates_bias": (2, dim),
    }
    return {"output": (dim, width), "input": (width, dim), "place": (max_length, dim), **of_block}


def _first(name: str, shape: tuple[int, ...]) -> Tensor:
    """What an array begins with: matrices of which each keeps the variance, and little that is added."""
    if name.endswith("scale"):
        return torch.ones(shape)
    if name.endswith(("shift", "bias")):
        return torch.zeros(shape)
    spread = 0.02 if name == "place" else (0.1 if name == "output" else 1.0) * shape[-2] ** -0.5
    return torch.randn(shape) * spread
