"""The K next tracks of every track and the vectors of a head: from the weights under test to files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segue.catalog import Vocabulary
from segue.errors import InputError, check_number
from segue.models.contracts import Context, OnBlock, Ranker, Scorer
from segue.models.retrieval.list_parts import ListParts
from segue.runs.catalog_files import PLAYS, write_plays, write_top_tracks
from segue.runs.recommendations import FORMATS, check_k, write_lists
from segue.runs.session_vectors import FILE, SessionVectors

PARTS = "lists"
"""Folder beside the recommendations; it is there until the test has ended."""
NUM_TOP_TRACKS = 1000
"""Most played tracks of the training data that are written."""
INDEXES = ("auto", "exact", "approximate")


@dataclass(frozen=True, eq=False, kw_only=True)
class Exported:
    """What an export wrote.

    Args:
        path: the file of recommendations.
        parts: the lists, until they are removed.
        vectors: the vectors of the head; None for a baseline, or if they are not written.
        metrics: the share of the exact lists that approximate ones hold, by name; empty for exact lists.
        note: the same for people.
    """

    path: Path
    parts: ListParts
    vectors: SessionVectors | None
    metrics: dict[str, float]
    note: str | None


class Export:
    """Writes `recommendations.jsonl`; beside it `top_tracks.json`, from which a service fills up, `plays.npz` with
    the plays of each track, and `vectors.npz` of a head, with which a session can be the query.

    Args:
        num_tracks: size of the catalogue.
        path: where to write.
        k: how many candidates to keep for each track.
        index: search `exact` or `approximate`, or `auto`, which is exact for small catalogues.
        approximate_above: tracks up to which `auto` is exact.
        recall: share of the exact lists that an approximate search aims at, in (0, 1].
        format: `botify`, or `botify_2026`, whose lines name the track `item_id`.
        vectors: whether the vectors of a head are written.

    Raises:
        InputError: the catalogue cannot fill `k` places, or another argument is out of range.
    """

    def __init__(
        self,
        num_tracks: int,
        *,
        path: str,
        k: int,
        index: str,
        approximate_above: int,
        recall: float,
        format: str,
        vectors: bool,
    ) -> None:
        check_k(k, num_tracks)
        if index not in INDEXES:
            raise InputError(f"callbacks.export.index must be one of {', '.join(INDEXES)}, got {index!r}")
        check_number("callbacks.export.approximate_above", approximate_above, whole=True, least=0)
        check_number("callbacks.export.recall", recall, above=0, most=1)
        if format not in FORMATS:
            raise InputError(f"callbacks.export.format must be one of {', '.join(FORMATS)}, got {format!r}")
        self._path, self._k, self._format, self._with_vectors = Path(path), k, format, vectors
        is_approximate = index == "approximate" or (index == "auto" and num_tracks > approximate_above)
        self._recall = recall if is_approximate else None

    def write(self, ranker: Ranker, vocabulary: Vocabulary, on_block: OnBlock) -> Exported:
        """Export all tracks of the catalogue. Lists that a killed process has found are not searched for again.

        Args:
            ranker: the model.
            vocabulary: the catalogue and its plays.
            on_block: reports progress, in lists.

        Raises:
            InputError: a vector is not finite, or a file of a killed process is damaged.
        """
        catalog, path, vectors = vocabulary.catalog, self._path, None
        with torch.inference_mode():
            parts = ListParts(path.with_name(PARTS), f"{ranker.lists_digest()} k={self._k} recall={self._recall}")
            search = ranker.lists(self._k, recall=self._recall, plan=parts.plan())
            parts.keep_plan(search.plan)
            parts.fill(search, on_block)
            write_lists(path, catalog, parts.in_order(), plays=vocabulary.plays, format=self._format)
        if self._with_vectors and ranker.scorer is not None:
            vectors = session_vectors(ranker.scorer, ranker.context)
            vectors.write(path.with_name(FILE), catalog)
        write_plays(catalog, vocabulary.plays, path.with_name(PLAYS))
        write_top_tracks(catalog.track_ids[vocabulary.by_plays[:NUM_TOP_TRACKS]], path.with_name("top_tracks.json"))
        metrics = {} if search.recall is None else {f"export/recall_at_{self._k}": search.recall}
        return Exported(path=path, parts=parts, vectors=vectors, metrics=metrics, note=self._note(search.recall))

    def _note(self, recall: float | None) -> str | None:
        if recall is None or self._recall is None:
            return None
        share = f"{recall:.1%} of the exact lists of a sample"
        if recall < self._recall:
            share += f", less than callbacks.export.recall={self._recall}"
        return f"recommendations are approximate: they hold {share}; callbacks.export.index=exact takes longer"


def session_vectors(scorer: Scorer, context: Context) -> SessionVectors:
    """The vectors of a trained head, and the numbers of its context: all that a session query needs without torch.

    Args:
        scorer: the head.
        context: which query vector a history gives.

    Returns:
        The vectors.

    Raises:
        InputError: a vector is not finite.
    """
    with torch.inference_mode():
        tables = scorer.query_vectors(), scorer.item_vectors()
        queries, items = (table.float().cpu().numpy() for table in tables)
        ages = torch.arange(1 if context.is_last else context.max_length, device=tables[0].device)
        parts, unknown, none = (
            scorer.query_parts(),
            torch.full_like(ages, torch.nan, dtype=torch.float32),
            ages[:1] * 0.0,
        )
        age_weights = [context.weights(part, ages, unknown).float().cpu().numpy() for part in parts]
        lengths = [np.nan if part.length is None else float(part.length) for part in parts.values()]
        shares = [np.nan if part.share is None else float(part.share) for part in parts.values()]
        powers = [float(context.power(part)) for part in parts]
        skipped = float(context.weights(next(iter(parts)), ages[:1], none))
        penalty = float(context.repeats.penalty())
    if not (np.isfinite(queries).all() and np.isfinite(items).all()):
        raise InputError("training diverged: vectors are not finite and cannot be exported; lower optimizer.lr")
    return SessionVectors(
        queries=queries,
        items=items,
        parts=tuple(parts),
        ends=np.array([part.columns.stop for part in parts.values()], np.int64),
        lengths=np.array(lengths, np.float32),
        shares=np.array(shares, np.float32),
        powers=np.array(powers, np.float32),
        age_weights=np.stack(age_weights),
        skipped=skipped,
        penalty=penalty,
        heard_within=context.repeats.within,
        context="last" if context.is_last else "session",
    )
