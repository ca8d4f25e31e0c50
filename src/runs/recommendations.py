"""Recommendations: for every track, the K tracks that should follow it, best first; or for every user, K tracks.

N tracks in the catalogue, Q lists, B lists of a block, K candidates of a list, n lines of a file. This module does not
import torch because the service imports it.
"""

import hashlib
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32, Int, Int64
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from segue.catalog import Catalog, Id, id_problem, ids_of, keys_of, quoted
from segue.errors import InputError
from segue.runs.catalog_files import write_lines
from segue.settings import Setting, checked

SCORE_DECIMALS = 6
"""Scores are compared, ranked and written with this many decimals."""

FORMATS = {"botify": "track", "botify_2026": "item_id"}
"""The formats of a file of recommendations, and the key that each has for the track of a line."""

_LISTS = {"track": "recommendations", "item_id": "recommendations", "user": "tracks"}
"""What the lines of a file are about, and the key of their list."""

_NUM_AT_ONCE = 2**18  # candidates that are looked up, checked or written at once


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
        lines = _Lines(path)
        if lines.key != "user":
            return lines.of_tracks(catalog)
        rows = lines.rows(catalog, np.full(len(lines.subjects), -1))
        users = keys_of(lines.subjects)
        order = np.argsort(users)
        return cls(rows=rows[order], scores=lines.scores[order], users=users[order])

    @classmethod
    def read_with_catalog(cls, path: Path) -> tuple["Recommendations", Catalog]:
        """Read a file that has a line for every track, and build the catalogue from these lines.

        Returns:
            The recommendations and their catalogue, in the order of the lines.

        Raises:
            InputError: the file is missing or damaged, has lists of users, or recommends a track that has no line. The
                message names the line.
        """
        lines = _Lines(path)
        if lines.key == "user":
            raise InputError(
                f"{path} has lists of users and therefore no catalogue; name the catalogue: tracks=<path>/tracks.json"
            )
        titles, artists = ([_name(name) for name in names] for names in (lines.titles, lines.artists))
        catalog = Catalog.from_columns(lines.subjects, titles, artists, source=str(path))
        return lines.of_tracks(catalog), catalog


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
    names = catalog.artists[catalog.artist_of], catalog.titles, catalog.track_ids

    def lines() -> Iterator[dict[str, Any]]:
        row = 0
        for rows, scores in blocks:
            for some in _slices(rows):
                lengths, rounded = (rows[some] >= 0).sum(1), scores[some].astype(np.float64).round(SCORE_DECIMALS)
                has_scores = ~(np.isnan(rounded) & (rows[some] >= 0)).any(1)
                of = [part[row : row + len(lengths)].tolist() for part in names]
                lists = (catalog.track_ids[rows[some]], rounded, lengths, has_scores)
                for artist, title, track, ids, own, length, is_scored in zip(
                    *of, *(part.tolist() for part in lists), strict=True
                ):
                    line = {"artist": artist, "title": title, FORMATS[format]: track, "recommendations": ids[:length]}
                    if is_scored:
                        line["scores"] = own[:length]
                    if plays is not None:
                        line["plays"] = int(plays[row])
                    yield line
                    row += 1

    write_lines(path, lines())


def key_of_lines(path: Path) -> str:
    """The key that the lines of a file have for what their list is about: `track`, `item_id` or `user`.

    Raises:
        InputError: it cannot be read.
    """
    bare = next(_bare_lines(path), b"")
    with suppress(ValueError, TypeError):
        line = from_json(bare)
        return next((key for key in _LISTS if key in line), "track")
    return "track"


def file_digest(path: Path) -> str:
    """Digest of the bytes of a file, by which a log names the lists that it was recommended from.

    Returns:
        Twelve hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=6)).hexdigest()


@cache
def _line() -> Any:
    """What parses and checks a line."""
    fast = Field(fail_fast=True)
    ids: Any = Annotated[list[Annotated[int, Field(ge=0)]], fast] | Annotated[list[str], fast]
    scores: Any = list[Annotated[float, Field(gt=-1e30, lt=1e30)]] | None
    keys: dict[str, Any] = {**dict.fromkeys(_LISTS, Id), **dict.fromkeys(_LISTS.values(), ids), "scores": scores}
    keys |= {"plays": Annotated[int, Field(ge=0, lt=2**63)], "title": Any, "artist": Any}
    made: Any = TypedDict("Line", keys, total=False)  # type: ignore[misc]  # mypy wants a literal
    return TypeAdapter(with_config(ConfigDict(strict=True, cache_strings="keys"))(made)).validate_json


class _Lines:
    """The lines of a file as columns, which need much less memory than objects.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read, a line is damaged, or two are about the same.

    Attributes:
        key: the key that its lines have for what they are about, of `_LISTS`.
        subjects: id of the track or the user that each line is about; all differ.
        scores: of the candidates of each line, n × K; NaN where there is none.
        titles: title in each line, of any type; None without one.
        artists: artist in each line, of any type; None without one.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.key = path, "track"
        self.titles, self.artists, subjects, is_text = list[Any](), list[Any](), array("q"), False
        lengths, ids, plays, scores = array("q"), array("q"), array("q"), array("f")
        known = dict[str, str]()  # an artist has many tracks
        numbers = defaultdict[Any, int]()  # of texts, in the order in which they occur first
        numbers.default_factory = numbers.__len__
        for bare in _bare_lines(path):
            try:
                line = _line()(bare)
                if not lengths:
                    self.key = next((key for key in _LISTS if key in line), "track")
                    is_text = isinstance(line[self.key], str)
                subject, candidates, of_list = line[self.key], line[_LISTS[self.key]], line.get("scores")
                of_list = [math.nan] * len(candidates) if of_list is None else of_list
                if problem := id_problem(subject):
                    raise ValueError(f'"{self.key}" {problem}')
                if len(of_list) != len(candidates):
                    raise ValueError('"scores" must be one number for each candidate')
                if isinstance(subject, str) != is_text:
                    raise TypeError
                subjects.append(numbers[subject] if is_text else subject)
                if numbers or (candidates and isinstance(candidates[0], str) and not ids):
                    candidates = [*map(numbers.__getitem__, candidates)]
                ids.fromlist(candidates)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                wrong = f" at {'.'.join(map(str, first['loc']))}" if first["loc"] else ""
                raise self._damaged(len(lengths), f"{first['msg']}{wrong}") from None
            except KeyError as error:
                raise self._damaged(len(lengths), f"it has no {error}, as each line of its file has") from None
            except TypeError:
                raise self._damaged(len(lengths), "its ids must be of the kind of those before") from None
            except (ValueError, OverflowError) as error:
                raise self._damaged(len(lengths), str(error)) from None
            artist = line.get("artist")
            self.titles.append(line.get("title"))
            self.artists.append(known.setdefault(artist, artist) if isinstance(artist, str) else artist)
            lengths.append(len(of_list))
            scores.fromlist(of_list)
            plays.append(line.get("plays", -1))
        if not lengths:
            raise InputError(f"{path} is empty: expected one line for each track of the catalogue")
        self._texts = [*numbers]
        self.subjects: list[Any] = [self._texts[number] for number in subjects] if is_text else subjects.tolist()
        _, place = np.unique(keys_of(self.subjects), return_index=True)
        if len(place) < len(lengths):
            number = int(np.setdiff1d(np.arange(len(lengths)), place)[0])
            raise InputError(f"{self._where(number)}: {self.key} {self.subjects[number]} has two lines")
        self._plays, self._lengths = np.frombuffer(plays, np.int64), np.frombuffer(lengths, np.int64)
        self._ids = self._padded(np.frombuffer(ids, np.int64), -1)
        self.scores = self._padded(np.frombuffer(scores, np.float32), math.nan)

    def _padded(self, flat: np.ndarray, empty: int | float) -> np.ndarray:
        shape = len(self._lengths), max(int(self._lengths.max()), 1)
        if len(flat) == shape[0] * shape[1]:
            return flat.reshape(shape)
        padded = np.full(shape, empty, flat.dtype)
        padded[np.arange(shape[1]) < self._lengths[:, None]] = flat
        return padded

    def _where(self, number: int) -> str:
        return f"{self._path}, line {number + 1}"

    def _damaged(self, number: int, why: str) -> InputError:
        return InputError(f"{self._where(number)} is damaged: {why}")

    def of_tracks(self, catalog: Catalog) -> Recommendations:
        """The lists of tracks of a catalogue, in its order; those of a track without a line are empty.

        Raises:
            InputError: they are of another catalogue: a track is unknown, or has another title or artist.
        """
        own = catalog.rows_of(ids_of(self.subjects))
        rows, plays = self.rows(catalog, own), None
        given = zip(self.titles, self.artists, strict=True)
        known = zip(catalog.titles[own].tolist(), catalog.artists[catalog.artist_of[own]].tolist(), strict=True)
        for number, (named, in_catalog) in enumerate(zip(given, known, strict=True)):
            if any(_name(name) not in (None, known) for name, known in zip(named, in_catalog, strict=True)):
                raise InputError(
                    f"{self._where(number)}: track {quoted(self.subjects[number])} is {named[0]!r} by {named[1]!r}, "
                    f"and {in_catalog[0]!r} by {in_catalog[1]!r} in the catalogue; {_OTHER}"
                )
        if len(own) == len(catalog) and (self._plays >= 0).all():
            plays = self._plays[np.argsort(own)]
        scores = self.scores
        if not np.array_equal(own, np.arange(len(catalog))):
            shape = len(catalog), rows.shape[1]
            (all_rows := np.full(shape, -1))[own] = rows
            (all_scores := np.full(shape, math.nan, np.float32))[own] = scores
            rows, scores = all_rows, all_scores
        return Recommendations(rows=rows, scores=scores, plays=plays)

    def rows(self, catalog: Catalog, own: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n K"]:
        """The rows of the candidates, which take the place of their ids: there may be hundreds of millions.

        Args:
            own: row of the track of each line, which its list must not have; -1 where it is unknown, or a user.

        Raises:
            InputError: a track is not in the catalogue, or a list has one twice or the track that it is about.
        """
        row_of = catalog.rows_of(ids_of(self._texts)) if self._texts else None
        for some in _slices(self._ids):
            ids = self._ids[some]
            is_filled = np.arange(ids.shape[1]) < self._lengths[some, None]
            found = np.where(is_filled, catalog.rows_of(ids) if row_of is None else row_of[ids], -1)
            unknown = is_filled & (found < 0)
            has_none = (own[some] < 0) & (self.key != "user")
            if (is_bad := unknown.any(1) | has_none).any():
                number = some.start + (line := int(is_bad.argmax()))
                track: Any = ids[line, int(unknown[line].argmax())].item()
                track = self.subjects[number] if has_none[line] else self._texts[track] if self._texts else track
                raise InputError(
                    f"{self._where(number)}: track {quoted(track)} is not in the catalogue of {len(catalog)} tracks; "
                    f"{_OTHER}"
                )
            ordered = np.sort(found)
            is_wrong = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)
            is_wrong |= ((found == own[some, None]) & is_filled).any(1)
            if is_wrong.any():
                number = some.start + int(is_wrong.argmax())
                raise self._damaged(number, "the list must name distinct tracks, and not the one that it is about")
            ids[:] = found
        return self._ids


_OTHER = "use the catalogue that these recommendations were made for"


def _slices(lists: np.ndarray) -> Iterator[slice]:
    """Lists in parts of about `_NUM_AT_ONCE` candidates."""
    step = max(_NUM_AT_ONCE // max(lists.shape[1], 1), 1)
    return (slice(start, start + step) for start in range(0, len(lists), step))


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _bare_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line.rstrip(b"\r\n") for line in file)
    except OSError as error:
        raise InputError(
            f"cannot read recommendations from {path}: {error.strerror}; if the run folder was deleted, MLflow still "
            "has them: run:<id>"
        ) from None
