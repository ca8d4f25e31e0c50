"""The K next tracks of every track and the vectors of a head: from a model to files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Int64

from segue.catalog import Vocabulary
from segue.models.ranker import OnBlock, Ranker
from segue.runs.catalog_files import PLAYS, write_plays, write_top_tracks
from segue.runs.recommendations import FORMATS, check_k, write_lists
from segue.runs.session_vectors import FILE
from segue.settings import Setting, settings

OF_EVALUATED = "evaluated"
"""Folder beside the recommendations for those of the model that was tested, where another one is exported."""
NUM_TOP_TRACKS = 1000
"""Most played tracks of the training data that are written."""
EXACT_UP_TO = 200_000
"""Tracks of a catalogue up to which `index=auto` is exact: the time of exact search grows with their square."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Exported:
    """What an export wrote.

    Args:
        path: the file of recommendations.
        rows: rows of the candidates of each track, best first.
        metrics: the share of the exact lists that approximate ones hold, by name; empty for exact lists.
        note: the same for people.
    """

    path: Path
    rows: Int64[np.ndarray, "N K"]
    metrics: dict[str, float]
    note: str | None


@settings("callbacks.export")
class Export:
    """Writes `recommendations.jsonl`; beside it `top_tracks.json`, from which a service fills up, `plays.npz` with
    the plays of each track, and `vectors.npz` of a head, with which a session can be the query.

    Args:
        num_tracks: size of the catalogue.
        path: where to write.

    Raises:
        InputError: the catalogue cannot fill `k` places, or another argument is out of range.
    """

    def __init__(
        self,
        num_tracks: int,
        *,
        path: str,
        k: Annotated[int, Setting("number of candidates of each track", least=1)] = 50,
        index: Annotated[
            Literal["auto", "exact", "approximate"],
            Setting("how lists are searched for; auto: by the catalogue's size"),
        ] = "auto",
        recall: Annotated[
            float, Setting("share of the exact lists that an approximate search aims at", above=0, most=1)
        ] = 0.95,
        format: Annotated[
            str, Setting("of recommendations.jsonl; botify_2026 names the track item_id", choices=tuple(FORMATS))
        ] = "botify",
    ) -> None:
        check_k(k, num_tracks)
        self.path, self._k, self._format = Path(path), k, format
        self._recall = recall if index == "approximate" or (index == "auto" and num_tracks > EXACT_UP_TO) else None

    def write(self, ranker: Ranker, vocabulary: Vocabulary, on_block: OnBlock, *, into: Path | None = None) -> Exported:
        """Export all tracks of the catalogue.

        Args:
            ranker: the model.
            vocabulary: the catalogue and its plays.
            on_block: reports progress, in lists.
            into: another folder than that of `path`.

        Raises:
            InputError: a vector is not finite.
        """
        catalog, path = vocabulary.catalog, (into or self.path.parent) / self.path.name
        path.parent.mkdir(exist_ok=True)
        with torch.inference_mode():
            search = ranker.lists(self._k, recall=self._recall)
            rows, scores = search.collect(on_block)
            write_lists(path, catalog, [(rows, scores)], plays=vocabulary.plays, format=self._format)
        if (vectors := ranker.session_vectors()) is not None:
            vectors.write(path.with_name(FILE), catalog)
        write_plays(catalog, vocabulary.plays, path.with_name(PLAYS))
        write_top_tracks(
            catalog.track_ids[vocabulary.by_popularity[:NUM_TOP_TRACKS]], path.with_name("top_tracks.json")
        )
        metrics, note = dict[str, float](), None
        if (recall := search.recall) is not None:
            metrics[f"export/recall_at_{self._k}"] = recall
            says = f"recommendations are approximate: they hold {recall:.1%} of the exact lists of a sample, and "
            note = says + f"callbacks.export.recall={self._recall}; callbacks.export.index=exact takes longer"
        return Exported(path=path, rows=rows, metrics=metrics, note=note)
