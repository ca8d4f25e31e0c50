"""The vectors of a run as ONNX models, for programs without Segue: C++, Java, C#, JavaScript, a phone.

The formula is the one of `picking/session_query.py`: its functions get ndonnx instead of numpy.

S sessions, H tracks of a session, V width of a vector, B tracks, L ages that are boosted.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from segue.atomic import write_whole
from segue.catalog import Catalog
from segue.picking.session_query import share_weight
from segue.runs.catalog_files import write_catalog
from segue.runs.session_vectors import SessionVectors

QUERY, ITEM, TRACKS = "query.onnx", "item.onnx", "tracks.json"


def write_onnx(vectors: SessionVectors, catalog: Catalog, folder: Path) -> None:
    """Write `query.onnx`, `item.onnx` and `tracks.json`; the score of a track for a session is an inner product.

    `query.onnx` takes `rows` (int64, S × H), the rows of the tracks of each session, newest first, -1 after the oldest,
    and `shares` (float32, S × H), the share of each that was played, NaN where that is unknown. It returns `vectors`
    (float32, S × V). H is the `max_length` of the context; 1 with `context=last`. `item.onnx` takes `rows` (int64, B)
    and returns `vectors` (float32, B × V). The row of a track is the place of its line in `tracks.json`, from 0.

    The metadata of `query.onnx` have `context`, and `heard_boosts`, which are to be added to the scores of the newest
    tracks of a session, by age: `15:-inf 16:0.2` for -∞ of the newest 15 tracks and 0.2 of the one before them.
    `artist_boosts` has what is to be added to the scores of tracks without these, by the age of their artist.

    Args:
        vectors: of a run whose queries are weighted sums of them.
        catalog: its catalogue.
        folder: where the files go; created if missing.
    """
    import ndonnx as ndx
    import onnx

    rows = ndx.argument(shape=("tracks",), dtype=ndx.int64)
    item = ndx.build({"rows": rows}, {"vectors": ndx.take(ndx.asarray(vectors.items), rows, axis=0)})
    query = _query_model(vectors, ndx)
    boosts = {"heard_boosts": _as_text(vectors.boosts), "artist_boosts": _as_text(vectors.artist_boosts)}
    onnx.helper.set_model_props(query, {"context": vectors.context, **boosts})
    folder.mkdir(parents=True, exist_ok=True)
    write_catalog(catalog, folder / TRACKS)
    for name, model in ((QUERY, query), (ITEM, item)):
        write_whole(folder / name, partial(onnx.save, model))


def _as_text(boosts: Float32[np.ndarray, "L"]) -> str:
    """Boosts with the last age that has each."""
    ages = [*(1 + np.flatnonzero(boosts[1:] != boosts[:-1])).tolist(), len(boosts)] if len(boosts) else []
    return " ".join(f"{age}:{boosts[age - 1]:g}" for age in ages)


def _query_model(vectors: SessionVectors, ndx: Any) -> Any:
    length = vectors.max_length
    rows = ndx.argument(shape=("sessions", length), dtype=ndx.int64)
    shares = ndx.argument(shape=("sessions", length), dtype=ndx.float32)
    is_there, width = rows >= 0, int(vectors.ends[-1])
    heard = ndx.take(ndx.asarray(vectors.queries), ndx.reshape(ndx.where(is_there, rows, 0), (-1,)), axis=0)
    heard = ndx.reshape(heard, (-1, length, vectors.queries.shape[1]))
    by_share = ndx.where(is_there, share_weight(shares, np.float32(vectors.skipped), ndx), np.float32(0))
    weights = ndx.asarray(np.repeat(vectors.age_weights, np.diff(vectors.ends, prepend=0), axis=0).T)
    sums = ndx.sum(by_share[:, :, None] * heard[:, :, :width] * weights, axis=1)
    made = ndx.concat([sums, heard[:, 0, width:]], axis=1)  # columns after the last part are those of the newest track
    return ndx.build({"rows": rows, "shares": shares}, {"vectors": made})
