"""Which column has which role: what the settings say, or what the names of the columns mean if their values fit.

Names in English come first, names in other languages next. The time of a play is also found by its values alone.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from segue.datamodules.reading.clocks import look_like_times, num_times, run_like_a_clock, source_of
from segue.datamodules.reading.column_names import OTHER_NAMES, ROLES, USUAL_NAMES, plain, spellings
from segue.datamodules.reading.raw_rows import SAMPLE, RawRows
from segue.datamodules.reading.units import MS_OF, NO, YES, as_numbers, is_hms
from segue.errors import InputError
from segue.runs.hydra_text import as_word

# Columns that say where a person was and with which device, in lower case with underscores between words.
_NEVER_READ = re.compile(
    r"(^|_)(ip|ipv[46]|ip_?addr\w*|(remote|client)_?(addr\w*|host)|x_forwarded_for|user_?agent\w*|browser)(_|$)"
)

_MOST_COLUMNS = 200  # columns whose values are looked at
# Roles whose values have a form, and what it is called.
_KINDS = {
    "timestamp": "times",
    "played_ratio": "shares",
    "played": "durations",
    "duration": "durations",
    "skipped": "flags",
}


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What was found.

    Args:
        mapping: the column of each role that has one, in the order of `ROLES`.
        evidence: why a column was chosen, for each role that the settings left open.
        holds: what each column that is not used has, as far as its values show it.
        alternatives: a role that such a column could have.
    """

    mapping: Mapping[str, str]
    evidence: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, str] = field(default_factory=dict)
    alternatives: Mapping[str, str] = field(default_factory=dict)


def option(role: str, column: str) -> str:
    """The word of the command line that gives a role to a column."""
    word = as_word(column, '"')
    return shlex.quote(f"datamodule.columns.{role}={word}")


def map_columns(rows: RawRows, given: Mapping[str, str | None], *, unit: str) -> Roles:
    """Find the column of each role.

    Args:
        rows: the rows.
        given: for each role the path of a column, None for none, or `auto` for one that names or values show.
        unit: value of `datamodule.units.timestamp`.

    Returns:
        The roles, and what is known of the columns without one.

    Raises:
        InputError: a role or a column does not exist, or may not be read.
    """
    mapping: dict[str, str] = {}
    for role, path in given.items():
        if is_private(path or ""):
            raise InputError(
                f"datamodule.columns.{role}={path}: addresses and user agents are never read; name another column, "
                "or null if there is none"
            )
        if path is not None and path != "auto":
            mapping[role] = rows.found(path, key=f"datamodule.columns.{role}")
    mapping = {role: path for role, path in mapping.items() if path not in rows.absent}
    found = Roles(mapping=mapping)
    if roles := [role for role, path in given.items() if path == "auto"]:
        found = _Search(rows, mapping, roles, unit).found()
    mapping = dict(found.mapping)
    for role, path in mapping.items():
        if role not in ("user", "session") and path == mapping.get("user"):
            raise InputError(
                f"datamodule.columns.{role}={path} is the column of the users too, whose ids are stored nowhere; name "
                "another column, or give datamodule.columns.user=null"
            )
    if "track" not in mapping and "title" not in mapping:
        remedy = "datamodule.columns.track= or datamodule.columns.title= the name of one of them"
        if rows.files.format == "csv" and len(rows.types) <= 2:
            remedy = "datamodule.files.skip=<lines before the names>, or datamodule.files.delimiter=<character>"
        raise InputError(f"{rows.files.shown[0]} has the columns {rows.listed}; give {remedy}")
    return replace(found, mapping={role: mapping[role] for role in ROLES if role in mapping})


def is_private(name: str) -> bool:
    """Whether a column has addresses or user agents, by its name.

    Args:
        name: its name, or a path.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return bool(_NEVER_READ.search(re.sub(r"[^a-z0-9]+", "_", words)))


def refuse_private(columns: Sequence[str], texts: Sequence[str]) -> None:
    """Refuse SQL expressions that read addresses or user agents.

    Raises:
        InputError: an expression names such a column.
    """
    words = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    for name in columns:
        if is_private(name) and name.lower() in words:
            raise InputError(f"datamodule.sql names the column {name}: addresses and user agents are never read")


class _Search:
    """The search for the columns of the roles that the settings leave open.

    Args:
        rows: the rows.
        given: the columns that the settings name.
        roles: the roles that they leave open.
        unit: value of `datamodule.units.timestamp`.
    """

    def __init__(self, rows: RawRows, given: Mapping[str, str], roles: Sequence[str], unit: str) -> None:
        self._given, self._roles, self._unit = given, roles, unit
        left_out = {*rows.absent, *(path.split(".")[0] for path in rows.inner)}
        names = [name for name in (*rows.types, *rows.derived) if name not in left_out]
        names += [path for path in rows.inner if not any(other.startswith(f"{path}.") for other in rows.inner)]
        self._names = [name for name in names if not is_private(name)]
        self._columns = _first_texts(rows, self._names[:_MOST_COLUMNS])
        self._mapping: dict[str, str] = {}
        self._evidence: dict[str, str] = {}

    def found(self) -> Roles:
        """The roles, and the columns that have none."""
        unfit = self._by_names(USUAL_NAMES, lambda name: {plain(name)})
        others = self._by_names({role: [*USUAL_NAMES[role], *OTHER_NAMES[role]] for role in ROLES}, spellings)
        if "timestamp" in self._roles and "timestamp" not in self._mapping:
            self._time_by_values()
            unfit = {**{role: name for role, name in others.items() if role == "timestamp"}, **unfit}
        self._refuse_hours_elsewhere()
        for role, name in unfit.items():  # it is refused, or its rows are, with the reason
            if role not in self._mapping and name in self._free():
                self._choose(role, name, "by its name")
        mapping = {**self._given, **self._mapping}
        unused = [name for name in self._names if name not in mapping.values()]
        times = [name for name in unused if name in self._columns and look_like_times(self._columns[name], self._unit)]
        holds = {name: self._evidence_of("timestamp", name) if name in times else "" for name in unused}
        alternatives = {name: could for name in unused if (could := self._alternative(name, is_time=name in times))}
        return Roles(mapping=mapping, evidence=self._evidence, holds=holds, alternatives=alternatives)

    def _time_by_values(self) -> None:
        clocks = [name for name in self._free() if run_like_a_clock(self._columns[name], self._unit)]
        if clocks := [name for name in clocks if source_of(name, self._columns, self._unit) is None]:
            columns = self._columns  # texts rather than numbers
            best = max(clocks, key=lambda name: (not _num("shares", columns[name]), columns[name].nunique()))
            self._choose("timestamp", best, "by its values")

    def _refuse_hours_elsewhere(self) -> None:
        """Refuse days without an hour beside a column of times of day: all plays would be at midnight."""
        days, names = self._mapping.get("timestamp"), {*USUAL_NAMES["timestamp"], *OTHER_NAMES["timestamp"]}
        if days is None or num_times(self._columns[days], self._unit)[0] in MS_OF:
            return
        hours = [name for name in self._free() if spellings(name) & names]
        hours = [name for name in hours if self._columns[name].str.match(r"\d?\d:\d\d").mean() > 0.99]
        if hours and not self._columns[days].str.contains(":").any():
            raise InputError(
                f"column {days} has days and column {hours[0]} times of day; make one column of both with "
                f"datamodule.sql.columns, such as '\"{days}\" || ' ' || \"{hours[0]}\"', and name it in "
                f"datamodule.columns.timestamp, or give {option('timestamp', days)} if the hour does not matter"
            )

    def _free(self) -> list[str]:
        """Columns whose values are known, and that have no role."""
        return [name for name in self._columns if name not in (*self._given.values(), *self._mapping.values())]

    def _num(self, role: str, name: str) -> int:
        texts = self._columns[name]
        return num_times(texts, self._unit)[1] if role == "timestamp" else _num(_KINDS[role], texts)

    def _evidence_of(self, role: str, name: str) -> str:
        return f"{self._num(role, name):,} of {len(self._columns[name]):,} are {_KINDS[role]}"

    def _choose(self, role: str, name: str, why: str) -> None:
        has_values = role in _KINDS and len(self._columns.get(name, ())) > 0
        self._mapping[role] = name
        self._evidence[role] = f"{why}: {self._evidence_of(role, name)}" if has_values else why

    def _fits(self, role: str, name: str, *, is_usual: bool) -> bool:
        """Whether the values of a column may have a role that its name says."""
        if not (num := len(self._columns[name])):
            return is_usual
        if role in _KINDS:
            return 2 * self._num(role, name) > num
        return is_usual or (
            (role != "track" or self._is_filled(name)) and not look_like_times(self._columns[name], self._unit)
        )

    def _is_filled(self, name: str) -> bool:
        return len(self._columns[name]) >= 0.99 * max(map(len, self._columns.values()))

    def _has_numbers(self, name: str) -> bool:
        texts = self._columns[name]
        return len(texts) > 0 and bool(texts.str.fullmatch(r"-?\d+").all())

    def _by_names(self, known: Mapping[str, Sequence[str]], spelt: Callable[[str], set[str]]) -> dict[str, str]:
        """Choose by names: of several columns the one whose name comes first. The ids of tracks are in a filled column.

        Args:
            known: names of each role, as `plain` makes them.
            spelt: the name of a column as these have it.

        Returns:
            The column of each role of which no column with such a name has fitting values.
        """
        is_usual, unfit = known is USUAL_NAMES, dict[str, str]()
        for role in self._roles:
            if role in self._mapping:
                continue
            places = {
                name: [known[role].index(one) for one in spelt(name) if one in known[role]] for name in self._free()
            }
            named = sorted((name for name in places if places[name]), key=lambda name: min(places[name]))
            if role == "track" and "title" in self._given:  # a column `track` beside it is seldom an id
                named = [n for n in named if plain(n) not in USUAL_NAMES["title"] or self._has_numbers(n)]
            fitting = [name for name in named if self._fits(role, name, is_usual=is_usual)]
            if role == "track":
                fitting = [name for name in fitting if self._is_filled(name)] or fitting
            if fitting:
                self._choose(role, fitting[0], "by its name")
            elif named:
                unfit[role] = named[0]
        self._titles_in_track()
        return unfit

    def _titles_in_track(self) -> None:
        """Read titles from a column `track` or `song` that has texts, if an artist and no other title is known."""
        mapping = self._mapping
        is_ambiguous = "title" in self._roles and plain(mapping.get("track", "")) in USUAL_NAMES["title"]
        if plain(mapping.get("title", "")) == "name" and is_ambiguous:
            del mapping["title"]  # beside a track, `name` is rather that of the listener
        has_artist = "artist" in mapping or "artist" in self._given
        if is_ambiguous and "title" not in mapping and has_artist and not self._has_numbers(mapping["track"]):
            mapping["title"] = mapping.pop("track")
            self._evidence["title"] = self._evidence.pop("track")

    def _alternative(self, name: str, *, is_time: bool) -> str | None:
        """The role that a column without one could have."""
        if name not in self._columns:
            return None
        if is_time:
            return None if source_of(name, self._columns, self._unit) else "timestamp"
        for role in self._roles:
            if spellings(name) & {*USUAL_NAMES[role], *OTHER_NAMES[role]} and self._fits(role, name, is_usual=False):
                return role
        return None


def _num(kind: str, texts: pd.Series) -> int:
    """How many texts are shares, durations or flags."""
    if kind == "flags":
        return int(texts.str.lower().isin([*YES, *NO]).sum())
    numbers = as_numbers(texts.tolist())
    if kind == "shares":
        return int(((numbers >= 0) & (numbers <= 120)).sum())
    return int((numbers >= 0).sum()) or sum(map(is_hms, texts))


def _first_texts(rows: RawRows, names: Sequence[str]) -> dict[str, pd.Series]:
    """The first values of columns as texts, without empty ones."""
    cells = ", ".join(f"NULLIF(trim({rows.shown(name)}), '')" for name in names)
    found = rows.run(f"SELECT {cells} FROM ({rows.relation(limit=SAMPLE)})").fetchall() if names else []
    values = zip(*found, strict=True) if found else [()] * len(names)
    return {name: pd.Series(texts, name=name, dtype=object).dropna() for name, texts in zip(names, values, strict=True)}
