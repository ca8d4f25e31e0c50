"""Recommendations: for every track, the K tracks that should follow it, best first.

N tracks in the catalogue, K candidates kept. No torch here: a service reads this module.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict  # noqa: UP035 - pydantic wants its own before Python 3.12

from src.catalog import Catalog
from src.errors import InputError, check_number
from src.runs.atomic import write_whole

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
        """Read what `write` or the predecessor wrote, checked against the catalogue.

        Raises:
            InputError: the file is missing, or damaged, or made for another catalogue; names the line.
        """
        lists = _read_lists(path)
        recommendations = cls._from_lists(lists, catalog, path)
        _check_names(lists, catalog, path)
        return recommendations

    @classmethod
    def read_with_catalog(cls, path: Path) -> tuple["Recommendations", Catalog]:
        """Read a file that has a line for every track of its catalogue, and that catalogue from it.

        Raises:
            InputError: the file is missing, or damaged, or recommends a track that it does not list; names the line.
        """
        lists = _read_lists(path)
        titles, artists = ([_name(line.get(key)) for line in lists.values()] for key in ("title", "artist"))
        catalog = Catalog.from_columns(list(lists), titles, artists, source=str(path))
        return cls._from_lists(lists, catalog, path), catalog

    @classmethod
    def _from_lists(cls, lists: "dict[int, _Line]", catalog: Catalog, path: Path) -> "Recommendations":
        lengths = np.array([len(line["recommendations"]) for line in lists.values()])
        given = np.arange(max(lengths.max(), 1)) < lengths[:, None]
        ids = np.zeros(given.shape, np.int64)
        ids[given] = np.concatenate([np.array(line["recommendations"], np.int64) for line in lists.values()])
        query_rows = catalog.rows_of(np.fromiter(lists, np.int64, len(lists)))
        found = catalog.rows_of(ids)
        foreign = (query_rows < 0) | (given & (found < 0)).any(1)
        if foreign.any():
            number = int(foreign.argmax())
            track = list(lists)[number]
            wrong = track if query_rows[number] < 0 else int(ids[number][given[number] & (found[number] < 0)][0])
            raise InputError(
                f"{path}, line {number + 1}: track {wrong} is not in the catalogue of {len(catalog)} tracks; "
                "use the catalogue that these recommendations were made for"
            )
        rows = np.full((len(catalog), given.shape[1]), -1, np.int64)
        rows[query_rows] = np.where(given, found, -1)
        scores = np.full(rows.shape, np.nan, np.float32)
        has_scores = np.array([line.get("scores") is not None for line in lists.values()])
        if has_scores.any():
            of_lines = np.full(given.shape, np.nan, np.float32)
            given_scores = [np.array(line["scores"], np.float32) for line in lists.values() if line.get("scores")]
            of_lines[given & has_scores[:, None]] = np.concatenate([np.empty(0, np.float32), *given_scores])
            scores[query_rows] = of_lines
        return cls(rows=rows, scores=scores)


def _name(given: Any) -> str | None:
    return given if isinstance(given, str) and given else None


def _check_names(lists: "dict[int, _Line]", catalog: Catalog, path: Path) -> None:
    """Refuse a file whose tracks have other names than the catalogue's of the same ids, as far as it names them."""
    rows = catalog.rows_of(np.fromiter(lists, np.int64, len(lists)))
    titles, artists = catalog.titles[rows], catalog.artists[catalog.artist_of[rows]]
    for number, (track, line) in enumerate(lists.items()):
        given, ours = (line.get("title"), line.get("artist")), (titles[number], artists[number])
        if any(_name(name) and name != own for name, own in zip(given, ours, strict=True)):
            raise InputError(
                f"{path}, line {number + 1}: track {track} is {given[0]!r} by {given[1]!r} there and {ours[0]!r} by "
                f"{ours[1]!r} in the catalogue; use the catalogue that these recommendations were made for"
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

_WANTED = {
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
            raise InputError(f"{path}, line {number}: track {track} has a list already; every track has one line")
        lists[line["track"]] = line
    if not lists:
        raise InputError(f"{path} is empty: expected one line a track of the catalogue")
    return lists


def _parse(bare: bytes, where: str) -> _Line:
    """One line of a recommendations file, checked; `where` opens every error."""
    try:
        line = _LINE.validate_json(bare)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wanted = f"not JSON ({first['msg']})" if first["type"] == "json_invalid" else None
        raise InputError(f"{where} is damaged: {wanted or _WANTED[str((*first['loc'], 'track')[0])]}") from None
    track, candidates, scores = line["track"], line["recommendations"], line.get("scores")
    if len(set(candidates)) < len(candidates) or track in candidates:
        raise InputError(f"{where} is damaged: the list must name distinct tracks other than {track} itself")
    if scores is not None and len(scores) != len(candidates):
        raise InputError(f"{where} is damaged: {_WANTED['scores']}")
    return line
