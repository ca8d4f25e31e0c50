"""What in a description should make a person look at the data again: each warning has a threshold and a remedy.

The thresholds are the settings `warnings.…`; null switches a warning off.
"""

import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Annotated, Any

from segue.datamodules.describing.clock import DAY_MS, Clock
from segue.datamodules.describing.measures import Facts, Material
from segue.datamodules.describing.odd_findings import LABELS, odd_findings
from segue.datamodules.pairs.pair_rules import Policies
from segue.datamodules.reading.column_roles import option
from segue.datamodules.reading.table import Reading
from segue.reports.numbers import duration, percent
from segue.runs.provenance import program
from segue.settings import Setting, settings

_OF_COUNT: dict[str, Any] = {"least": 1, "hint": "null switches the warning off"}
_OF_SHARE: dict[str, Any] = {"least": 0, "most": 1, "hint": "null switches the warning off"}
_Count = int | None
_Share = float | None


@settings("warnings")
@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """From which value on something is worth a warning; None for never.

    Raises:
        InputError: a threshold is out of range.
    """

    machines: Annotated[_Count, Setting("listeners with 1,000 plays on one day (UTC)", **_OF_COUNT)] = 1
    long_sessions: Annotated[_Count, Setting("sessions of more than 24 hours without a pause", **_OF_COUNT)] = 1
    track_share: Annotated[_Share, Setting("share of the plays that one track has", **_OF_SHARE)] = 0.3
    duplicate_share: Annotated[_Share, Setting("of plays with listener, time and track of another", **_OF_SHARE)] = 0.01
    single_play_users: Annotated[_Share, Setting("share of the users who have exactly one play", **_OF_SHARE)] = 0.9
    single_session_users: Annotated[_Share, Setting("of users with one session, with a clock", **_OF_SHARE)] = 1.0
    silence_share: Annotated[_Share, Setting("longest time without a play, of the whole time", **_OF_SHARE)] = 0.3
    tie_share: Annotated[_Share, Setting("of plays with the time of another of the listener", **_OF_SHARE)] = 0.05
    same_share: Annotated[_Share, Setting("share of the known shares played that have one value", **_OF_SHARE)] = 0.99
    earliest_year: Annotated[_Count, Setting("earlier or future times look like another unit", **_OF_COUNT)] = 1995
    future_plays: Annotated[_Count, Setting("plays of the future, left out or not", **_OF_COUNT)] = 1
    early_plays: Annotated[_Count, Setting("plays before 1990", **_OF_COUNT)] = 1
    zone_hours: Annotated[_Count, Setting("hours from the quietest time of the day to the night", **_OF_COUNT)] = 6
    rejected_share: Annotated[_Share, Setting("share of the rows that were rejected", **_OF_SHARE)] = 0.01
    swallowed_lines: Annotated[_Count, Setting("ends of lines in cells that look like rows", **_OF_COUNT)] = 1
    dropped_share: Annotated[
        _Share, Setting("of rows that a rule but duplicates and unremembered left out", **_OF_SHARE)
    ] = 0.2
    cold_share: Annotated[_Share, Setting("of test pairs with a track that training does not have", **_OF_SHARE)] = 0.5
    nameless_plays: Annotated[_Count, Setting("plays of tracks without an artist, if some have one", **_OF_COUNT)] = 1
    nameless_share: Annotated[_Share, Setting("share of the tracks that have no artist", **_OF_SHARE)] = 0.9
    unused_times: Annotated[_Count, Setting("columns that look like times and are not used", **_OF_COUNT)] = 1
    alike_ids: Annotated[_Count, Setting("ids that differ by case or normalisation alone", **_OF_COUNT)] = 1


@dataclass(frozen=True, kw_only=True)
class DataWarning:
    """One warning.

    Args:
        name: of its threshold, a setting `warnings.…`; `splits` for data that cannot be split.
        says: what was found, in words and numbers.
        threshold: the value from which on it is given.
        unit: the unit that the times seem to have, if it is another one.
    """

    name: str
    says: str
    remedy: str
    threshold: int | float | None
    unit: str | None = None


def odd_lines(reading: Reading, odd: Mapping[str, int]) -> list[str]:
    """What is odd and reaches its usual threshold, in lines for a run; `odd` is from `count_odd`."""
    return [
        f"{LABELS[name]:<12} {says}; {remedy}"
        for name, value, says, remedy in odd_findings(reading, odd)
        if value >= getattr(Thresholds(), name)
    ]


UNIT_OF_TIME = "datamodule.units.timestamp"
"""The setting for times that were read in a wrong unit."""
_POLICIES = {field.name for field in fields(Policies)}
# Name of a threshold, the value that may reach it, what was found, and the remedy.
_Candidate = tuple[str, float, str, str]


def find_warnings(facts: Facts, material: Material, thresholds: Thresholds) -> list[DataWarning]:
    """Everything that a person should look at before training, the most fundamental first.

    Args:
        thresholds: from which value on there is a warning.
    """
    found: list[DataWarning] = []
    of_times, of_users = _of_times(facts, material, thresholds), _of_users(facts, thresholds)
    of_ids, odd = _of_ids(material), odd_findings(material.reading, material.sessions.odd)
    for name, value, says, remedy in (
        *_of_rows(facts, material), *of_times, *odd, *of_users, *of_ids, *_of_tracks(facts),
    ):  # fmt: skip
        if name == "early_plays" and any(warning.unit for warning in found):
            continue  # they are early because of their unit
        threshold = getattr(thresholds, name)
        if threshold is not None and value >= threshold:
            unit = remedy.partition(f"{UNIT_OF_TIME}=")[2] or None
            found.append(DataWarning(name=name, says=says, remedy=remedy, threshold=threshold, unit=unit))
    if material.refusal is not None:
        remedy = "correct what is listed below, or add data" if found else "add data"
        found.insert(0, DataWarning(name="splits", says=material.refusal, remedy=remedy, threshold=None))
    return found


def _of_rows(facts: Facts, material: Material) -> Iterator[_Candidate]:
    num_rows = max(facts.num_rows, 1)
    if facts.num_rejected:
        share = facts.num_rejected / num_rows
        most = min(1.0, float(f"{share * 1.05:.2g}"))  # of two digits, and at least the share
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in most_common(material.reading.rejected)[:3])
        yield (
            "rejected_share",
            share,
            f"{percent(share)} of the rows were rejected: {reasons}",
            f"correct them, they are listed in rejected.jsonl, or let {program('train')} go on with "
            f"datamodule.max_rejected={most}",
        )
    if swallowed := material.reading.swallowed:
        yield "swallowed_lines", swallowed.num_lines, str(swallowed), swallowed.REMEDY
    if times := material.reading.unused_times:
        chosen = material.reading.columns.get("timestamp")
        yield (
            "unused_times",
            len(times),
            f"{'; '.join(f'the column {name} ({material.reading.holds[name]})' for name in times)}: not used, "
            + (f"the time of a play is in {chosen}" if chosen else "and no column is the time of a play"),
            f"{' or '.join(option('timestamp', name) for name in times)}",
        )
    for rule, count in material.dropped.items():
        if count and rule not in ("duplicates", "unremembered") and not (rule == "until" and material.reading.later):
            setting = f"policies.{rule}" if rule in _POLICIES else f"sql.drop.{rule} (null switches it off)"
            yield (
                "dropped_share",
                count / num_rows,
                f"the rule {rule} left out {count:,} events, {percent(count / num_rows)} of the rows",
                f"change datamodule.{setting} if that is not intended",
            )


def _of_times(facts: Facts, material: Material, thresholds: Thresholds) -> Iterator[_Candidate]:
    clock, year = facts.clock, thresholds.earliest_year
    if clock is None:
        return
    if year is not None and (unit := _unit(clock, year)):
        yield (
            "earliest_year",
            math.inf,
            f"the times look like {unit[0]} that were read as milliseconds: from {clock.first} to {clock.last}",
            f"{UNIT_OF_TIME}={unit[1]}",
        )
    if clock.silence_days >= 1:
        before, share = clock.plays_before_silence, clock.silence_days / clock.span_days
        yield (
            "silence_share",
            share,
            f"the clock jumps, or plays are missing: there is none for {clock.silence_days:,.0f} days, from "
            f"{clock.silence_from} to {clock.silence_to}, which is {percent(share)} of the whole time; {before:,} "
            f"plays are before and {facts.num_events - before:,} after",
            "check the times of the smaller part, they may come from a device with a wrong clock; leave these rows "
            "out, or use datamodule.split=session",
        )
    yield (
        "tie_share",
        clock.ties,
        f"{percent(clock.ties)} of the plays have the same time as an earlier play of their listener; the order of "
        "the file decides which of them came first",
        "make sure that the file is in the order of listening, or use a column with finer times",
    )
    yield (
        "duplicate_share",
        clock.duplicates,
        f"{percent(clock.duplicates)} of the plays have listener, time and track of another play",
        "if the rows were exported twice, datamodule.policies.duplicates=drop",
    )
    if dropped := material.dropped.get("duplicates", 0) / max(facts.num_rows, 1):
        yield (
            "duplicate_share",
            dropped,
            f"{percent(dropped)} of the rows are duplicates of another row, and were left out",
            "check whether a file is there twice, or whether the source writes a play in several rows; "
            "datamodule.policies.duplicates=keep keeps them",
        )


def _of_users(facts: Facts, thresholds: Thresholds) -> Iterator[_Candidate]:
    clock, limit = facts.clock, thresholds.single_play_users
    if facts.num_users > 1:
        yield (
            "single_play_users",
            facts.single_play_users,
            f"{percent(facts.single_play_users)} of the {facts.num_users:,} users have one play only: their ids look "
            "like numbers of rows",
            "name the column of the listener with datamodule.columns.user",
        )
    if clock and facts.num_users > 1 and (limit is None or facts.single_play_users < limit):
        yield (
            "single_session_users",
            facts.single_session_users,
            f"{percent(facts.single_session_users)} of the {facts.num_users:,} users have one session only, although "
            f"the plays span {duration(clock.span_days * 86_400)}",
            "check the unit of the timestamp (datamodule.units.timestamp) and datamodule.session_gap_minutes",
        )


def _of_ids(material: Material) -> Iterator[_Candidate]:
    """Texts that a person takes for the same id. Ids of users are not shown."""
    for what, ids in (("tracks", material.catalog.track_ids), ("users", material.sessions.user)):
        if ids.dtype != object:
            continue
        first: dict[str, str] = {}
        alike = [
            (first[same], id) for id in dict.fromkeys(ids.tolist()) if first.setdefault(same := _folded(id), id) != id
        ]
        example = "" if what == "users" or not alike else ", such as {!r} and {!r}".format(*alike[0])
        yield (
            "alike_ids",
            len(alike),
            f"{len(alike):,} ids of {what} differ from another one by case or by the Unicode normalisation "
            f"alone{example}: they count as different {what}",
            f"if they are the same {what}, write their ids in one way"
            + ", or map them by datamodule.aliases=<file of lines old,new>" * (what == "tracks"),
        )


def _folded(id: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", id).casefold())


def _of_tracks(facts: Facts) -> Iterator[_Candidate]:
    popularity, shares = facts.popularity, facts.shares
    if facts.num_played_tracks > 1:
        yield (
            "track_share",
            popularity.top_share,
            f"{percent(popularity.top_share)} of the plays are of one track, {popularity.top_track}",
            "check whether it is a placeholder for unknown tracks or for advertisements; leave these rows out if so",
        )
    if shares is not None and facts.num_events > 1:
        yield (
            "same_share",
            shares.at_commonest,
            f"{percent(shares.at_commonest)} of the known shares played are {shares.commonest:g}: they say nothing "
            "about what listeners like",
            "datamodule.share=none recipe=playlists learns from the order of the tracks instead",
        )
    yield (
        "nameless_share",
        facts.nameless_share,
        f"{percent(facts.nameless_share)} of the tracks have no artist: each of them counts as an artist of its "
        "own, and the artist part of a model learns nothing from them",
        "name the column with datamodule.columns.artist, or use model=track",
    )
    if facts.test is not None:
        yield (
            "cold_share",
            facts.test["cold_pairs"],
            f"{percent(facts.test['cold_pairs'])} of the test pairs have a track that no training session plays",
            "add data, or use datamodule.policies.min_count=5, which leaves rare tracks out",
        )


def _unit(clock: Clock, year: int) -> tuple[str, str] | None:
    """The unit that the times seem to have, and its option; None where they are plausible, or no unit makes them so."""
    earliest = datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000
    latest = datetime.now(UTC).timestamp() * 1000 + DAY_MS
    if earliest <= clock.median_ms <= latest:
        return None
    units = (("seconds", "s", 1000.0), ("microseconds", "us", 1e-3), ("nanoseconds", "ns", 1e-6))
    return next(((name, unit) for name, unit, ms in units if earliest <= clock.median_ms * ms <= latest), None)


def most_common(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names and counts, the largest first."""
    return sorted(counts.items(), key=lambda item: -item[1])
