"""The vectors of a run as ONNX models, for programs without Segue: C++, Java, C#, JavaScript, a phone.

The formula is the one of `picking/session_query.py`.

S sessions, H tracks of a session, V width of a vector, B tracks, L ages that are boosted.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from segue.atomic import write_whole
from segue.catalog import Catalog
from segue.models.onnx_model import onnx_of
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
    import onnx

    rows, shares = torch.zeros(2, vectors.max_length, dtype=torch.int64), torch.zeros(2, vectors.max_length)
    query = onnx_of(_Query(vectors), "vectors", rows=(rows, ["sessions"]), shares=(shares, ["sessions"]))
    items = nn.Embedding.from_pretrained(torch.from_numpy(vectors.items))
    item = onnx_of(items, "vectors", rows=(rows[:, 0], ["tracks"]))
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


class _Query(nn.Module):
    """The query vectors of sessions."""

    def __init__(self, vectors: SessionVectors) -> None:
        super().__init__()
        self.queries = nn.Embedding.from_pretrained(torch.from_numpy(vectors.queries))
        widths, self.skipped = np.diff(vectors.ends, prepend=0), vectors.skipped
        self.age_weights = nn.Buffer(torch.from_numpy(np.repeat(vectors.age_weights, widths, axis=0).T))

    def forward(self, rows: Int64[Tensor, "S H"], shares: Float32[Tensor, "S H"]) -> Float32[Tensor, "S V"]:
        heard, width = self.queries(rows.clamp(min=0)), self.age_weights.shape[1]
        by_share = torch.where(rows < 0, 0, share_weight(shares, self.skipped, torch))
        sums = (by_share[:, :, None] * heard[:, :, :width] * self.age_weights).sum(1)
        return torch.cat([sums, heard[:, 0, width:]], 1)  # columns after the last part are those of the newest track
