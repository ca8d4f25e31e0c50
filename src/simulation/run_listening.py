"""The listening test of one run: its lists, played to the listeners of the world that its logs came from.

N tracks of the catalogue of the run, M tracks of the world, K tracks of a list.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.runs.atomic import write_record
from segue.runs.session_vectors import SessionVectors
from segue.simulation.listening import Heard, ListeningTest, Recommend, from_lists, references
from segue.simulation.mixed_logs import code_digest
from segue.simulation.session_lists import from_session
from segue.simulation.world import World


class RunListening:
    """A listening test that knows the tracks of a run.

    Args:
        test: the sessions.
        catalog: the catalogue of the run.
        neighbours: number of tracks from which `true_neighbours` recommends.
        num_lists: number of last tracks whose lists are searched where the session is the query.
        kept: file where the means of the references are kept for later runs; None for none.

    Raises:
        InputError: the catalogue has tracks that the world does not have.
    """

    def __init__(
        self, test: ListeningTest, catalog: Catalog, *, neighbours: int, num_lists: int, kept: Path | None
    ) -> None:
        self._test, self._rows = test, _rows_in(test.world, catalog)
        self._neighbours, self._num_lists, self._kept = neighbours, num_lists, kept

    def play(self, part: str, rows: Int64[np.ndarray, "N K"], vectors: SessionVectors | None) -> Heard:
        """Play what a run recommends, as it would be served.

        Args:
            part: `val` or `test`.
            rows: recommendations of each track, best first; -1 where a list has ended.
            vectors: those of a head whose query is the session; None to draw a track from the list of the last one.
        """
        lists = np.full((len(self._test.world.catalog), rows.shape[1]), -1, np.int64)
        lists[self._rows] = np.where(rows >= 0, self._rows[rows], -1)
        return self._test.play(self._recommend(lists, vectors), part)

    def _recommend(self, lists: Int64[np.ndarray, "M K"], vectors: SessionVectors | None) -> Recommend:
        if vectors is None:
            return from_lists(lists)
        shape = len(lists), vectors.queries.shape[1]  # tracks that the run does not know have the zero vector
        queries, items = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        queries[self._rows], items[self._rows] = vectors.queries, vectors.items
        of_world = replace(vectors, queries=queries, items=items)
        return from_session(of_world, lists.astype(np.int32), num_lists=self._num_lists)

    def references(self) -> dict[str, float]:
        """Mean time per session that the reported listeners hear from each reference, by its name."""
        digest = code_digest({"segue.simulation.listening"})
        key = f"{self._test.digest()} {self._test.hits} {self._neighbours} {digest}"
        kept = _read(self._kept) if self._kept else {}
        if key not in kept:
            played = references(self._test.world, hits=self._test.hits, neighbours=self._neighbours)
            means = {name: float(self._test.play(recommend, "test").time.mean()) for name, recommend in played.items()}
            kept = {**kept, key: means}
            if self._kept:
                write_record(kept, self._kept)
        return kept[key]

    def frame(self, heard: Mapping[str, Heard]) -> pd.DataFrame:
        """The mean time of each listener, a row each.

        Args:
            heard: what the listeners of each part heard.

        Returns:
            The columns of `listening.parquet`.
        """
        ids = self._test.world.listeners.user_ids
        parts = [
            pd.DataFrame({"listener": ids[one.listeners], "part": part, "mean_time_per_session": one.time})
            for part, one in heard.items()
        ]
        return pd.concat(parts, ignore_index=True).assign(test=self._test.digest())


def _rows_in(world: World, catalog: Catalog) -> Int64[np.ndarray, "N"]:
    """Row in the world of each track of a catalogue."""
    rows = world.catalog.rows_of(catalog.track_ids)
    if (rows < 0).any():
        raise InputError(
            f"callbacks.listening.world has {len(world.catalog)} tracks, and track "
            f"{catalog.track_ids[int((rows < 0).argmax())]} of the logs is none of them; name the world that the logs "
            "came from, or leave the listening test out with callbacks.listening=null"
        )
    return rows


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        kept: dict[str, dict[str, float]] = json.loads(path.read_bytes())
    except (OSError, ValueError):  # not there yet, or damaged: it is computed again
        return {}
    return kept
