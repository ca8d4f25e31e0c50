"""Recommendations: for every track, the K tracks that should follow it, best first.

N tracks in the catalogue, K candidates of a list, S sessions. This module does not import torch because the service
imports it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict  # noqa: UP035 - pydantic needs it before Python 3.12

from src.catalog import Catalog
from src.errors import InputError, check_number
from src.runs.atomic import write_whole

SCORE_DECIMALS = 6
"""Scores are compared, ranked and written with this many decimals."""


def check_k(k: int, num_tracks: int) -> None:
    """Refuse a list length that the catalogue cannot fill.

    Args:
        k: length of a list.
        num_tracks: number of tracks in the catalogue (N).

    Raises:
        InputError: `k` is not in [1, N-1].
    """
    hint = f"a list of a catalogue of {num_tracks} tracks cannot be longer; set callbacks.export.k"
    check_number("k", k, whole=True, least=1, most=num_tracks - 1, hint=hint)


PICKS = ("uniform", "ranked", "weighted")
"""The ways to pick a track from a list; see `pick`."""


def pick(how: str, open_places: Bool[np.ndarray, "S K"], draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
    """Pick the next recommendation of each session from its list. The service and the simulator both use it.

    Args:
        how: `uniform` picks one of the open places at random, all with the same probability (as botify does); `ranked`
            picks the best open place; `weighted` picks at random with probabilities in proportion to 1 / rank.
        open_places: True for each place of each list that may be picked.
        draws: one random number for each session, uniform in [0, 1). `ranked` ignores it.

    Returns:
        The picked place in the list of each session, in 0..K-1; -1 where no place is open.
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
        rows: candidates of each track, in 0..N-1; shorter lists are padded with -1.
        scores: score of each candidate; NaN where there is none.
    """

    rows: Int64[np.ndarray, "N K"]
    scores: Float32[np.ndarray, "N K"]

    def write(self, path: Path, catalog: Catalog) -> None:
        """Write JSON lines in the format of botify, with scores added.

        One line for each track: `{"artist", "title", "track", "recommendations": [raw ids, best first], "scores"}`. The
        file appears under its name only when it is complete.

        Args:
            path: the file to write.
            catalog: the catalogue of the recommendations.
        """
        ids = np.append(catalog.track_ids, -1)[self.rows]
        artists = catalog.artists[catalog.artist_of]
        lengths = (self.rows >= 0).sum(1)

        def write(partial: Path) -> None:
            with partial.open("w", encoding="utf-8") as file:
                for row, (track, length) in enumerate(zip(catalog.track_ids.tolist(), lengths.tolist(), strict=True)):
                    line = {"artist": artists[row], "title": catalog.titles[row], "track": track}
                    line["recommendations"] = ids[row, :length].tolist()
                    scores = self.scores[row, :length].astype(np.float64)
                    if not np.isnan(scores).any():
                        line["scores"] = scores.round(SCORE_DECIMALS).tolist()
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")

        write_whole(path, write)

    @classmethod
    def read(cls, path: Path, catalog: Catalog) -> "Recommendations":
        """Read a file that Segue or botify wrote, and check it against a catalogue.

        Args:
            path: the file.
            catalog: the catalogue of the recommendations.

        Returns:
            The recommendations; tracks without a line have an empty list.

        Raises:
            InputError: the file is missing or damaged, or belongs to another catalogue. The message names the line.
        """
        lists = _read_lists(path)
        recommendations = cls._from_lists(lists, catalog, path)
        _check_names(lists, catalog, path)
        return recommendations

    @classmethod
    def read_with_catalog(cls, path: Path) -> tuple["Recommendations", Catalog]:
        """Read a file that has a line for every track, and build the catalogue from these lines.

        Args:
            path: the file.

        Returns:
            The recommendations and their catalogue, in the order of the lines.

        Raises:
            InputError: the file is missing or damaged, or recommends a track that has no line. The message names the
                line.
        """
        lists = _read_lists(path)
        titles, artists = ([_name(line.get(key)) for line in lists.values()] for key in ("title", "artist"))
        catalog = Catalog.from_columns(list(lists), titles, artists, source=str(path))
        return cls._from_lists(lists, catalog, path), catalog

    @classmethod
    def _from_lists(cls, lists: "dict[int, _Line]", catalog: Catalog, path: Path) -> "Recommendations":
        lengths = np.array([len(line["recommendations"]) for line in lists.values()])
        is_filled = np.arange(max(lengths.max(), 1)) < lengths[:, None]
        ids = np.zeros(is_filled.shape, np.int64)
        ids[is_filled] = np.concatenate([np.array(line["recommendations"], np.int64) for line in lists.values()])
        query_rows = catalog.rows_of(np.fromiter(lists, np.int64, len(lists)))
        candidates = catalog.rows_of(ids)
        is_unknown = is_filled & (candidates < 0)
        is_bad_line = (query_rows < 0) | is_unknown.any(1)
        if is_bad_line.any():
            number = int(is_bad_line.argmax())
            unknown = list(lists)[number] if query_rows[number] < 0 else int(ids[number][is_unknown[number]][0])
            raise InputError(
                f"{path}, line {number + 1}: track {unknown} is not in the catalogue of {len(catalog)} tracks; "
                "use the catalogue that these recommendations were made for"
            )
        rows = np.full((len(catalog), is_filled.shape[1]), -1, np.int64)
        rows[query_rows] = np.where(is_filled, candidates, -1)
        scores = np.full(rows.shape, np.nan, np.float32)
        has_scores = np.array([line.get("scores") is not None for line in lists.values()])
        if has_scores.any():
            line_scores = np.full(is_filled.shape, np.nan, np.float32)
            known_scores = [np.array(line["scores"], np.float32) for line in lists.values() if line.get("scores")]
            line_scores[is_filled & has_scores[:, None]] = np.concatenate([np.empty(0, np.float32), *known_scores])
            scores[query_rows] = line_scores
        return cls(rows=rows, scores=scores)


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _check_names(lists: "dict[int, _Line]", catalog: Catalog, path: Path) -> None:
    """Refuse a file in which a track has another title or artist than in the catalogue."""
    rows = catalog.rows_of(np.fromiter(lists, np.int64, len(lists)))
    titles, artists = catalog.titles[rows], catalog.artists[catalog.artist_of[rows]]
    for number, (track, line) in enumerate(lists.items()):
        in_file, in_catalog = (line.get("title"), line.get("artist")), (titles[number], artists[number])
        if any(_name(name) and name != known for name, known in zip(in_file, in_catalog, strict=True)):
            raise InputError(
                f"{path}, line {number + 1}: track {track} is {in_file[0]!r} by {in_file[1]!r} in this file and "
                f"{in_catalog[0]!r} by {in_catalog[1]!r} in the catalogue; use the catalogue that these "
                "recommendations were made for"
            )


_TrackId = Annotated[int, Field(gt=-(2**63), lt=2**63)]
_Score = Annotated[float, Field(gt=-1e30, lt=1e30)]


@with_config(ConfigDict(strict=True))
class _Line(TypedDict):
    track: _TrackId
    recommendations: list[_TrackId]
    scores: NotRequired[list[_Score] | None]
    title: NotRequired[Any]
    artist: NotRequired[Any]


_LINE = TypeAdapter(_Line)

_EXPECTED = {
    "track": 'expected an object with a whole number under "track"',
    "recommendations": '"recommendations" must be a list of track ids',
    "scores": '"scores" must be one finite number for each recommendation',
}


def _read_lists(path: Path) -> dict[int, _Line]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read recommendations from {path}: {error.strerror}; if the run folder was deleted, MLflow still "
            "has them: run:<id>"
        ) from None
    lists: dict[int, _Line] = {}
    for number, bare in enumerate(text.splitlines(), start=1):
        line = _parse(bare, f"{path}, line {number}")
        if line["track"] in lists:
            track = line["track"]
            raise InputError(f"{path}, line {number}: track {track} has two lines; every track must have one")
        lists[line["track"]] = line
    if not lists:
        raise InputError(f"{path} is empty: expected one line for each track of the catalogue")
    return lists


def _parse(bare: bytes, where: str) -> _Line:
    """Parse and check one line of a recommendations file; every error message starts with `where`."""
    try:
        line = _LINE.validate_json(bare)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        syntax = f"not JSON ({first['msg']})" if first["type"] == "json_invalid" else None
        raise InputError(f"{where} is damaged: {syntax or _EXPECTED[str((*first['loc'], 'track')[0])]}") from None
    track, candidates, scores = line["track"], line["recommendations"], line.get("scores")
    if len(set(candidates)) < len(candidates) or track in candidates:
        raise InputError(f"{where} is damaged: the list must name distinct tracks other than {track} itself")
    if scores is not None and len(scores) != len(candidates):
        raise InputError(f"{where} is damaged: {_EXPECTED['scores']}")
    return line
