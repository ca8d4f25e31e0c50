"""Recommendations: for every track, the K tracks that should follow it, best first.

N tracks in the catalogue, K candidates kept. No torch here: a service reads this module.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from src.catalog import Catalog
from src.errors import InputError, check_number

SCORE_DECIMALS = 6
"""Scores are compared, ranked and written with this many decimals."""


def check_k(k: int, num_tracks: int) -> None:
    """Refuse a list length that the catalogue cannot fill.

    Raises:
        InputError: `k` does not lie in [1, N-1].
    """
    hint = f"a list of a catalogue of {num_tracks} tracks cannot be longer; set callbacks.export.k"
    check_number("k", k, whole=True, least=1, most=num_tracks - 1, hint=hint)


PICKS = ("uniform", "ranked", "weighted")


def pick(how: str, open_places: Bool[np.ndarray, "S K"], draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
    """The place in its list that each session is recommended next; -1 where none is open.

    Args:
        how: `uniform` among the open places (published), `ranked` the best of them, or `weighted`, by chance in
            proportion to 1 / rank.
        open_places: places that hold a track that may be picked.
        draws: uniform in [0, 1), decide.
    """
    num_kept = open_places.shape[1]
    if how == "ranked":
        return np.where(open_places.any(1), open_places.argmax(1), -1)
    weights = open_places / np.arange(1, num_kept + 1) if how == "weighted" else open_places.astype(np.float64)
    reached = weights.cumsum(1)
    places = (reached <= (draws * reached[:, -1])[:, None]).sum(1)
    return np.where(open_places.any(1), np.minimum(places, num_kept - 1), -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Recommendations:
    """For every row of the catalogue, the rows of its K best candidates, best first.

    Args:
        rows: candidates of each track; -1 fills up a list that is shorter than the longest.
        scores: score of each candidate, NaN where the file gave none.
    """

    rows: Int64[np.ndarray, "N K"]
    scores: Float32[np.ndarray, "N K"]

    def write(self, path: Path, catalog: Catalog) -> None:
        """Write as JSON lines in the predecessor's format, with the scores beside it.

        One line a track: `{"artist", "title", "track", "recommendations": [raw ids, best first], "scores"}`.
        The file appears under its name only when it is whole.
        """
        ids = np.append(catalog.track_ids, -1)[self.rows]
        artists = catalog.artists[catalog.artist_of]
        lengths = (self.rows >= 0).sum(1)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                for row, (track, length) in enumerate(zip(catalog.track_ids.tolist(), lengths.tolist(), strict=True)):
                    line = {"artist": artists[row], "title": catalog.titles[row], "track": track}
                    line["recommendations"] = ids[row, :length].tolist()
                    scores = self.scores[row, :length].astype(np.float64)
                    if not np.isnan(scores).any():
                        line["scores"] = scores.round(SCORE_DECIMALS).tolist()
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path, catalog: Catalog) -> "Recommendations":
        """Read what `write` or the predecessor wrote, checked against the catalogue.

        Raises:
            InputError: the file is missing, or damaged, or made for another catalogue; names the line.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read recommendations from {path}: {error.strerror}") from None
        lists: dict[int, tuple[list[int], list[float] | None]] = {}
        names: dict[int, tuple[Any, Any]] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            where = f"{path}, line {number}"
            track, candidates, scores, name = _parse(line, where)
            if track in lists:
                raise InputError(f"{where}: track {track} has a list already; every track has one line")
            lists[track], names[track] = (candidates, scores), name
        if not lists:
            raise InputError(f"{path} is empty: expected one line a track of the catalogue")
        recommendations = cls._from_lists(lists, catalog, path)
        _check_names(names, catalog, path)
        return recommendations

    @classmethod
    def _from_lists(
        cls, lists: dict[int, tuple[list[int], list[float] | None]], catalog: Catalog, path: Path
    ) -> "Recommendations":
        num_kept = max(len(candidates) for candidates, _ in lists.values())
        ids = np.zeros((len(lists), num_kept), np.int64)
        given = np.zeros((len(lists), num_kept), bool)
        scores = np.full((len(catalog), num_kept), np.nan, np.float32)
        query_rows = catalog.rows_of(np.fromiter(lists, np.int64, len(lists)))
        for line, (query, (candidates, line_scores)) in enumerate(zip(query_rows, lists.values(), strict=True)):
            ids[line, : len(candidates)] = candidates
            given[line, : len(candidates)] = True
            if line_scores is not None and query >= 0:
                scores[query, : len(candidates)] = line_scores
        found = catalog.rows_of(ids)
        foreign = (query_rows < 0) | (given & (found < 0)).any(1)
        if foreign.any():
            line = int(foreign.argmax())
            track = list(lists)[line]
            wrong = track if query_rows[line] < 0 else int(ids[line][given[line] & (found[line] < 0)][0])
            raise InputError(
                f"{path}, line {line + 1}: track {wrong} is not in the catalogue of {len(catalog)} tracks; "
                "use the catalogue that these recommendations were made for"
            )
        rows = np.full((len(catalog), num_kept), -1, np.int64)
        rows[query_rows] = np.where(given, found, -1)
        return cls(rows=rows, scores=scores)


def _check_names(names: dict[int, tuple[Any, Any]], catalog: Catalog, path: Path) -> None:
    """Refuse a file whose tracks have other names than the catalogue's of the same ids, as far as it names them."""
    rows = catalog.rows_of(np.fromiter(names, np.int64, len(names)))
    titles, artists = catalog.titles[rows], catalog.artists[catalog.artist_of[rows]]
    for line, (track, given) in enumerate(names.items(), start=1):
        ours = titles[line - 1], artists[line - 1]
        if any(isinstance(name, str) and name and name != own for name, own in zip(given, ours, strict=True)):
            raise InputError(
                f"{path}, line {line}: track {track} is {given[0]!r} by {given[1]!r} there and {ours[0]!r} by "
                f"{ours[1]!r} in the catalogue; use the catalogue that these recommendations were made for"
            )


def _parse(line: bytes, where: str) -> tuple[int, list[int], list[float] | None, tuple[Any, Any]]:
    """One line of a recommendations file, checked, with the title and artist it gives; `where` opens every error."""
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"{where} is damaged: not JSON ({error})") from None
    if not isinstance(entry, dict) or not _is_int(entry.get("track")):
        raise InputError(f'{where} is damaged: expected an object with a whole number under "track"')
    track, candidates, scores = entry["track"], entry.get("recommendations"), entry.get("scores")
    if not isinstance(candidates, list) or not all(map(_is_int, candidates)):
        raise InputError(f'{where} is damaged: "recommendations" must be a list of track ids')
    if len(set(candidates)) < len(candidates) or track in candidates:
        raise InputError(f"{where} is damaged: the list must name distinct tracks other than {track} itself")
    if scores is not None and not (
        isinstance(scores, list)
        and len(scores) == len(candidates)
        and all(
            isinstance(score, int | float) and not isinstance(score, bool) and abs(score) < 1e30 for score in scores
        )
    ):
        raise InputError(f'{where} is damaged: "scores" must be one finite number for each recommendation')
    return track, candidates, scores, (entry.get("title"), entry.get("artist"))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
