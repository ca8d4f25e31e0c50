"""Eight warnings: what would train a wrong model, how much of it there is, and what to type."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import chain

from segue.datamodules.describing.facts import PLAYS_OF_A_MACHINE, Facts
from segue.datamodules.pairs.pair_rules import Policies
from segue.datamodules.pairs.sessions import DAY_MS
from segue.datamodules.reading.table import Reading
from segue.reports.numbers import duration, percent

UNIT_OF_TIME = "datamodule.units.timestamp"
"""The setting for times that were read in a wrong unit."""
# From which share on there is a warning: of the rows that were rejected, and that one rule left out; of the users with
# one play alone; of the plays at the time of an earlier one of their user; of the shares played with one value.
_REJECTED, _LEFT_OUT, _SINGLE_PLAY, _TIES, _ONE_VALUE = 0.01, 0.2, 0.9, 0.05, 0.99
_MOST_OF_MACHINES = 0.5  # share of the plays above which the column is rather not that of the listener
_POSSIBLE_MEANS = (0.02, 0.995)  # of shares played that are computed from two times
_EARLIEST_YEAR = 1995  # a median time before it, or in the future, looks like another unit
_UNITS = {"s": ("seconds", 1000.0), "us": ("microseconds", 1e-3), "ns": ("nanoseconds", 1e-6)}
_POLICIES = {field.name for field in fields(Policies)}


@dataclass(frozen=True, kw_only=True)
class DataWarning:
    """One warning.

    Args:
        name: `rejected`, `left_out`, `future`, `unit`, `users`, `machines`, `ties` or `shares`; `splits` for data that
            cannot be trained on.
        says: what was found, in words and numbers.
        remedy: what to do about it, with options.
        unit: the unit that the times seem to have, if it is another one.
    """

    name: str
    says: str
    remedy: str
    unit: str | None = None


def find_warnings(
    reading: Reading, dropped: Mapping[str, int], day: str | None, facts: Facts | None
) -> list[DataWarning]:
    """Everything that a person should look at before training, the most fundamental first.

    Args:
        dropped: number of events that each rule left out.
        day: the last one whose plays are kept, if the clock of this machine says so.
        facts: of `measure_sessions`; None for the warnings of what was not read alone.
    """
    of_plays = [] if facts is None else [check(reading, facts) for check in (_of_times, _of_users, _of_shares)]
    return [*_of_rows(reading, dropped, day), *chain.from_iterable(of_plays)]


def _of_rows(reading: Reading, dropped: Mapping[str, int], day: str | None) -> Iterator[DataWarning]:
    num_rows, late = max(reading.num_rows, 1), dropped.get("until", 0) * (day is not None)
    if (share := reading.num_rejected / num_rows) >= _REJECTED:
        reasons = sorted(reading.rejected.items(), key=lambda item: -item[1])[:3]
        says = f"{percent(share)} of the rows were rejected: {'; '.join(f'{why} ({n:,})' for why, n in reasons)}"
        most = f"datamodule.max_rejected={min(1.0, float(f'{share * 1.05:.2g}'))}"
        remedy = f"correct them, they are listed in rejected.jsonl, or let train.py go on with {most}"
        yield DataWarning(name="rejected", says=says, remedy=remedy)
    for rule, num in dropped.items():
        if num / num_rows >= _LEFT_OUT and rule != "unremembered" and not (rule == "until" and late):
            key = f"policies.{rule}" if rule in _POLICIES else f"sql.drop.{rule} (null switches it off)"
            says = f"the rule {rule} left out {num:,} events, {percent(num / num_rows)} of the rows"
            yield DataWarning(name="left_out", says=says, remedy=f"change datamodule.{key} if that is not intended")
    if late:
        says = f"{late:,} plays ({percent(late / num_rows)}) are later than today, {day}, and were left out"
        remedy = f"check {UNIT_OF_TIME} and datamodule.zone; datamodule.policies.until={day} reads the same plays on "
        yield DataWarning(name="future", says=says, remedy=f"{remedy}another day, and until=null all")


def _of_times(reading: Reading, facts: Facts) -> Iterator[DataWarning]:
    if (clock := facts["clock"]) is None:
        return
    if reading.units.get("timestamp") == "ms" and (unit := _unit(clock["median_ms"])):
        says = f"the times look like {_UNITS[unit][0]} that were read as milliseconds: from {clock['first']} to "
        yield DataWarning(name="unit", says=says + clock["last"], remedy=f"{UNIT_OF_TIME}={unit}", unit=unit)
    if clock["ties"] >= _TIES:
        says = f"{percent(clock['ties'])} of the plays have the same time as an earlier play of their listener; "
        remedy = "make sure that the file is in the order of listening, or use a column with finer times"
        yield DataWarning(name="ties", says=f"{says}the order of the file decides which came first", remedy=remedy)


def _of_users(reading: Reading, facts: Facts) -> Iterator[DataWarning]:
    clock, num, name_it = facts["clock"], facts["num_users"], "name the column of the listener: datamodule.columns.user"
    if num > 1 and facts["single_play_users"] >= _SINGLE_PLAY:
        says = f"{percent(facts['single_play_users'])} of the {num:,} users have one play only: their ids look like "
        yield DataWarning(name="users", says=f"{says}numbers of rows", remedy=name_it)
    elif num > 1 and clock and facts["single_session_users"] == 1:
        says = (
            f"all {num:,} users have one session only, although the plays span {duration(clock['span_days'] * 86_400)}"
        )
        remedy = f"check the unit of the times ({UNIT_OF_TIME}) and datamodule.session_gap_minutes"
        yield DataWarning(name="users", says=says, remedy=remedy)
    elif reading.guessed and not {"user", "session"} & set(reading.columns):
        yield DataWarning(name="users", says="no column is the user: all plays are of one listener", remedy=name_it)
    if clock and (machines := clock["machines"]):
        share = clock["plays_of_machines"]
        says = f"{machines:,} listener{'s' * (machines > 1)} with {PLAYS_OF_A_MACHINE:,} plays or more on one day: "
        says += f"{percent(share)} of the plays, as by a program, a shared account or a station"
        remedy = f"if they are several people, {name_it}; " * (share >= _MOST_OF_MACHINES)
        remedy += f"datamodule.policies.plays_a_day={PLAYS_OF_A_MACHINE} leaves them out"
        yield DataWarning(name="machines", says=says, remedy=remedy)


def _of_shares(reading: Reading, facts: Facts) -> Iterator[DataWarning]:
    shares, says, remedy = facts["shares"], "", "datamodule.share=none recipe=playlists learns from the order of tracks"
    if reading.share == "none" or facts["num_events"] < 2:
        return
    if shares is None:
        says = "the share played is unknown for every play"
    elif shares["at_commonest"] >= _ONE_VALUE:
        says = f"{percent(shares['at_commonest'])} of the known shares played are {shares['commonest']:g}: there is "
        says += "nothing to predict"
    elif reading.share == "played" and not _POSSIBLE_MEANS[0] < shares["mean"] < _POSSIBLE_MEANS[1]:
        says = f"the share played is {shares['mean']:.3g} on average"
        remedy = "check datamodule.units.played and datamodule.units.duration"
    if says:
        yield DataWarning(name="shares", says=says, remedy=remedy)


def _unit(median_ms: int) -> str | None:
    """The unit that the times seem to have; None where they are plausible, or no unit makes them so."""
    earliest = datetime(_EARLIEST_YEAR, 1, 1, tzinfo=UTC).timestamp() * 1000
    latest = datetime.now(UTC).timestamp() * 1000 + DAY_MS
    if earliest <= median_ms <= latest:
        return None
    return next((unit for unit, (_, ms) in _UNITS.items() if earliest <= median_ms * ms <= latest), None)
