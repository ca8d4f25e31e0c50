"""Which column has which role: what the settings say, or what the names of the columns usually mean."""

import re
from collections.abc import Callable, Mapping, Sequence

from src.datamodules.files import refuse_unknown
from src.datamodules.raw_rows import RawRows
from src.errors import InputError

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user": ("user", "userid", "uid", "username", "listener", "listenerid", "msno", "account"),
    "timestamp": (
        *("timestamp", "ts", "listenedat", "playedat", "uts", "unixtime", "datetime", "utctime", "createdat", "date"),
        *("starttime", "endtime", "time"),
    ),
    "track": (
        *("trackid", "itemid", "songid", "spotifytrackuri", "trackuri", "recordingmbid", "trackmbid", "track", "item"),
        "song",
    ),
    "title": (
        *("title", "trackname", "songname", "tracktitle", "songtitle", "mastermetadatatrackname", "recordingname"),
        *("trackmetadatatrackname", "song", "track", "name"),
    ),
    "artist": (
        *("artist", "artistname", "artists", "artistnames", "mastermetadataalbumartistname", "artistcreditname"),
        *("trackmetadataartistname", "performer", "artistid"),
    ),
    "played_ratio": (
        *("playedratio", "playratio", "playedratiopct", "listenratio", "percentplayed", "completion", "share"),
        "shareplayed",
    ),
    "played": (
        *("msplayed", "playedms", "secondsplayed", "playedseconds", "played", "playtime", "listentime"),
        *("secondslistened", "listened"),
    ),
    "duration": (
        *("durationms", "duration", "trackduration", "tracklengthseconds", "tracklength", "durationsec", "length", "dur"),
        *("trackmetadataadditionalinfodurationms", "songlength"),
    ),
    "skipped": ("skipped", "isskipped", "skip"),
    "session": ("session", "sessionid", "playlistid", "pid", "playlist"),
    "last": (),
    "recommendation": (),
}
"""Usual names of the columns of each role, in lower case without punctuation; earlier ones come first."""

ROLES = tuple(USUAL_NAMES)
"""What a column can be; the keys of `datamodule.columns`."""

_NEVER_READ = re.compile(r"(^|_)(ip|ip_?addr(ess)?\w*|user_?agent\w*)$", re.IGNORECASE)
"""Columns that say where a person was and with which device."""

_NESTED = ("track_metadata.track_name", "track_metadata.artist_name", "track_metadata.additional_info.duration_ms")
"""Usual paths inside a column."""


def map_columns(
    rows: RawRows,
    given: Mapping[str, str | None],
    derived: Sequence[str],
    has_numbers: Callable[[str], bool],
) -> dict[str, str]:
    """Find the column of each role.

    Args:
        rows: the rows.
        given: for each role the path of a column, None for none, or `auto` for one that has a usual name.
        derived: columns that `datamodule.sql` defines, in addition to those of the files.
        has_numbers: whether the first values of a column are numbers.

    Returns:
        The path of each role that has a column, in the order of `ROLES`.

    Raises:
        InputError: a role or a column does not exist, or may not be read.
    """
    refuse_unknown(given, ROLES, key="datamodule.columns")
    mapping: dict[str, str] = {}
    for role, path in given.items():
        if path is None or path == "auto":
            continue
        if _NEVER_READ.search(str(path)):
            raise InputError(
                f"datamodule.columns.{role}={path}: addresses and user agents are never read; name another column, "
                "or null if there is none"
            )
        found = str(path) if str(path) in derived else rows.find(str(path))
        if found is None:
            raise rows.missing(str(path), key=f"datamodule.columns.{role}")
        if found not in rows.absent:
            mapping[role] = found
    open_roles = [role for role, path in given.items() if path == "auto"]
    if "title" in mapping and "track" in open_roles and given.get("title") != "auto":
        open_roles.remove("track")  # title and artist make the track
    free = [name for name in (*rows.columns, *_nested_in(rows), *derived) if name not in mapping.values()]
    free = [name for name in free if name not in rows.absent]
    mapping |= guess_columns(free, open_roles, has_artist="artist" in mapping, has_numbers=has_numbers)
    if "track" not in mapping and "title" not in mapping:
        raise InputError(
            f"{rows.files.shown[0]} has the columns {', '.join(rows.columns[:30])}; give datamodule.columns.track= or "
            "datamodule.columns.title= the name of one of them"
        )
    return {role: mapping[role] for role in ROLES if role in mapping}


def guess_columns(
    names: Sequence[str], roles: Sequence[str], *, has_artist: bool, has_numbers: Callable[[str], bool]
) -> dict[str, str]:
    """Propose a column for each role from the names of the columns.

    A column named `track` or `song` has titles if it is text, an artist is known, and no other column has titles.

    Args:
        names: names of the columns.
        roles: the roles that need a column.
        has_artist: whether another column is known to be the artist.
        has_numbers: whether the first values of a column are numbers.

    Returns:
        The column of each role that has one.
    """
    by_plain = {_plain(name): name for name in reversed(names) if not _NEVER_READ.search(name)}
    found: dict[str, str] = {}
    for role in roles:
        free = [by_plain[name] for name in USUAL_NAMES[role] if name in by_plain]
        free = [name for name in free if name not in found.values()]
        if free:
            found[role] = free[0]
    is_ambiguous = "track" in found and "title" in roles and _plain(found["track"]) in USUAL_NAMES["title"]
    if is_ambiguous and "title" not in found and (has_artist or "artist" in found) and not has_numbers(found["track"]):
        found["title"] = found.pop("track")
    return found


def _nested_in(rows: RawRows) -> list[str]:
    return [path for path in _NESTED if rows.is_json and path.split(".")[0] in rows.columns]


def _plain(name: str) -> str:
    """A name in lower case without punctuation, and without the type of RecBole (`user_id:token`)."""
    return re.sub(r"[^a-z0-9]", "", name.lower().partition(":")[0])
