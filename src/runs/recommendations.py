"""Recommendations: for every track, the K tracks that should follow it, best first; or for every user, K tracks.

N tracks in the catalogue, Q lists, B lists of a block, K candidates of a list, S sessions, U users. This module does
not import torch because the service imports it.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32, Int, Int64
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict  # noqa: UP035 - pydantic needs it before Python 3.12

from segue.catalog import Catalog
from segue.errors import InputError, check_number
from segue.runs.atomic import write_whole

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


FORMATS = {"botify": "track", "botify_2026": "item_id"}
"""The formats of a file of recommendations, and the key that each has for the track of a line."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Recommendations:
    """Lists of the K best candidates, best first: of every track of the catalogue, or of users.

    Args:
        rows: rows of the candidates, in 0..N-1; shorter lists are padded with -1.
        scores: score of each candidate; NaN where there is none.
        users: raw id of the user of each list, ascending; None if row r has the list of row r of the catalogue (Q = N).
        plays: number of plays of each track in training; None where it is not known.
    """

    rows: Int64[np.ndarray, "Q K"]
    scores: Float32[np.ndarray, "Q K"]
    users: Int64[np.ndarray, "Q"] | None = None
    plays: Int64[np.ndarray, "N"] | None = None

    def of_users(self, users: Int64[np.ndarray, "U"]) -> Int64[np.ndarray, "U K"]:
        """The lists of some users. They must be lists of users.

        Args:
            users: raw ids.

        Returns:
            Rows of the candidates of each user; -1 for a user who has no list.
        """
        assert self.users is not None
        return lists_of(users, self.users, self.rows)

    def write(self, path: Path, catalog: Catalog, *, format: str) -> None:
        """Write JSON lines; see `write_lists`. They must be lists of tracks.

        Args:
            path: the file to write.
            catalog: the catalogue of the recommendations.
            format: one of `FORMATS`.
        """
        assert self.users is None
        write_lists(path, catalog, [(self.rows, self.scores)], plays=self.plays, format=format)

    @classmethod
    def read(cls, path: Path, catalog: Catalog) -> "Recommendations":
        """Read a file that Segue or botify wrote, and check it against a catalogue.

        Args:
            path: the file. Its lines have `track` or `item_id` and `recommendations`, or `user` and `tracks`.
            catalog: the catalogue of the recommendations.

        Returns:
            The recommendations, of users if its lines have users; tracks without a line have an empty list.

        Raises:
            InputError: the file is missing or damaged, or belongs to another catalogue. The message names the line.
        """
        form, lines = _read_lines(path)
        if form is _OF_USERS:
            return cls._of_users(lines, catalog, path)
        recommendations = cls._of_tracks(lines, catalog, path)
        _check_names(lines, catalog, path)
        return recommendations

    @classmethod
    def read_with_catalog(cls, path: Path) -> tuple["Recommendations", Catalog]:
        """Read a file that has a line for every track, and build the catalogue from these lines.

        Args:
            path: the file.

        Returns:
            The recommendations and their catalogue, in the order of the lines.

        Raises:
            InputError: the file is missing or damaged, has lists of users, or recommends a track that has no line. The
                message names the line.
        """
        form, lines = _read_lines(path)
        if form is _OF_USERS:
            raise InputError(
                f"{path} has lists of users and therefore no catalogue; name the catalogue: tracks=<path>/tracks.json"
            )
        titles, artists = ([_name(name) for name in names] for names in (lines.titles, lines.artists))
        catalog = Catalog.from_columns(lines.keys.tolist(), titles, artists, source=str(path))
        return cls._of_tracks(lines, catalog, path), catalog

    @classmethod
    def _of_tracks(cls, lines: "_Lines", catalog: Catalog, path: Path) -> "Recommendations":
        query_rows = catalog.rows_of(lines.keys)
        rows, scores = _padded(lines, catalog, path, query_rows)
        is_whole, plays = len(query_rows) == len(catalog), None
        if is_whole and (lines.plays >= 0).all():
            plays = np.empty(len(catalog), np.int64)
            plays[query_rows] = lines.plays
        if is_whole and (query_rows == np.arange(len(catalog))).all():
            return cls(rows=rows, scores=scores, plays=plays)
        all_rows = np.full((len(catalog), rows.shape[1]), -1, np.int64)
        all_scores = np.full(all_rows.shape, np.nan, np.float32)
        all_rows[query_rows], all_scores[query_rows] = rows, scores
        return cls(rows=all_rows, scores=all_scores, plays=plays)

    @classmethod
    def _of_users(cls, lines: "_Lines", catalog: Catalog, path: Path) -> "Recommendations":
        rows, scores = _padded(lines, catalog, path, np.zeros(len(lines.keys), np.int64))
        order = np.argsort(lines.keys)
        return cls(rows=rows[order], scores=scores[order], users=lines.keys[order])


def lists_of(
    asked: Int64[np.ndarray, "*U"] | int, users: Int64[np.ndarray, "Q"], rows: Int[np.ndarray, "Q K"]
) -> Int[np.ndarray, "*U K"]:
    """The lists of some users.

    Args:
        asked: raw ids.
        users: raw id of the user of each list, ascending.
        rows: the lists.

    Returns:
        Rows of the candidates of each user; -1 for a user who has no list.
    """
    places = users.searchsorted(asked).clip(max=len(users) - 1)
    return np.where(np.expand_dims(users[places] == asked, -1), rows[places], -1)


def key_of_lines(path: Path) -> str:
    """The key that the lines of a file have for what their list is about: `track`, `item_id` or `user`.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read.
    """
    return (_form_of(next(_bare_lines(path), b"")) or _OF_TRACKS).key


def write_lists(
    path: Path,
    catalog: Catalog,
    blocks: Iterable[tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]],
    *,
    plays: Int64[np.ndarray, "N"] | None,
    format: str,
) -> None:
    """Write lists of tracks as JSON lines in a format of botify, with names and scores added.

    One line for each track: `{"artist", "title", "track", "recommendations": [raw ids, best first], "scores",
    "plays"}`; `botify_2026` has `item_id` for `track`. If the ids of the source are no whole numbers, `id` has that
    of the track. The file appears under its name only when it is complete.

    Args:
        path: the file to write.
        catalog: the catalogue of the recommendations.
        blocks: rows and scores of the lists of all tracks in the order of the catalogue, some at a time; see
            `Recommendations`.
        plays: number of plays of each track in training; None where it is not known.
        format: one of `FORMATS`.
    """
    ids, artists = np.append(catalog.track_ids, -1), catalog.artists[catalog.artist_of]

    def write(partial: Path) -> None:
        row = 0
        with partial.open("w", encoding="utf-8") as file:
            for rows, scores in blocks:
                lengths = (rows >= 0).sum(1).tolist()
                for candidates, of_list, length in zip(ids[rows].tolist(), scores, lengths, strict=True):
                    line = {
                        "artist": artists[row],
                        "title": catalog.titles[row],
                        FORMATS[format]: int(catalog.track_ids[row]),
                    }
                    if catalog.source_ids is not None:
                        line["id"] = catalog.source_ids[row]
                    line["recommendations"] = candidates[:length]
                    own = of_list[:length].astype(np.float64)
                    if not np.isnan(own).any():
                        line["scores"] = own.round(SCORE_DECIMALS).tolist()
                    if plays is not None:
                        line["plays"] = int(plays[row])
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    row += 1

    write_whole(path, write)


def file_digest(path: Path) -> str:
    """Digest of the bytes of a file, by which a log names the lists that it was recommended from.

    Args:
        path: the file, which exists.

    Returns:
        Twelve hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=6)).hexdigest()


def has_lists_of_users(path: Path) -> bool:
    """Whether the lists of a file are those of users; its first line decides.

    Args:
        path: the file.

    Raises:
        InputError: the file cannot be read.
    """
    return _form_of(next(_bare_lines(path), b"")) is _OF_USERS


@dataclass(frozen=True, eq=False, kw_only=True)
class _Lines:
    """The lines of a file as columns, which need much less memory than objects: n lines with E candidates in all.

    Args:
        keys: the track or the user that each line is about; all differ.
        lengths: number of its candidates.
        ids: raw ids of the candidates of all lines.
        scores: their scores; NaN in lines without scores.
        titles: title in each line, of any type; None without one.
        artists: artist in each line, of any type; None without one.
        plays: plays in each line; -1 without any.
    """

    keys: Int64[np.ndarray, "n"]
    lengths: Int64[np.ndarray, "n"]
    ids: Int64[np.ndarray, "E"]
    scores: Float32[np.ndarray, "E"]
    titles: list[Any]
    artists: list[Any]
    plays: Int64[np.ndarray, "n"]


_NUM_AT_ONCE = 2**20
"""Ids whose rows are looked up at once."""


def _padded(
    lines: _Lines, catalog: Catalog, path: Path, query_rows: Int64[np.ndarray, "n"]
) -> tuple[Int64[np.ndarray, "n K"], Float32[np.ndarray, "n K"]]:
    """Candidates and scores of each line; `query_rows` is negative where the track of a line is unknown."""
    rows, ends = lines.ids, lines.lengths.cumsum()  # rows replace the ids, of which there may be hundreds of millions
    bad_lines = [(int(number), int(lines.keys[number])) for number in np.flatnonzero(query_rows < 0)[:1]]
    for start in range(0, len(rows), _NUM_AT_ONCE):
        some = rows[start : start + _NUM_AT_ONCE]
        found = catalog.rows_of(some)
        bad_lines += [
            (int(ends.searchsorted(start + place, "right")), int(some[place]))
            for place in np.flatnonzero(found < 0)[:1]
        ]
        some[:] = found
    if bad_lines:
        number, unknown = min(bad_lines)
        raise InputError(
            f"{path}, line {number + 1}: track {unknown} is not in the catalogue of {len(catalog)} tracks; "
            "use the catalogue that these recommendations were made for"
        )
    shape = len(ends), max(int(lines.lengths.max()), 1)
    if len(rows) == shape[0] * shape[1]:
        return rows.reshape(shape), lines.scores.reshape(shape)
    is_filled = np.arange(shape[1]) < lines.lengths[:, None]
    padded, scores = np.full(shape, -1, np.int64), np.full(shape, np.nan, np.float32)
    padded[is_filled], scores[is_filled] = rows, lines.scores
    return padded, scores


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _check_names(lines: _Lines, catalog: Catalog, path: Path) -> None:
    """Refuse a file in which a track has another title or artist than in the catalogue."""
    rows = catalog.rows_of(lines.keys)
    titles, artists = catalog.titles[rows], catalog.artists[catalog.artist_of[rows]]
    for number, in_file in enumerate(zip(lines.titles, lines.artists, strict=True)):
        in_catalog = (titles[number], artists[number])
        if any(_name(name) and name != known for name, known in zip(in_file, in_catalog, strict=True)):
            raise InputError(
                f"{path}, line {number + 1}: track {lines.keys[number]} is {in_file[0]!r} by {in_file[1]!r} in this "
                f"file and {in_catalog[0]!r} by {in_catalog[1]!r} in the catalogue; use the catalogue that these "
                "recommendations were made for"
            )


_Id = Annotated[int, Field(gt=-(2**63), lt=2**63)]
_STRICT = ConfigDict(strict=True)


class _Rest(TypedDict):
    scores: NotRequired[list[Annotated[float, Field(gt=-1e30, lt=1e30)]] | None]
    title: NotRequired[Any]
    artist: NotRequired[Any]
    plays: NotRequired[Annotated[int, Field(ge=0, lt=2**63)]]


class _Line(_Rest):
    key: int
    candidates: list[int]


@with_config(_STRICT)
class _TrackLine(_Rest):
    key: Annotated[_Id, Field(alias="track")]
    candidates: Annotated[list[_Id], Field(alias="recommendations")]


@with_config(_STRICT)
class _ItemLine(_Rest):
    key: Annotated[_Id, Field(alias="item_id")]
    candidates: Annotated[list[_Id], Field(alias="recommendations")]


@with_config(_STRICT)
class _UserLine(_Rest):
    key: Annotated[_Id, Field(alias="user")]
    candidates: Annotated[list[_Id], Field(alias="tracks")]


@dataclass(frozen=True, kw_only=True)
class _Form:
    """The keys that all lines of a file have: of what the list is about, and of the list."""

    key: str
    candidates: str
    parse: Callable[[bytes], Any]

    def expected(self, key: str) -> str:
        """What a line must have under a key."""
        return {
            self.candidates: f'"{self.candidates}" must be a list of track ids',
            "scores": '"scores" must be one finite number for each recommendation',
            "plays": '"plays" must be a whole number of at least 0',
        }.get(key, f'expected an object with a whole number under "{self.key}"')


_OF_TRACKS = _Form(key="track", candidates="recommendations", parse=TypeAdapter(_TrackLine).validate_json)
_OF_ITEMS = _Form(key="item_id", candidates="recommendations", parse=TypeAdapter(_ItemLine).validate_json)
_OF_USERS = _Form(key="user", candidates="tracks", parse=TypeAdapter(_UserLine).validate_json)
_FORMS = (_OF_TRACKS, _OF_ITEMS, _OF_USERS)


def _form_of(bare: bytes) -> _Form | None:
    """The form of a line; None where it has the keys of none."""
    try:
        line = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    return next((form for form in _FORMS if form.key in line), None) if isinstance(line, Mapping) else None


def _bare_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line.rstrip(b"\r\n") for line in file)
    except OSError as error:
        raise InputError(
            f"cannot read recommendations from {path}: {error.strerror}; if the run folder was deleted, MLflow still "
            "has them: run:<id>"
        ) from None


def _read_lines(path: Path) -> tuple[_Form, _Lines]:
    form: _Form | None = None
    keys, lengths, ids, plays, scores = array("q"), array("q"), array("q"), array("q"), array("f")
    titles: list[Any] = []
    artists: list[Any] = []
    known: dict[str, str] = {}  # an artist has many tracks
    for number, bare in enumerate(_bare_lines(path), start=1):
        form = form or _form_of(bare) or _OF_TRACKS
        line = _parse(bare, form, f"{path}, line {number}")
        keys.append(line["key"])
        lengths.append(len(line["candidates"]))
        ids.fromlist(line["candidates"])
        of_line, artist = line.get("scores"), line.get("artist")
        scores.fromlist([math.nan] * len(line["candidates"]) if of_line is None else of_line)
        plays.append(line.get("plays", -1))
        titles.append(line.get("title"))
        artists.append(known.setdefault(artist, artist) if isinstance(artist, str) else artist)
    if form is None:
        raise InputError(f"{path} is empty: expected one line for each track of the catalogue")
    lines = _Lines(
        keys=np.frombuffer(keys, np.int64),
        lengths=np.frombuffer(lengths, np.int64),
        ids=np.frombuffer(ids, np.int64),
        scores=np.frombuffer(scores, np.float32),
        titles=titles,
        artists=artists,
        plays=np.frombuffer(plays, np.int64),
    )
    order = np.argsort(lines.keys, kind="stable")
    is_repeated = lines.keys[order][1:] == lines.keys[order][:-1]
    if is_repeated.any():
        number = int(order[1:][is_repeated].min())
        name = f"{form.key.removesuffix('_id')} {lines.keys[number]}"
        raise InputError(f"{path}, line {number + 1}: {name} has two lines; give it one list")
    return form, lines


def _parse(bare: bytes, form: _Form, where: str) -> _Line:
    """Parse and check one line of a recommendations file; every error message starts with `where`."""
    try:
        line: _Line = form.parse(bare)
    except ValidationError as error:
        first, found = error.errors(include_url=False)[0], _form_of(bare)
        if first["type"] == "json_invalid":
            raise InputError(f"{where} is damaged: not JSON ({first['msg']})") from None
        if found is None:
            keys = ", ".join(f'"{one.key}"' for one in _FORMS[:-1])
            keys += f' or "{_FORMS[-1].key}"'
            raise InputError(f"{where} is damaged: expected an object with a whole number under {keys}") from None
        if found is not form:
            raise InputError(
                f'{where} has the key "{found.key}", and line 1 has "{form.key}"; give all lines the same keys'
            ) from None
        raise InputError(f"{where} is damaged: {form.expected(str(first['loc'][0]))}") from None
    key, candidates, scores = line["key"], line["candidates"], line.get("scores")
    if len(set(candidates)) < len(candidates) or (form is not _OF_USERS and key in candidates):
        others = "" if form is _OF_USERS else f" other than {key} itself"
        raise InputError(f"{where} is damaged: the list must name distinct tracks{others}")
    if scores is not None and len(scores) != len(candidates):
        raise InputError(f"{where} is damaged: {form.expected('scores')}")
    return line
