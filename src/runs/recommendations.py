"""Recommendations: for every track, the K tracks that should follow it, best first; or for every user, K tracks.

N tracks in the catalogue, Q lists, B lists of a block, K candidates of a list, S sessions, U users. This module does
not import torch because the service imports it.
"""

import hashlib
import json
import math
import types
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from jaxtyping import Float32, Int, Int64, Shaped
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict  # noqa: UP035 - pydantic needs it before Python 3.12

from segue.catalog import Catalog, Id, id_problem, keys_of, quoted
from segue.errors import InputError
from segue.runs.catalog_files import write_lines
from segue.settings import Setting, checked

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
    checked("k", k, int, Setting("length of a list", least=1, most=num_tracks - 1, hint=hint))


def best_of_lines(line: Int64[np.ndarray, "E"], num_kept: int, *values: np.ndarray) -> Int64[np.ndarray, "_"]:
    """Find the best entries of each line, best first.

    Args:
        line: number of the line of each entry.
        num_kept: largest number of entries that are kept of a line.
        values: of each entry, the higher the better; the later ones decide between equal ones.

    Returns:
        Places of the kept entries, line by line.
    """
    order = np.lexsort((*(-one for one in reversed(values)), line))
    return order[np.arange(len(line)) - np.searchsorted(line[order], line[order]) < num_kept]


FORMATS = {"botify": "track", "botify_2026": "item_id"}
"""The formats of a file of recommendations, and the key that each has for the track of a line."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Recommendations:
    """Lists of the K best candidates, best first: of every track of the catalogue, or of users.

    Args:
        rows: rows of the candidates, in 0..N-1; shorter lists are padded with -1.
        scores: score of each candidate; NaN where there is none.
        users: key of the user of each list (`catalog.key_of`), ascending; None if row r has the list
            of row r of the catalogue (Q = N).
        plays: number of plays of each track in training; None where it is not known.
    """

    rows: Int64[np.ndarray, "Q K"]
    scores: Float32[np.ndarray, "Q K"]
    users: Int64[np.ndarray, "Q"] | None = None
    plays: Int64[np.ndarray, "N"] | None = None

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
        if (lines := _read_lines(path)).key == "user":
            rows, scores = _padded(lines, catalog, np.zeros(len(lines.subjects), np.int64))
            users = keys_of(lines.subjects)
            order = np.argsort(users)
            return cls(rows=rows[order], scores=scores[order], users=users[order])
        recommendations = cls._of_tracks(lines, catalog)
        _check_names(lines, catalog)
        return recommendations

    @classmethod
    def read_with_catalog(cls, path: Path) -> tuple["Recommendations", Catalog]:
        """Read a file that has a line for every track, and build the catalogue from these lines.

        Returns:
            The recommendations and their catalogue, in the order of the lines.

        Raises:
            InputError: the file is missing or damaged, has lists of users, or recommends a track that has no line. The
                message names the line.
        """
        if (lines := _read_lines(path)).key == "user":
            raise InputError(
                f"{path} has lists of users and therefore no catalogue; name the catalogue: tracks=<path>/tracks.json"
            )
        titles, artists = ([_name(name) for name in names] for names in (lines.titles, lines.artists))
        catalog = Catalog.from_columns(lines.subjects.tolist(), titles, artists, source=str(path))
        return cls._of_tracks(lines, catalog), catalog

    @classmethod
    def _of_tracks(cls, lines: "_Lines", catalog: Catalog) -> "Recommendations":
        query_rows, plays = catalog.rows_of(lines.subjects), None
        rows, scores = _padded(lines, catalog, query_rows)
        if len(query_rows) == len(catalog) and (lines.plays >= 0).all():
            plays = lines.plays[np.argsort(query_rows)]
        if not np.array_equal(query_rows, np.arange(len(catalog))):
            shape = len(catalog), rows.shape[1]
            (all_rows := np.full(shape, -1, np.int64))[query_rows] = rows
            (all_scores := np.full(shape, np.nan, np.float32))[query_rows] = scores
            rows, scores = all_rows, all_scores
        return cls(rows=rows, scores=scores, plays=plays)


def lists_of(
    asked: Int64[np.ndarray, "*U"] | int, users: Int64[np.ndarray, "Q"], rows: Int[np.ndarray, "Q K"]
) -> Int[np.ndarray, "*U K"]:
    """The lists of some users.

    Args:
        asked: their keys (`catalog.key_of`).
        users: that of the user of each list, ascending.
        rows: the lists.

    Returns:
        Rows of the candidates of each user; -1 for a user who has no list.
    """
    places = users.searchsorted(asked).clip(max=len(users) - 1)
    return np.where(np.expand_dims(users[places] == asked, -1), rows[places], -1)


def key_of_lines(path: Path) -> str:
    """The key that the lines of a file have for what their list is about: `track`, `item_id` or `user`.

    Raises:
        InputError: it cannot be read.
    """
    return _key_of(next(_bare_lines(path), b"")) or "track"


def write_lists(
    path: Path,
    catalog: Catalog,
    blocks: Iterable[tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]],
    *,
    plays: Int64[np.ndarray, "N"] | None,
    format: str,
) -> None:
    """Write lists of tracks as JSON lines in a format of botify, with names and scores added.

    One line for each track: `{"artist", "title", "track", "recommendations": [ids, best first], "scores", "plays"}`;
    `botify_2026` has `item_id` for `track`. The file appears under its name only when it is complete.

    Args:
        path: the file to write.
        catalog: the catalogue of the recommendations.
        blocks: rows and scores of the lists of all tracks in the order of the catalogue, some at a time; see
            `Recommendations`.
        plays: number of plays of each track in training; None where it is not known.
        format: one of `FORMATS`.
    """
    ids, artists = catalog.track_ids, catalog.artists[catalog.artist_of]

    def lines() -> Iterator[dict[str, Any]]:
        row = 0
        for rows, scores in blocks:
            lengths = (rows >= 0).sum(1).tolist()
            for candidates, of_list, length in zip(ids[rows].tolist(), scores, lengths, strict=True):
                line = {"artist": artists[row], "title": catalog.titles[row], FORMATS[format]: ids.item(row)}
                line["recommendations"] = candidates[:length]
                own = of_list[:length].astype(np.float64)
                if not np.isnan(own).any():
                    line["scores"] = own.round(SCORE_DECIMALS).tolist()
                if plays is not None:
                    line["plays"] = int(plays[row])
                yield line
                row += 1

    write_lines(path, lines())


def file_digest(path: Path) -> str:
    """Digest of the bytes of a file, by which a log names the lists that it was recommended from.

    Returns:
        Twelve hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=6)).hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class _Lines:
    """The lines of a file as columns, which need much less memory than objects: n lines with E candidates in all.

    Args:
        path: the file.
        key: the key that its lines have for what they are about, of `_LISTS`.
        subjects: id of the track or the user that each line is about; all differ.
        lengths: number of its candidates.
        ids: id of each candidate of all lines; with `are_hashes`, Python's `hash` of their texts, which this process
            alone knows: half a billion lookups of texts would take minutes.
        scores: their scores; NaN in lines without scores.
        titles: title in each line, of any type; None without one.
        artists: artist in each line, of any type; None without one.
        plays: plays in each line; -1 without any.
    """

    path: Path
    key: str
    subjects: Shaped[np.ndarray, "n"]
    lengths: Int64[np.ndarray, "n"]
    ids: Int64[np.ndarray, "E"]
    are_hashes: bool
    scores: Float32[np.ndarray, "E"]
    titles: list[Any]
    artists: list[Any]
    plays: Int64[np.ndarray, "n"]

    def candidate(self, place: int) -> Id:
        """One of the candidates, as its line has it."""
        number = int(self.lengths.cumsum().searchsorted(place, "right"))
        line = json.loads(next(islice(_bare_lines(self.path), number, None)))
        return cast("Id", line[_LISTS[self.key]][place - int(self.lengths[:number].sum())])


_NUM_AT_ONCE = 2**20  # ids whose rows are looked up at once


def _padded(
    lines: _Lines, catalog: Catalog, query_rows: Int64[np.ndarray, "n"]
) -> tuple[Int64[np.ndarray, "n K"], Float32[np.ndarray, "n K"]]:
    """Candidates and scores of each line; `query_rows` is negative where the track of a line is unknown."""
    rows, ends = lines.ids, lines.lengths.cumsum()  # rows replace the ids, of which there may be hundreds of millions
    bad_lines = [(int(number), lines.subjects.item(number)) for number in np.flatnonzero(query_rows < 0)[:1]]
    rows_of = _rows_of_hashes(catalog) if lines.are_hashes else catalog.rows_of
    for start in range(0, len(rows), _NUM_AT_ONCE):
        some = rows[start : start + _NUM_AT_ONCE]
        found = rows_of(some)
        for place in np.flatnonzero(found < 0)[:1]:
            bad_lines.append((int(ends.searchsorted(start + place, "right")), lines.candidate(start + int(place))))
        some[:] = found
    if bad_lines:
        number, unknown = min(bad_lines, key=itemgetter(0))
        if problem := id_problem(unknown):
            raise InputError(f"{lines.path}, line {number + 1} is damaged: the id {str(unknown)[:20]!r} {problem}")
        raise InputError(
            f"{lines.path}, line {number + 1}: track {quoted(unknown)} is not in the catalogue of {len(catalog)} "
            "tracks; use the catalogue that these recommendations were made for"
        )
    shape = len(ends), max(int(lines.lengths.max()), 1)
    if len(rows) == shape[0] * shape[1]:
        return rows.reshape(shape), lines.scores.reshape(shape)
    is_filled = np.arange(shape[1]) < lines.lengths[:, None]
    padded, scores = np.full(shape, -1, np.int64), np.full(shape, np.nan, np.float32)
    padded[is_filled], scores[is_filled] = rows, lines.scores
    return padded, scores


def _rows_of_hashes(catalog: Catalog) -> Callable[[Int64[np.ndarray, "E"]], Int64[np.ndarray, "E"]]:
    """What looks up the row of each id by the `hash` of its text; -1 where the catalogue does not have the track."""
    hashes = np.fromiter(map(hash, map(str, catalog.track_ids.tolist())), np.int64, len(catalog))
    order = np.argsort(hashes)
    ordered = hashes[order]
    if (np.diff(ordered) == 0).any():
        raise InputError("two ids of tracks have the same hash in this process; type the command again")

    # A table finds nine of ten in two reads of memory, of which a search needs twenty.
    mask = (1 << (4 * len(hashes)).bit_length()) - 1
    table = np.zeros(mask + 1, np.int32)
    table[hashes & mask] = np.arange(len(hashes))

    def rows_of(asked: Int64[np.ndarray, "E"]) -> Int64[np.ndarray, "E"]:
        rows: Int64[np.ndarray, E] = table[asked & mask].astype(np.int64)
        others = np.flatnonzero(hashes[rows] != asked)
        places = ordered.searchsorted(asked[others]).clip(max=len(ordered) - 1)
        rows[others] = np.where(ordered[places] == asked[others], order[places], -1)
        return rows

    return rows_of


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _check_names(lines: _Lines, catalog: Catalog) -> None:
    """Refuse a file in which a track has another title or artist than in the catalogue."""
    rows = catalog.rows_of(lines.subjects)
    titles, artists = catalog.titles[rows], catalog.artists[catalog.artist_of[rows]]
    for number, in_file in enumerate(zip(lines.titles, lines.artists, strict=True)):
        in_catalog = (titles[number], artists[number])
        if any(_name(name) and name != known for name, known in zip(in_file, in_catalog, strict=True)):
            track = lines.subjects[number]
            raise InputError(
                f"{lines.path}, line {number + 1}: track {track} is {in_file[0]!r} by {in_file[1]!r} in "
                f"this file and {in_catalog[0]!r} by {in_catalog[1]!r} in the catalogue; use the catalogue that these "
                "recommendations were made for"
            )


# The keys that all lines of a file have: of what the list is about, and of the list.
_LISTS = {"track": "recommendations", "item_id": "recommendations", "user": "tracks"}
_KINDS: dict[type, Any] = {
    int: Annotated[int, Field(ge=0, lt=2**63)],
    str: str,  # those of the lines are looked at, and a candidate is one of them
}
_TYPED: Any = TypedDict  # of keys that a type checker need not know


@cache
def _parser(key: str, kind_of_key: type, kind: type) -> Callable[[bytes], Any]:
    """What parses and checks a line, by its first key, and by the kinds of this key and of the candidates."""
    scores, plays = list[Annotated[float, Field(gt=-1e30, lt=1e30)]] | None, Annotated[int, Field(ge=0, lt=2**63)]
    others = {"scores": scores, "plays": plays, "title": Any, "artist": Any, "id": Any}
    keys: dict[str, Any] = {key: _KINDS[kind_of_key], _LISTS[key]: types.GenericAlias(list, _KINDS[kind])}
    keys |= {name: NotRequired[of_name] for name, of_name in others.items()}
    line = with_config(ConfigDict(strict=True, cache_strings="keys"))(_TYPED("Line", keys))
    return cast("Callable[[bytes], Any]", TypeAdapter(line).validate_json)


def _key_of(bare: bytes) -> str | None:
    """What the list of a line is about; None where it has the keys of none."""
    with suppress(ValueError, RecursionError):
        line = json.loads(bare)
        return next((key for key in _LISTS if key in line), None) if isinstance(line, Mapping) else None
    return None


def _kinds_of(path: Path, key: str) -> tuple[type, type]:
    """Whether the ids of a file are whole numbers or texts: what a line is about, and candidates, as they first are."""
    of_key: type = int
    with suppress(ValueError, RecursionError, LookupError, TypeError):
        for number, bare in enumerate(_bare_lines(path)):
            line = json.loads(bare)
            if not number:
                of_key = str if isinstance(line[key], str) else int
            if key != "user":
                break
            if candidates := line[_LISTS[key]]:
                return of_key, str if isinstance(candidates[0], str) else int
    return of_key, of_key


def _bare_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line.rstrip(b"\r\n") for line in file)
    except OSError as error:
        raise InputError(
            f"cannot read recommendations from {path}: {error.strerror}; if the run folder was deleted, MLflow still "
            "has them: run:<id>"
        ) from None


def _read_lines(path: Path) -> _Lines:
    key: str | None = None
    lengths, ids, plays, scores = array("q"), array("q"), array("q"), array("f")
    titles, artists, known = list[Any](), list[Any](), dict[str, str]()  # known, as an artist has many tracks
    subjects = list[Id]()
    kinds: tuple[type, type] = int, int
    for number, bare in enumerate(_bare_lines(path), start=1):
        where = f"{path}, line {number}"
        if key is None:
            kinds = _kinds_of(path, key := _key_of(bare) or "track")
        line = _parse(bare, key, kinds, where)
        candidates, of_list, artist = line[_LISTS[key]], line.get("scores"), line.get("artist")
        if kinds[0] is str and (problem := id_problem(line[key])):
            raise InputError(f'{where} is damaged: "{key}" {problem}')
        subjects.append(line[key])
        lengths.append(len(candidates))
        ids.fromlist([*map(hash, candidates)] if kinds[1] is str else candidates)
        scores.fromlist([math.nan] * len(candidates) if of_list is None else of_list)
        plays.append(line.get("plays", -1))
        titles.append(line.get("title"))
        artists.append(known.setdefault(artist, artist) if isinstance(artist, str) else artist)
    if key is None:
        raise InputError(f"{path} is empty: expected one line for each track of the catalogue")
    first = dict[Id, int]()
    for number, subject in enumerate(subjects):
        if first.setdefault(subject, number) != number:
            name = f"{key.removesuffix('_id')} {subject}"
            raise InputError(f"{path}, line {number + 1}: {name} has two lines; give it one list")
    return _Lines(
        path=path,
        key=key,
        subjects=np.array(subjects, object if kinds[0] is str else np.int64),
        lengths=np.frombuffer(lengths, np.int64),
        ids=np.frombuffer(ids, np.int64),
        are_hashes=kinds[1] is str,
        scores=np.frombuffer(scores, np.float32),
        titles=titles,
        artists=artists,
        plays=np.frombuffer(plays, np.int64),
    )


def _parse(bare: bytes, key: str, kinds: tuple[type, type], where: str) -> dict[str, Any]:
    """Parse and check one line of a recommendations file; every error message starts with `where`."""
    try:
        line: dict[str, Any] = _parser(key, *kinds)(bare)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise InputError(f"{where} is damaged: not JSON ({first['msg']})") from None
        if _key_of(bare) is None:
            rule = _expected('track", "item_id" or "user', "key", kinds)
            raise InputError(f"{where} is damaged: {rule}") from None
        raise InputError(f"{where} is damaged: {_expected(key, str(first['loc'][0]), kinds)}") from None
    candidates, scores, is_of_user = line[_LISTS[key]], line.get("scores"), key == "user"
    if len(set(candidates)) < len(candidates) or (not is_of_user and line[key] in candidates):
        others = "" if is_of_user else f" other than {line[key]} itself"
        raise InputError(f"{where} is damaged: the list must name distinct tracks{others}")
    if scores is not None and len(scores) != len(candidates):
        raise InputError(f"{where} is damaged: {_expected(key, 'scores', kinds)}")
    return line


def _expected(key: str, wrong: str, kinds: tuple[type, type]) -> str:
    """What a line must have under the key that is wrong."""
    of_key, of_list = ("text" if kind is str else "whole number" for kind in kinds)
    if wrong in _LISTS.values():
        return f'"{wrong}" must be a list of track ids, each a {of_list}, as in the first line'
    return {
        "scores": '"scores" must be one finite number for each recommendation',
        "plays": '"plays" must be a whole number of at least 0',
    }.get(wrong, f'expected an object with a {of_key} under "{key}", as in the first line')
