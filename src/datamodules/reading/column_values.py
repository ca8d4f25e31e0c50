"""What the columns of a table hold, as their first rows show, whatever their names are.

n values, R rows.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from segue.datamodules.reading.queries import quoted_text
from segue.datamodules.reading.raw_rows import RawRows
from segue.datamodules.reading.units import EXCEL_DAYS, LEAST_MS, MS_OF, NO, YES, find_unit_of_time, is_hms, numbers_of

NUM_ROWS = 10_000
"""Rows that are looked at."""
_NESTED_ROWS, _NESTED_DEPTH = 200, 3
"""Rows of JSON in which objects inside objects are looked for, and how deep."""
_MOST, _HALF = 0.99, 0.5
"""Share of the values that must fit where no name says what they are, and where one does."""
_FEW = 0.1  # share of the times of day that durations do not have
# Start of 2000. Earlier numbers are not taken for times unless their name says so.
_EARLIEST_S = 946_684_800
# How many times as long as a typical step the longest one is, in times of plays: a night, or another listener.
_PAUSE = 30
_COMPACT = "%Y%m%d%H%M%S"
_HOUR_S, _YEAR_S = 3600, 31_557_600
# Names of columns whose numbers are no times without a clock in their texts.
_NUMBERED = re.compile(
    r"(^|[^a-z])(id|ids|uid|guid|nr|no|num|number|nummer|numero|phone|tel|telefon|telephone|mobile|price|preis|prix|"
    r"precio|amount|isrc|ean|code|zip|plz|key|hash)([^a-z]|$)|[a-z]I[dD]$"
)
_DIGITS = re.compile(r"\d.*\d.*\d.*\d")  # what every time has
_IS_STRUCT = re.compile(r"STRUCT.*\)", re.DOTALL)
# A date without an hour.
_DAY = re.compile(r"\d{1,4}([./-])\d{1,2}\1(\d{4}|\d{2})|(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")
_TIME_OF_DAY = re.compile(
    r"([01]?\d|2[0-3]):[0-5]\d(?P<seconds>:[0-5]\d([.,]\d+)?)?(?P<half> ?[AaPp]\.?[Mm]\.?)?"
    r"( ?(Z|UTC|GMT|[+-]\d\d:?\d\d))?"
)
# Addresses of tracks.
_URI = re.compile(
    r"spotify:track:\w+|https?://(open\.spotify\.com/(intl-\w+/)?track/|(www\.|music\.|m\.)?youtube\.com/watch\?|"
    r"youtu\.be/|(www\.)?deezer\.com/(\w+/)?track/|tidal\.com/(browse/)?track/|musicbrainz\.org/recording/|"
    r"soundcloud\.com/[^/]+/).*"
)


@dataclass(frozen=True, eq=False)
class ColumnValues:
    """The first values of a column.

    Args:
        texts: those that are not empty, by the number of the row.
    """

    name: str
    texts: pd.Series

    @cached_property
    def values(self) -> list[str]:
        """The values as texts."""
        return [str(text) for text in self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def by_row(self) -> pd.Series:
        """Those that are numbers, by the number of the row."""
        return numbers_of(self.texts)

    @property
    def numbers(self) -> np.ndarray:
        """Those that are numbers."""
        return np.asarray(self.by_row)

    @cached_property
    def are_numbers(self) -> bool:
        """Whether nearly all are numbers."""
        return len(self) > 0 and len(self.numbers) >= _MOST * len(self)

    @cached_property
    def num_distinct(self) -> int:
        """How many different ones there are."""
        return int(self.texts.nunique())

    @cached_property
    def time(self) -> tuple[str, int]:
        """In which unit most are times, and how many are; see `find_unit_of_time`."""
        few = self.values[:100]
        have_digits = sum(_DIGITS.search(value) is not None for value in few) > _HALF * len(few)
        if not have_digits or not find_unit_of_time(few)[1]:  # texts are seen early
            return "", 0
        return find_unit_of_time(self.values)

    @property
    def are_times(self) -> bool:
        """Whether most can be read as times."""
        return self.time[1] > _HALF * len(self)

    @cached_property
    def look_like_times(self) -> bool:
        """Whether nearly all are times, also if no name says so: texts of dates, or numbers of the years since 2000."""
        unit, num = self.time
        if num < _MOST * len(self) or self.num_distinct < 2 or unit == "%Y%m%d":
            return False
        if not self.are_numbers or unit == _COMPACT:
            return True
        seconds = self.seconds
        is_recent = (seconds >= _EARLIEST_S) & (seconds < time.time() + _YEAR_S)
        has_parts = unit != "excel" or bool((self.numbers % 1 != 0).mean() > _HALF)
        is_numbering = (np.abs(np.diff(self.numbers)) <= 1).mean() > 0.9  # as numbers of rows are
        is_varied = self.num_distinct > len(self) / 2 and (unit == "excel" or not is_numbering)
        return bool(is_recent.mean() >= _MOST and has_parts and is_varied and not self.has_name_of_ids)

    @property
    def has_name_of_ids(self) -> bool:
        """Whether its name says that it has ids or prices."""
        return bool(_NUMBERED.search(self.name.lower()) or _NUMBERED.search(self.name))

    @property
    def seconds(self) -> np.ndarray:
        """Numbers that are times, in seconds since 1970."""
        if (unit := self.time[0]) == "excel":
            return (self.numbers - EXCEL_DAYS[0]) * 86_400
        if unit == "epoch":
            return np.where(self.numbers >= LEAST_MS, self.numbers / 1000, self.numbers)
        return self.numbers * MS_OF.get(unit, 1000.0) / 1000

    @cached_property
    def run_like_a_clock(self) -> bool:
        """Whether times may be used although no name says so.

        Texts with an hour may. Numbers must follow each other as plays do: most rise (or fall) from row to row, by less
        than an hour, and there are pauses, which numbers of orders do not have.
        """
        if not self.look_like_times:
            return False
        if self.time[0] == _COMPACT or not self.are_numbers:
            return self.time[0] == _COMPACT or sum(":" in value for value in self.values) > _HALF * len(self)
        if len(self) <= 20:
            return False
        steps = np.diff(self.seconds)
        are_sorted = max((steps >= 0).mean(), (steps <= 0).mean()) >= 0.8
        typical, longest = np.median(np.abs(steps)), np.abs(steps).max()
        return bool(are_sorted and typical <= _HOUR_S and longest >= _PAUSE * typical)

    @cached_property
    def are_days(self) -> bool:
        """Whether nearly all are dates without an hour."""
        return self._share(lambda value: _DAY.fullmatch(value) is not None) >= _MOST

    @cached_property
    def are_times_of_day(self) -> bool:
        """Whether nearly all are times of day, and not durations such as 3:25, which are seldom so long."""
        found = [match for value in self.values if (match := _TIME_OF_DAY.fullmatch(value))]
        late = sum(bool(match["half"]) or int(match[1]) >= (3 if match["seconds"] else 13) for match in found)
        return len(found) >= max(1, _MOST * len(self)) and late > _FEW * len(self)

    @cached_property
    def are_flags(self) -> bool:
        """Whether nearly all say yes or no."""
        return 0 < self.num_distinct <= 6 and self._share(lambda value: value.lower() in (*YES, *NO)) >= _MOST

    @cached_property
    def are_durations(self) -> bool:
        """Whether most are numbers of at least 0, or such as 3:25."""
        return bool((self.numbers >= 0).sum() > _HALF * len(self)) or self._share(is_hms) > _HALF

    @cached_property
    def are_shares(self) -> bool:
        """Whether most are numbers from 0 to 1, or to 100 percent; a few may be above."""
        return bool(((self.numbers >= 0) & (self.numbers <= 120)).sum() > _HALF * len(self))

    @cached_property
    def are_uris(self) -> bool:
        """Whether nearly all are addresses of tracks."""
        return self._share(lambda value: ":" in value and _URI.fullmatch(value) is not None) >= _MOST

    def _share(self, fits: Callable[[str], bool]) -> float:
        return sum(map(fits, self.values)) / max(len(self), 1)

    @cached_property
    def holds(self) -> str:
        """What they are, with the share that fits, in words; empty for texts and numbers without a known meaning."""
        if not len(self):
            return "nothing in the first rows"
        if self.look_like_times:
            return self.evidence("times", self.time[1])
        for what, are in (("flags", self.are_flags), ("addresses of tracks", self.are_uris)):
            if are:
                return self.evidence(what, len(self))
        return ""

    def evidence(self, what: str, num: int) -> str:
        """How many of the values are something."""
        return f"{num:,} of {len(self):,} are {what}"


@dataclass(frozen=True, eq=False)
class Sample:
    """The first rows of a table.

    Args:
        texts: cells as texts, None where they are empty; a column for each path.
    """

    texts: pd.DataFrame

    @cached_property
    def columns(self) -> dict[str, ColumnValues]:
        """The values of each column."""
        return {str(name): ColumnValues(str(name), self.texts[name].dropna()) for name in self.texts.columns}

    def are_amounts(self, name: str) -> bool:
        """Whether a column has numbers of at least 0 that may be durations or shares: ten or more, and no ids."""
        column = self.columns[name]
        if not column.are_numbers or column.num_distinct < 10 or column.look_like_times or column.are_flags:
            return False
        return not column.has_name_of_ids and bool((column.numbers >= 0).all())

    def is_fixed_by(self, key: Sequence[str], name: str) -> bool:
        """Whether rows with the same track have the same value of a column, as a length is; not without such rows."""
        rows = self.texts.dropna(subset=[*key, name]).groupby(list(key))[name].agg(["size", "nunique"])
        rows = rows[rows["size"] > 1]
        return len(rows) >= 10 and bool((rows["nunique"] == 1).mean() >= 0.95)

    def are_lengths(self, name: str, key: Sequence[str]) -> bool:
        """Whether a column may have the length of each track, in seconds or milliseconds.

        Args:
            key: columns that say which track is played.
        """
        if not self.are_amounts(name) or not self.is_fixed_by(key, name):
            return False
        typical = float(np.median(self.columns[name].numbers))
        return 60 <= typical <= 900 or 60_000 <= typical <= 900_000

    def part_of(self, played: str, duration: str) -> float:
        """Share of the rows in which a track was played to its end, if one column may be the time played of the other.

        A time is not longer than the track in 95 % of the rows, and equal to it in 5 % or more; otherwise 0.
        """
        ratio = self.columns[played].by_row / self.columns[duration].by_row
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio) < 20:
            return 0.0
        factor = min((1.0, 1e-3, 1e3), key=lambda factor: abs(float(ratio.quantile(0.95)) / factor - 1))
        ratio = ratio / factor
        whole = float(((ratio - 1).abs() <= 0.02).mean())
        return whole if (ratio <= 1.02).mean() >= 0.95 and 0.05 <= whole < 1 else 0.0

    def are_shares(self, name: str, key: Sequence[str]) -> bool:
        """Whether a column may have shares played: from 0 to 1, often 1, and not the same for each play of a track.

        Args:
            key: columns that say which track is played.
        """
        if not self.are_amounts(name) or self.source_of(name) or self.is_fixed_by(key, name):
            return False
        numbers = self.columns[name].numbers
        return bool((numbers <= 1).mean() >= _MOST and 0.01 <= (numbers == 1).mean() < 1)

    def source_of(self, name: str) -> str | None:
        """A column from whose values those of `name` follow: the listener of a birthday, the track of a release."""
        rows = self.texts.dropna(subset=[name])
        for other, column in self.columns.items():
            if other == name or len(column) < 20 or not 2 <= column.num_distinct <= len(column) / 2.5:
                continue
            if column.look_like_times:
                continue
            num_values = rows.groupby(other)[name].nunique()
            if len(num_values) > 1 and (num_values == 1).mean() >= 0.98:
                return other
        return None


def look_at_columns(rows: RawRows, names: Sequence[str]) -> Sample:
    """Read the first rows."""
    if not names:
        return Sample(pd.DataFrame())
    keys = [name for name in names if rows.is_json and name not in rows.derived]
    cells = [f"CAST({rows.shown(name)} AS VARCHAR)" for name in names if name not in keys]
    if keys:  # a line is parsed once for all of its keys
        paths = [quoted_text(rows.json_path(name)) for name in keys]
        cells.append(f"TRY(json_extract_string(line, [{', '.join(paths)}]))")
    found = rows.run(f"SELECT {', '.join(cells)} FROM ({rows.relation(limit=NUM_ROWS)})").fetchall()
    if keys:
        found = [(*others, *(of_keys or [None] * len(keys))) for *others, of_keys in found]
    columns = [*(name for name in names if name not in keys), *keys]
    texts = pd.DataFrame(found, columns=pd.Index(columns, dtype=object), dtype=object)[list(names)]
    texts = texts.apply(lambda column: column.str.strip())
    return Sample(texts.mask(texts == ""))


def nested_paths(rows: RawRows) -> list[str]:
    """Paths of the values inside the objects of JSON rows, as their first rows have them, or inside a STRUCT."""
    if not rows.is_json:
        return [path for path, type_ in rows.inner_types.items() if not _IS_STRUCT.fullmatch(type_)]
    lines = rows.run(f"SELECT CAST(line AS VARCHAR) FROM ({rows.relation(limit=_NESTED_ROWS)})").fetchall()
    found: dict[str, None] = {}
    for (line,) in lines:
        try:
            row = json.loads(line or "null")
        except ValueError:
            continue
        found |= dict.fromkeys(_paths(row, "", 0))
    return [path for path in found if "." in path and path.split(".")[0] in rows.types]


def _paths(value: object, path: str, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and depth < _NESTED_DEPTH:
        for key, inner in value.items():
            if key and "." not in key and '"' not in key:
                yield from _paths(inner, f"{path}.{key}" if path else key, depth + 1)
    elif path:
        yield path
