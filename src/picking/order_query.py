"""What the order of the tracks of a session adds to its query vector: the formulas of the encoders, and their service.

A formula runs on arrays of numpy and on tensors of torch, in training; what it needs of a library is in both under the
same name, `xp`. Nothing is added before the second track: the query of a session of one track is that of the track.

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

_TINY = 1e-5


def _same(values: Any) -> Any:
    return values


def gru(tracks: Any, numbers: Mapping[str, Any], xp: Any = np, drop: Callable[[Any], Any] = _same) -> Any:  # noqa: ARG001
    """The state of a gated recurrent unit after each track.

    Args:
        tracks: vectors of the tracks of sessions, oldest first, S × T × W.
        numbers: arrays by name; see `shapes_of`.
        xp: numpy or torch.
        drop: not used; the state has no dropout.

    Returns:
        S × T × D.

    Source:
        Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014, with the reset gate after the
        matrix, as in cuDNN.
    """
    dim = numbers["state"].shape[0]
    entered = tracks @ numbers["input"] + numbers["input_bias"]
    state, states = xp.zeros_like(entered[:, 0, :dim]), []
    for step in range(tracks.shape[1]):
        new, own = entered[:, step], state @ numbers["state"] + numbers["state_bias"]
        gates = _sigmoid(new[:, : 2 * dim] + own[:, : 2 * dim], xp)
        candidate = xp.tanh(new[:, 2 * dim :] + gates[:, :dim] * own[:, 2 * dim :])
        state = candidate + gates[:, dim:] * (state - candidate)
        states.append(state)
    return xp.stack(states, 1)


def ligr(tracks: Any, numbers: Mapping[str, Any], xp: Any = np, drop: Callable[[Any], Any] = _same) -> Any:
    """What causal self-attention gives at the place of each track: blocks with gated residuals and SwiGLU.

    Args:
        tracks: vectors of the tracks of sessions, oldest first, S × T × W.
        numbers: arrays by name; see `shapes_of`.
        xp: numpy or torch.
        drop: dropout in training.

    Returns:
        S × T × D.

    Source:
        Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018; the blocks are those of LiGR (Borisyuk et
        al. 2025), as eSASRec (Tikhonovich et al., RecSys 2025) has them.
    """
    length, block = tracks.shape[1], 0
    values, places = tracks @ numbers["input"] + numbers["place"][:length], xp.arange(length, device=tracks.device)
    is_later = places[:, None] < places
    while f"{block}_mix" in numbers:
        own = {name: numbers[f"{block}_{name}"] for name in _OF_BLOCK}
        query, key, value = _thirds(_normal(values, own, 0) @ own["attention"])
        scores = query @ xp.swapaxes(key, -1, -2) / query.shape[-1] ** 0.5
        scores = xp.where(is_later, -xp.inf, scores)
        scores = xp.exp(scores - xp.amax(scores, -1)[..., None])
        attended = scores / scores.sum(-1)[..., None] @ value @ own["mix"]
        values = values + _gate(values, own, 0, xp) * drop(attended)
        up = _normal(values, own, 1) @ own["up"]
        first, second = up[..., : up.shape[-1] // 2], up[..., up.shape[-1] // 2 :]
        values = values + _gate(values, own, 1, xp) * drop((first * _sigmoid(first, xp) * second) @ own["down"])
        block += 1
    return values


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
"""From the tracks of sessions to what an encoder of each kind has read after each track."""


def added_by_order(
    part: OrderPart,
    vectors: Float32[np.ndarray, "N V"],
    rows: Int64[np.ndarray, "S h"],
    weights: Float32[np.ndarray, "S h"],
) -> Float32[np.ndarray, "S W"]:
    """Compute what is added to the query vector of each session. Tracks that are not in the catalogue are left out.

    Args:
        part: the encoder.
        vectors: query vector of each track; columns after all parts are not read.
        rows: rows of the tracks, newest first; -1 where there is none.
        weights: weight of each by its share.
    """
    known = np.argsort(rows < 0, axis=1, kind="stable")  # the known tracks first, newest first
    length = (rows >= 0).sum(1)
    longest = int(length.max(initial=0))
    if longest < SHORTEST:
        return np.zeros((len(rows), part.width), np.float32)
    age = length[:, None] - 1 - np.arange(longest)
    at = np.take_along_axis(known, age.clip(0), axis=1)
    weight = np.where(age < 0, np.float32(0), np.take_along_axis(weights, at, axis=1))
    tracks = vectors.take(np.take_along_axis(rows, at, axis=1), axis=0, mode="clip")[..., : part.width]
    tracks = tracks * weight[..., None]
    states = FORMULAS[part.kind](tracks, part.numbers)
    ends = states[np.arange(len(rows)), (length - 1).clip(0)]
    return np.where((length < SHORTEST)[:, None], np.float32(0), ends @ part.numbers["output"])
