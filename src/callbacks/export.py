"""After the test: the K next tracks of every track, and the vectors of a head, from the weights under test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from pytorch_lightning import Callback, LightningModule, Trainer

from segue.callbacks.list_parts import ListParts
from segue.callbacks.run_context import RunContext, ranker_of
from segue.catalog import Vocabulary
from segue.errors import InputError, check_number
from segue.models.contracts import Context, Scorer
from segue.reports.training_tables import ExampleTrack
from segue.runs.catalog_files import PLAYS, write_plays, write_top_tracks
from segue.runs.recommendations import FORMATS, check_k, write_lists
from segue.runs.session_vectors import FILE, SessionVectors
from segue.terminal.console import console
from segue.terminal.progress import progress

PARTS = "lists"
"""Folder beside the recommendations; it is there until the test has ended."""
NUM_TOP_TRACKS = 1000
"""Most played tracks of the training data that are written."""
NUM_EXAMPLES = 10
"""Tracks that are shown to people with their recommendations."""
NUM_FOLLOWING = 5
"""Recommendations that are shown of each of them."""
INDEXES = ("auto", "exact", "approximate")


class Export(Callback):
    """Writes `recommendations.jsonl`; beside it `top_tracks.json`, from which a service fills up, `plays.npz` with
    the plays of each track, and `vectors.npz` of a head, with which a session can be the query.

    Args:
        context: of the run; the file of recommendations is handed on in it.
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
        context: RunContext,
        *,
        path: str,
        k: int,
        index: str,
        approximate_above: int,
        recall: float,
        format: str,
        vectors: bool,
    ) -> None:
        num_tracks = len(context.datamodule.catalog)
        check_k(k, num_tracks)
        if index not in INDEXES:
            raise InputError(f"callbacks.export.index must be one of {', '.join(INDEXES)}, got {index!r}")
        check_number("callbacks.export.approximate_above", approximate_above, whole=True, least=0)
        check_number("callbacks.export.recall", recall, above=0, most=1)
        if format not in FORMATS:
            raise InputError(f"callbacks.export.format must be one of {', '.join(FORMATS)}, got {format!r}")
        self._context, self._path, self._k, self._recall = context, Path(path), k, recall
        self._with_vectors = vectors
        self._format = format
        self._parts: ListParts | None = None
        self._approximate = index == "approximate" or (index == "auto" and num_tracks > approximate_above)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export all tracks of the catalogue. Lists that a killed process has found are not searched for again."""
        ranker, vocabulary = ranker_of(pl_module), self._context.datamodule.vocabulary
        catalog, recall = vocabulary.catalog, self._recall if self._approximate else None
        with torch.inference_mode(), progress("exporting recommendations", len(catalog)) as advance:
            parts = ListParts(self._path.with_name(PARTS), f"{ranker.lists_digest()} k={self._k} recall={recall}")
            search = ranker.lists(self._k, recall=recall, plan=parts.plan())
            parts.keep_plan(search.plan)
            parts.fill(search, advance)
            write_lists(self._path, catalog, parts.in_order(), plays=vocabulary.plays, format=self._format)
        self._parts = parts
        self._context.recommendations, self._context.lists = self._path, parts.rows
        self._context.examples = example_tracks(vocabulary, lambda rows: parts.of(rows)[0])
        if self._with_vectors and ranker.scorer is not None:
            self._context.vectors = session_vectors(ranker.scorer, ranker.context)
            self._context.vectors.write(self._path.with_name(FILE), catalog)
        if search.recall is not None:
            self._report(trainer, search.recall)
        most_played = _by_plays(vocabulary)[:NUM_TOP_TRACKS]
        write_plays(catalog, vocabulary.plays, self._path.with_name(PLAYS))
        write_top_tracks(catalog.track_ids[most_played], self._path.with_name("top_tracks.json"))
        self._context.clock.end("lists")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Delete the parts of the lists, once no callback needs them."""
        if self._parts is not None:
            self._parts.remove()
            self._parts = self._context.lists = None

    def _report(self, trainer: Trainer, recall: float) -> None:
        name = f"export/recall_at_{self._k}"
        self._context.history.test[name] = float(np.float32(recall))  # as exact as every other metric
        for logger in trainer.loggers:
            logger.log_metrics({name: recall})
        share = f"{recall:.1%} of the exact lists of a sample"
        if recall < self._recall:
            share += f", less than callbacks.export.recall={self._recall}"
        line = f"recommendations are approximate: they hold {share}; callbacks.export.index=exact takes longer"
        console.print(line, soft_wrap=True)


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


def example_tracks(
    vocabulary: Vocabulary, lists_of: Callable[[Int64[np.ndarray, "n"]], Int64[np.ndarray, "n K"]]
) -> list[ExampleTrack]:
    """Ten tracks for people, each with its first recommendations.

    They are at places 1, 2, 4, 8, … 512 by plays in training, or 1 to 10 in a catalogue that is smaller than that.

    Args:
        vocabulary: the catalogue and its plays.
        lists_of: recommendations of some tracks, best first; -1 where a list has ended.
    """
    by_plays, catalog = _by_plays(vocabulary), vocabulary.catalog
    places = [2**power for power in range(NUM_EXAMPLES)]
    if places[-1] > len(catalog):
        places = list(range(1, min(NUM_EXAMPLES, len(catalog)) + 1))
    queries = by_plays[np.array(places) - 1]
    lists = lists_of(queries)[:, :NUM_FOLLOWING].tolist()

    def name(row: int) -> tuple[str, str]:
        title, artist = catalog.titles[row], catalog.artists[catalog.artist_of[row]]
        return (title, artist) if title else (str(catalog.track_ids[row]), "")

    return [
        ExampleTrack(place=place, name=name(query), following=[name(row) for row in rows if row >= 0])
        for place, query, rows in zip(places, queries.tolist(), lists, strict=True)
    ]


def _by_plays(vocabulary: Vocabulary) -> Int64[np.ndarray, "N"]:
    """The rows of all tracks, the most played in training first."""
    return np.argsort(-vocabulary.plays, kind="stable")
