"""What is odd in the plays of a source, in words, with the option that changes it; `describe.py` and `train.py` say it.

The numbers are those of `count_odd` and of what was read; each has a threshold in `warnings.…`.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from segue.datamodules.pairs.odd_plays import EARLIEST_YEAR, HOURS, LONGEST_HOURS, PLAYS_OF_A_MACHINE
from segue.datamodules.reading.table import Reading
from segue.reports.numbers import percent

_NIGHT = 6  # hours of the night, in which people play least
_MIDDLE_OF_NIGHT = 4  # hour of the day in the middle of it
_MOST_AT_NIGHT = 0.1  # share of the plays in the quietest six hours, above which they are no night
_FEWEST_PLAYS = 1000  # plays that it takes to see a night


class OddFinding(NamedTuple):
    """Something odd.

    Attributes:
        name: of its threshold, a setting `warnings.…`.
        value: what is compared with the threshold.
        says: what was found, in words and numbers.
        remedy: what to do about it, with options.
    """

    name: str
    value: float
    says: str
    remedy: str


LABELS = {
    "future_plays": "times",
    "early_plays": "times",
    "zone_hours": "times",
    "nameless_plays": "artists",
    "machines": "machines",
    "long_sessions": "sessions",
}
"""The word before the line of each finding, by its name."""


def odd_findings(reading: Reading, odd: Mapping[str, int]) -> Iterator[OddFinding]:
    """Everything odd that was found; `odd` is from `count_odd`."""
    num_plays = odd.get("plays", 0)
    if later := reading.later:
        yield OddFinding("future_plays", later.num, str(later), later.remedy)
    if num := odd.get("future", 0):
        says = f"{_plays(num, num_plays)} are later than the clock of this machine"
        zone = "the zone of the times, datamodule.zone=<such as Asia/Tokyo>, and " * reading.is_zoneless
        remedy = f"check {zone}datamodule.units.timestamp; datamodule.policies.until=now leaves out those after today"
        yield OddFinding("future_plays", num, says, remedy)
    if num := odd.get("early", 0):
        says = f"{_plays(num, num_plays)} are before {EARLIEST_YEAR}, as by a clock that was never set"
        remedy = f"datamodule.policies.since={EARLIEST_YEAR}-01-01 leaves them out"
        if num == num_plays:
            says = f"all plays are before {EARLIEST_YEAR}; are the times seconds, or do they not count from 1970?"
            remedy = "datamodule.units.timestamp=s; or datamodule.policies.since=1970-01-01, which keeps them"
        yield OddFinding("early_plays", num, says, remedy)
    if reading.num_nameless:
        num = reading.num_nameless
        says = f"{_plays(num, reading.num_events)} are of tracks without an artist, each an artist of its own"
        remedy = "datamodule.policies.nameless=drop leaves them out"
        yield OddFinding("nameless_plays", num, says, remedy)
    if num := odd.get("machines", 0):
        says = (
            f"{_num(num, 'listener')} with {PLAYS_OF_A_MACHINE:,} plays or more on one day, as by a program or a "
            f"shared account, {have(num)} {_plays(odd['plays_of_machines'], num_plays)}"
        )
        remedy = f"datamodule.policies.plays_a_day={PLAYS_OF_A_MACHINE} leaves them out"
        yield OddFinding("machines", num, says, remedy)
    if num := odd.get("long_sessions", 0):
        says = (
            f"{_num(num, 'session')} of more than {LONGEST_HOURS} hours without a pause {have(num)} "
            f"{_plays(odd['plays_of_long_sessions'], num_plays)}"
        )
        remedy = (
            f"datamodule.policies.longest_hours={LONGEST_HOURS} leaves them out, a smaller "
            "datamodule.session_gap_minutes cuts them"
        )
        yield OddFinding("long_sessions", num, says, remedy)
    yield from _zone(odd)


def _zone(odd: Mapping[str, int]) -> Iterator[OddFinding]:
    """A night that is at daytime: the clock is that of another zone than the listeners."""
    plays = np.array([odd.get(hour, 0) for hour in HOURS])
    around = {more: [np.roll(plays, more - hour)[: _NIGHT + 2 * more].sum() for hour in range(24)] for more in range(3)}
    first = int(np.sum([*around.values()], 0).argmin())  # the hours before and after decide which of several it is
    if plays.sum() < _FEWEST_PLAYS or around[0][first] > _MOST_AT_NIGHT * plays.sum():
        return
    before = (first + _NIGHT // 2 - _MIDDLE_OF_NIGHT + 12) % 24 - 12  # hours that the clock is before the listeners
    says = (
        f"people play least from {first:02}:00 to {(first + _NIGHT) % 24:02}:00, {abs(before)} hours from the night: "
        "the times have no zone, and seem to be of another one than the listeners"
    )
    remedy = (
        f"order and sessions are right; if the times are not UTC, name their zone: datamodule.zone=Etc/GMT{-before:+d}"
    )
    yield OddFinding("zone_hours", abs(before), says, remedy)


def have(num: int) -> str:
    """The verb for so many."""
    return "has" if num == 1 else "have"


def _num(num: int, what: str) -> str:
    return f"{num:,} {what}{'s' * (num != 1)}"


def _plays(num: int, num_plays: int) -> str:
    return f"{_num(num, 'play')} ({percent(num / max(num_plays, 1))})"
