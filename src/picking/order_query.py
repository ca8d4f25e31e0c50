"""What the order of the tracks of a session adds to its query vector: the formulas of the encoders, and their service.

Nothing is added before the second track: the query of a session of one track is that of the track. Training has the
recurrent unit of torch (`models/order.py`), and the attention of here: what that needs of a library is in numpy and
torch under the same name, `xp`.

S sessions, h tracks of a session, T tracks of the longest one, N tracks in the catalogue, V width of a query vector, W
columns of all its parts, D width of an encoder.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from segue.runs.order_part import GRU, LIGR, OrderPart

SHORTEST = 2
"""Number of tracks that have an order."""

_TINY, _HALF = 1e-5, np.float32(0.5)


def _same(values: Any) -> Any:
    return values


def gru(
    tracks: Float32[np.ndarray, "S T W"], numbers: Mapping[str, np.ndarray], last: Int64[np.ndarray, "S"]
) -> Float32[np.ndarray, "S D"]:
    """The state of a gated recurrent unit after the last track of each session.

    Every operation writes where its numbers are: for one session numpy needs longer to begin an operation, and to
    allocate, than to compute.

    Args:
        tracks: vectors of the tracks of sessions, oldest first.
        numbers: arrays by name; see `shapes_of`.
        last: place of the last track of each.

    Source:
        Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014, with the reset gate after the
        matrix, as in cuDNN.
    """
    dim, (num_sessions, length, _) = len(numbers["state"]), tracks.shape
    entered = tracks @ numbers["input"] + numbers["input_bias"]
    entered[..., : 2 * dim] *= _HALF  # a gate is (1 + tanh(x / 2)) / 2
    matrix, bias = numbers["state"] * _HALF, np.tile(numbers["state_bias"] * _HALF, (num_sessions, 1))
    states, own = np.zeros((length + 1, num_sessions, dim), np.float32), np.empty_like(bias)
    gates, candidate = own[:, : 2 * dim], own[:, 2 * dim :]
    reset, update = gates[:, :dim], gates[:, dim:]
    one, half = np.ones_like(gates), np.full_like(update, _HALF)
    to_gates, to_candidate = entered[..., : 2 * dim].swapaxes(0, 1), entered[..., 2 * dim :].swapaxes(0, 1)
    for before, after, of_gates, of_candidate in zip(states, states[1:], to_gates, to_candidate, strict=False):
        np.dot(before, matrix, out=own)
        own += bias
        gates += of_gates
        np.tanh(gates, out=gates)
        gates += one
        candidate *= reset
        candidate += of_candidate
        np.tanh(candidate, out=candidate)
        update *= half
        np.subtract(before, candidate, out=after)
        after *= update
        after += candidate
    return np.asarray(states[1 + last, np.arange(num_sessions)])


def ligr(
    tracks: Any, numbers: Mapping[str, Any], last: Any = None, xp: Any = np, drop: Callable[[Any], Any] = _same
) -> Any:
    """What causal self-attention gives at the place of each track: blocks with gated residuals and SwiGLU.

    Keys and values are not computed: a query times the matrix of the keys is compared with what keys are made of.

    Args:
        tracks: vectors of the tracks of sessions, oldest first, S × T × W.
        numbers: arrays by name; see `shapes_of`.
        last: place of the last track of each session; None for all tracks.
        xp: numpy or torch.
        drop: dropout in training.

    Returns:
        S × T × D, or S × D at the last places.

    Source:
        Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018; the blocks are those of LiGR (Borisyuk et
        al. 2025), as eSASRec (Tikhonovich et al., RecSys 2025) has them.
    """
    length, block = tracks.shape[1], 0
    values, places = tracks @ numbers["input"] + numbers["place"][:length], xp.arange(length, device=tracks.device)
    is_later = places > places[:, None]
    while f"{block}_mix" in numbers:
        own = {name: numbers[f"{block}_{name}"] for name in _OF_BLOCK}
        block += 1
        asking = normal = _normal(values, own, 0)
        if last is not None and f"{block}_mix" not in numbers:
            at = xp.arange(len(last))[:, None], last[:, None]
            values, asking, is_later = values[at], normal[at], places > last[:, None, None]
        to_query, to_key, to_value = _thirds(own["attention"])
        scores = asking @ to_query @ to_key.T @ xp.swapaxes(normal, -1, -2) / len(to_key) ** 0.5
        scores = xp.where(is_later, -xp.inf, scores)
        scores = xp.exp(scores - xp.amax(scores, -1)[..., None])
        attended = scores / scores.sum(-1)[..., None] @ normal @ to_value @ own["mix"]
        values = values + _gate(values, own, 0, xp) * drop(attended)
        up = _normal(values, own, 1) @ own["up"]
        first, second = up[..., : up.shape[-1] // 2], up[..., up.shape[-1] // 2 :]
        values = values + _gate(values, own, 1, xp) * drop((first * _sigmoid(first, xp) * second) @ own["down"])
    return values if last is None else values[:, 0]


_OF_BLOCK = ("scale", "shift", "attention", "mix", "up", "down", "gates", "gates_bias")


def _thirds(values: Any) -> tuple[Any, Any, Any]:
    width = values.shape[-1] // 3
    return values[..., :width], values[..., width : 2 * width], values[..., 2 * width :]


def _normal(values: Any, own: Mapping[str, Any], nth: int) -> Any:
    centred = values - values.mean(-1)[..., None]
    return centred / ((centred * centred).mean(-1)[..., None] + _TINY) ** 0.5 * own["scale"][nth] + own["shift"][nth]


def _gate(values: Any, own: Mapping[str, Any], nth: int, xp: Any) -> Any:
    return _sigmoid(values @ own["gates"][nth] + own["gates_bias"][nth], xp)


def _sigmoid(values: Any, xp: Any) -> Any:
    return 0.5 * xp.tanh(0.5 * values) + 0.5  # without overflow


FORMULAS: Mapping[str, Callable[..., Any]] = {GRU: gru, LIGR: ligr}
"""From the tracks of sessions to what an encoder of each kind has read after the last one."""


def added_by_order(
    part: OrderPart,
    vectors: Float32[np.ndarray, "N V"],
    rows: Int64[np.ndarray, "S h"],
    weights: Float32[np.ndarray, "S h"],
) -> Float32[np.ndarray, "S W"]:
    """Compute what is added to the query vector of each session. Tracks that are not in the catalogue are left out.

    Args:
        part: the encoder.
        vectors: query vector of each track; other columns than those of the encoder are not read.
        rows: rows of the tracks, newest first; -1 where there is none.
        weights: weight of each by its share.
    """
    is_known = rows >= 0
    newer = is_known.cumsum(1)  # how many of a session are at least as new
    length = newer[:, -1]
    longest = int(length.max(initial=0))
    if longest < SHORTEST:
        return np.zeros((len(rows), part.numbers["output"].shape[1]), np.float32)
    line, column = is_known.nonzero()
    known = vectors.take(rows[line, column], axis=0)[:, part.columns]
    tracks = np.zeros((len(rows), longest, known.shape[1]), np.float32)
    tracks[line, length[line] - newer[line, column]] = known * weights[line, column][:, None]
    ends = FORMULAS[part.kind](tracks, part.numbers, (length - 1).clip(0))
    return np.where((length < SHORTEST)[:, None], np.float32(0), ends @ part.numbers["output"])
