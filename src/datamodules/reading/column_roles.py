"""Which column has which role: what the settings say, or what the names of the columns usually mean."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields

from segue.datamodules.reading.raw_rows import RawRows
from segue.datamodules.reading.table_settings import Columns
from segue.errors import InputError

_USUAL_NAMES = {
    "user": "user userid uid username listener listenerid msno account",
    "timestamp": "timestamp ts listenedat playedat uts unixtime datetime utctime createdat date starttime endtime time",
    "track": "trackid itemid songid spotifytrackuri trackuri recordingmbid trackmbid track item song",
    "title": "title trackname songname tracktitle songtitle mastermetadatatrackname recordingname "
    "trackmetadatatrackname song track name",
    "artist": "artist artistname artists artistnames mastermetadataalbumartistname artistcreditname "
    "trackmetadataartistname performer artistid",
    "played_ratio": "playedratio playratio playedratiopct listenratio percentplayed completion share shareplayed",
    "played": "msplayed playedms secondsplayed playedseconds played playtime listentime secondslistened listened",
    "duration": "durationms duration trackduration tracklengthseconds tracklength durationsec length dur "
    "trackmetadataadditionalinfodurationms songlength",
    "skipped": "skipped isskipped skip",
    "session": "session sessionid playlistid pid playlist",
}
ROLES = tuple(field.name for field in fields(Columns))
"""What a column can be; the keys of `datamodule.columns`."""

USUAL_NAMES = {role: _USUAL_NAMES.get(role, "").split() for role in ROLES}
"""Usual names of the columns of each role, in lower case without punctuation; earlier ones come first."""

_NEVER_READ = re.compile(
    r"(^|_)(ip|ipv[46]|ip_?addr\w*|(remote|client)_?(addr\w*|host)|x_forwarded_for|user_?agent\w*|browser)(_|$)"
)
"""Columns that say where a person was and with which device, in lower case with underscores between words."""

_NESTED = ("track_metadata.track_name", "track_metadata.artist_name", "track_metadata.additional_info.duration_ms")
"""Usual paths inside a column."""


def map_columns(rows: RawRows, given: Mapping[str, str | None]) -> dict[str, str]:
    """Find the column of each role.

    Args:
        rows: the rows.
        given: for each role the path of a column, None for none, or `auto` for one that has a usual name.

    Returns:
        The path of each role that has a column, in the order of `ROLES`.

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
    nested = [path for path in _NESTED if rows.is_json and path.split(".")[0] in rows.types]
    free = [name for name in (*rows.types, *nested, *rows.derived) if name not in (*mapping.values(), *rows.absent)]
    if "title" in mapping:  # a column `track` beside it is seldom an id
        free = [name for name in free if _plain(name) not in USUAL_NAMES["title"] or rows.has_numbers(name)]
    roles = [role for role, path in given.items() if path == "auto"]
    mapping |= _guess(rows, free, roles, has_artist="artist" in mapping)
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
    return {role: mapping[role] for role in ROLES if role in mapping}


def is_private(name: str) -> bool:
    """Whether a column has addresses or user agents, by its name.

    Args:
        name: its name, or a path.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return bool(_NEVER_READ.search(re.sub(r"[^a-z0-9]+", "_", words)))


def refuse_private(columns: Sequence[str], texts: Sequence[str]) -> None:
    """Refuse SQL expressions that read addresses or user agents.

    Args:
        columns: names of the columns.
        texts: the expressions.

    Raises:
        InputError: an expression names such a column.
    """
    words = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    for name in columns:
        if is_private(name) and name.lower() in words:
            raise InputError(f"datamodule.sql names the column {name}: addresses and user agents are never read")


def _guess(rows: RawRows, names: Sequence[str], roles: Sequence[str], *, has_artist: bool) -> dict[str, str]:
    """Propose a column for each role from the names of the columns.

    A column named `track` or `song` has titles if it is text, an artist is known, and no other column has titles. Only
    a column that is filled may have the ids of tracks.
    """
    by_plain = {_plain(name): name for name in reversed(names) if not is_private(name)}
    found: dict[str, str] = {}
    for role in roles:
        free = [by_plain[name] for name in USUAL_NAMES[role] if name in by_plain]
        free = [name for name in free if name not in found.values()]
        if role == "track" and len(free) > 1:
            free = [name for name in free if rows.is_filled(name)] or free
        if free:
            found[role] = free[0]
    is_ambiguous = "track" in found and "title" in roles and _plain(found["track"]) in USUAL_NAMES["title"]
    if _plain(found.get("title", "")) == "name" and is_ambiguous:
        del found["title"]  # beside a track, `name` is rather that of the listener
    has_artist = has_artist or "artist" in found
    if is_ambiguous and "title" not in found and has_artist and not rows.has_numbers(found["track"]):
        found["title"] = found.pop("track")
    return found


def _plain(name: str) -> str:
    """A name in lower case without punctuation, and without the type of RecBole (`user_id:token`)."""
    return re.sub(r"[^a-z0-9]", "", name.lower().partition(":")[0])
