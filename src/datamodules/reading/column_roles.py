"""Which column has which role: what the settings say, or what the names and the values of the columns mean.

Names in English come first, names in other languages next, if the values fit; then the values alone.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from segue.datamodules.reading.column_names import OTHER_NAMES, ROLES, USUAL_NAMES, plain, spellings
from segue.datamodules.reading.column_values import ColumnValues, look_at_columns, nested_paths
from segue.datamodules.reading.raw_rows import RawRows
from segue.errors import InputError
from segue.runs.hydra_text import as_word

# Columns that say where a person was and with which device, in lower case with underscores between words.
_NEVER_READ = re.compile(
    r"(^|_)(ip|ipv[46]|ip_?addr\w*|(remote|client)_?(addr\w*|host)|x_forwarded_for|user_?agent\w*|browser)(_|$)"
)

# Usual paths inside a column.
_NESTED = ("track_metadata.track_name", "track_metadata.artist_name", "track_metadata.additional_info.duration_ms")
_MOST_COLUMNS = 200  # columns whose values are looked at

# What the values of a role are, and whether most values of a column are that.
_KINDS: dict[str, tuple[str, Callable[[ColumnValues], bool]]] = {
    "timestamp": ("times", lambda column: column.are_times),
    "played_ratio": ("shares", lambda column: column.are_shares),
    "played": ("durations", lambda column: column.are_durations),
    "duration": ("durations", lambda column: column.are_durations),
    "skipped": ("flags", lambda column: column.are_flags),
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


def map_columns(rows: RawRows, given: Mapping[str, str | None]) -> Roles:
    """Find the column of each role.

    Args:
        rows: the rows.
        given: for each role the path of a column, None for none, or `auto` for one that names or values show.

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
        found = _Search(rows, mapping, roles).found()
    mapping = dict(found.mapping)
    for role, path in mapping.items():
        if role not in ("user", "session") and path == mapping.get("user"):
            raise InputError(
                f"datamodule.columns.{role}={path} is the column of the users too, whose ids are stored nowhere; name "
                "another column, or give datamodule.columns.user=null"
            )
    if "track" not in mapping and "title" not in mapping:
        columns, remedy = "columns", "datamodule.columns.track= or datamodule.columns.title= the name of one of them"
        if rows.files.format == "csv" and len(rows.types) == 1:
            columns, remedy = "column", "datamodule.files.delimiter=<what separates columns>, or datamodule.files.skip="
            remedy += "<lines before the names>"
        raise InputError(f"{rows.files.shown[0]} has the {columns} {rows.listed}; give {remedy}")
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
    """

    def __init__(self, rows: RawRows, given: Mapping[str, str], roles: Sequence[str]) -> None:
        self._rows, self._given, self._roles = rows, given, roles
        nested = [path for path in nested_paths(rows) if not is_private(path)]
        usual = [path for path in _NESTED if rows.is_json and path.split(".")[0] in rows.types]
        left_out = {*rows.absent, *{path.split(".")[0] for path in nested}}
        names = [name for name in (*rows.types, *usual, *rows.derived) if name not in left_out and not is_private(name)]
        self._names = list(dict.fromkeys([*names, *nested]))
        can_be_read = [name for name in self._names if not rows.is_json or not re.search(r'["\\*]', name)]
        self._sample = look_at_columns(rows, can_be_read[:_MOST_COLUMNS] if len(self._names) > 1 else [])
        self._usual = [name for name in names if name not in given.values()]
        self._all = [name for name in self._sample.columns if name not in given.values()]
        self._mapping: dict[str, str] = {}
        self._evidence: dict[str, str] = {}

    def found(self) -> Roles:
        """The roles, and the columns that have none."""
        unfit = self._by_usual_names()
        self._titles_in_track()
        self._by_other_names()
        self._titles_in_track()
        self._by_values()
        for role, name in unfit.items():  # it is refused, or its rows are, with the reason
            if role not in self._mapping and name not in self._mapping.values():
                self._choose(role, name, "by its name")
        self._times_of_days()
        mapping = {**self._given, **self._mapping}
        used = {*mapping.values(), *mapping.get("timestamp", "").split(" + ")}
        columns = {name: self._sample.columns.get(name) for name in self._names if name not in used}
        alternatives = {name: could for name in columns if (could := self._alternative(name, mapping))}
        holds = {name: "" if column is None else column.holds for name, column in columns.items()}
        return Roles(mapping=mapping, evidence=self._evidence, holds=holds, alternatives=alternatives)

    def _choose(self, role: str, name: str, why: str) -> None:
        self._mapping[role] = name
        if (column := self._sample.columns.get(name)) is not None and len(column) and role in _KINDS:
            what, fits = _KINDS[role]
            num = column.time[1] if role == "timestamp" else len(column.numbers)
            num = len(column) if role == "skipped" or (fits(column) and not num) else num
            why += f": {column.evidence(what, num)}" if fits(column) else f", but few of its values are {what}"
        self._evidence[role] = why

    def _free(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self._mapping.values()]

    def _by_usual_names(self) -> dict[str, str]:
        """Choose by the usual names. Only a column that is filled may have the ids of tracks.

        Returns:
            The column of each role of which no column with a usual name has fitting values.
        """
        names, unfit = self._usual, dict[str, str]()
        if "title" in self._given:  # a column `track` beside it is seldom an id
            names = [name for name in names if plain(name) not in USUAL_NAMES["title"] or self._rows.has_numbers(name)]
        by_plain = {plain(name): name for name in reversed(names)}
        for role in self._roles:
            free = self._free([by_plain[name] for name in USUAL_NAMES[role] if name in by_plain])
            if role == "track" and len(free) > 1:
                free = [name for name in free if self._rows.is_filled(name)] or free
            columns = self._sample.columns
            fitting = [
                name for name in free if role not in _KINDS or name not in columns or _KINDS[role][1](columns[name])
            ]
            if fitting:
                self._choose(role, fitting[0], "by its name")
            elif free:
                unfit[role] = free[0]
        return unfit

    def _titles_in_track(self) -> None:
        """Read titles from a column `track` or `song` that has texts, if an artist and no other title is known."""
        mapping = self._mapping
        is_ambiguous = "title" in self._roles and plain(mapping.get("track", "")) in USUAL_NAMES["title"]
        if plain(mapping.get("title", "")) == "name" and is_ambiguous:
            del mapping["title"]  # beside a track, `name` is rather that of the listener
        has_artist = "artist" in mapping or "artist" in self._given
        if is_ambiguous and "title" not in mapping and has_artist and not self._rows.has_numbers(mapping["track"]):
            mapping["title"] = mapping.pop("track")
            self._evidence["title"] = self._evidence.pop("track")

    def _by_other_names(self) -> None:
        """Choose by names of other languages, by names with a unit and by those inside objects, if the values fit."""
        for role in self._roles:
            if role in self._mapping:
                continue
            known = [*USUAL_NAMES[role], *OTHER_NAMES[role]]
            named = [name for name in self._free(self._all) if spellings(name) & set(known)]
            if fitting := [name for name in named if self._is_fit(role, name)]:
                first = min(fitting, key=lambda name: min(map(known.index, spellings(name) & set(known))))
                self._choose(role, first, "by its name")

    def _is_fit(self, role: str, name: str) -> bool:
        """Whether a column that has an unusual name may have a role."""
        column = self._sample.columns[name]
        if not len(column):
            return False
        if role == "timestamp":
            return column.are_times
        if role == "skipped":
            return column.are_flags
        if column.are_times or column.are_flags:
            return False
        if role in _KINDS:
            return _KINDS[role][1](column)
        if role == "track" and "title" in (*self._mapping, *self._given):
            return column.are_uris and self._is_filled(column)
        return role != "track" or self._is_filled(column)

    def _is_filled(self, column: ColumnValues) -> bool:
        return len(column) >= 0.99 * len(self._sample.texts)

    def _times_of_days(self) -> None:
        """Read the days of a column with the times of day of another one."""
        columns, chosen = self._sample.columns, self._mapping.get("timestamp")
        free, own = self._free(self._all), [name for name in (chosen,) if name in columns]
        if "timestamp" not in self._roles or (chosen and not own):
            return
        days = [name for name in own or free if columns[name].are_days]
        hours = [name for name in free if columns[name].are_times_of_day]
        if own and columns[own[0]].are_times_of_day:
            days, hours = [name for name in free if columns[name].are_days], own
        days, hours = ([name for name in names if self._sample.source_of(name) is None] for names in (days, hours))
        if days and hours:
            self._mapping["timestamp"] = self._rows.found(f"{days[0]} + {hours[0]}", key="datamodule.columns.timestamp")
            self._evidence["timestamp"] = "by its values: a day and a time of day"

    def _by_values(self) -> None:
        """Choose by the values alone, where they leave no doubt."""
        columns = self._sample.columns
        if "timestamp" in self._roles and "timestamp" not in self._mapping:
            clocks = [name for name in self._free(self._all) if columns[name].run_like_a_clock]
            if clocks := [name for name in clocks if self._sample.source_of(name) is None]:
                best = max(clocks, key=lambda name: (not columns[name].are_numbers, columns[name].num_distinct))
                self._choose("timestamp", best, "by its values")
        if "track" in self._roles and not {"track", "title"} & {**self._given, **self._mapping}.keys():
            uris = [name for name in self._free(self._all) if columns[name].are_uris and self._is_filled(columns[name])]
            if uris:
                self._choose("track", uris[0], "by its values")
                self._evidence["track"] += f": {columns[uris[0]].holds}"
        self._amounts_by_values()

    def _amounts_by_values(self) -> None:
        """Choose the columns of durations or of shares where no name says how much was played."""
        mapping, sample = {**self._given, **self._mapping}, self._sample
        key = [mapping[role] for role in ("track", "title", "artist") if mapping.get(role) in sample.columns]
        key = key[:1] if "track" in mapping else key
        if not key or {"played_ratio", "skipped"} & mapping.keys() or not {"played", "duration"} & {*self._roles}:
            return
        amounts = [name for name in self._free(self._all) if sample.are_amounts(name)]
        known = {role: [name] for role, name in mapping.items() if name in sample.columns}
        durations, played = known.get("duration", []), known.get("played", [])
        if "duration" not in mapping and "duration" in self._roles:
            durations = [name for name in amounts if sample.are_lengths(name, key)]
        if "played" not in mapping and "played" in self._roles:
            played = [name for name in amounts if not sample.is_fixed_by(key, name)]
        pairs = [
            (sample.part_of(part, whole), {"played": part, "duration": whole})
            for whole in durations
            for part in played
            if part != whole
        ]
        share, best = max(pairs, key=lambda pair: pair[0], default=(0.0, dict[str, str]()))
        if share and not best.keys() <= mapping.keys():
            for role, name in best.items():
                if role not in mapping:
                    self._choose(role, name, "by its values")
        elif "played" not in mapping and "played_ratio" in self._roles:
            shares = [name for name in amounts if sample.are_shares(name, key)]
            if len(shares) == 1:
                self._choose("played_ratio", shares[0], "by its values")

    def _alternative(self, name: str, mapping: Mapping[str, str]) -> str | None:
        """The role that a column without one could have."""
        if (column := self._sample.columns.get(name)) is None:
            return None
        if column.look_like_times:
            return None if self._sample.source_of(name) else "timestamp"
        for role in self._roles:
            if spellings(name) & {*USUAL_NAMES[role], *OTHER_NAMES[role]} and self._is_fit(role, name):
                return role
        if column.are_flags and not {"played_ratio", "played", "skipped"} & mapping.keys():
            return None if self._sample.source_of(name) else "skipped"
        return "track" if column.are_uris else None
