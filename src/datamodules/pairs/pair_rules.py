"""The settings that decide which pairs the events of a source make, and in which split each of them is.

Events are left out in this order: `min_seconds`, `until`, `since`, `without`, `duplicates`, `plays_a_day`,
`interleaved`, `repeats`, then the split, then `min_count`. Each rule counts what it leaves out.
"""

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated

import numpy as np
from jaxtyping import Int64

from segue.datamodules.pairs.interleaved import POLICIES
from segue.errors import InputError
from segue.settings import Setting, settings

PAIRINGS = ("consecutive", "first", "window")
"""The ways to pair the tracks of a session; see `PairRules`."""

_DROP_OR_KEEP = ("drop", "keep")
_NOW = "now"
GapMinutes = Annotated[
    float, Setting("a longer pause ends a session, in minutes", above=0, most=1e9, hint="30 is usual")
]
"""The setting of everything that cuts sessions; see `sessions.py`."""


@settings("datamodule.policies")
@dataclass(frozen=True, kw_only=True)
class Policies:
    """The keys of `datamodule.policies`: which valid events and pairs are left out.

    Raises:
        InputError: a value is out of range, or no day.
    """

    until: Annotated[
        str | None, Setting("plays after this day (UTC) are left out; now: the day of reading; null: none")
    ] = "now"
    since: Annotated[str | None, Setting("plays before this day (UTC) are left out, such as 1990-01-01")] = None
    without: Annotated[
        str | None, Setting("file with ids of listeners, one a line, whose plays are left out; null: none")
    ] = None
    plays_a_day: Annotated[
        int | None,
        Setting("listeners with as many plays on a day (UTC) are left out", least=1, hint="null for no limit"),
    ] = None
    duplicates: Annotated[
        str, Setting("events of the same user, timestamp, track and share", choices=_DROP_OR_KEEP)
    ] = "keep"
    min_seconds: Annotated[float, Setting("plays that are shorter are left out, in seconds; 0 for none", least=0)] = 0
    repeats: Annotated[str, Setting("later plays of a track in a session", choices=_DROP_OR_KEEP)] = "keep"
    min_count: Annotated[int, Setting("events of tracks with fewer plays in training are left out", least=1)] = 1
    interleaved: Annotated[str, Setting("sessions of a user at the same time; see `separate`", choices=POLICIES)] = (
        "separate"
    )

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            if (day := getattr(self, name)) not in (None, *[_NOW] * (name == "until")):
                _date(day, key=f"datamodule.policies.{name}")

    @property
    def ends_now(self) -> bool:
        """Whether the clock of this machine says which plays are of the future."""
        return self.until == _NOW

    @property
    def last_day(self) -> date | None:
        """The last day (UTC) whose plays are kept; None for no limit. It may be the day of today."""
        return datetime.fromtimestamp(time.time(), UTC).date() if self.ends_now else _day(self.until)

    @property
    def first_day(self) -> date | None:
        """The first day (UTC) whose plays are kept; None for no limit."""
        return _day(self.since)


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


def _date(text: str, *, key: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        now = ", now" * key.endswith("until")
        raise InputError(f"{key} must be a day such as 2026-01-31{now} or null, got {text}") from None


@settings("datamodule", Policies)
@dataclass(frozen=True, kw_only=True)
class PairRules:
    """From events to pairs.

    `pairing` is `consecutive` (each track with the track before it), `first` (the first track of a session with every
    later track), or `window` (each track with every track at most `window` places before it). `split` is `time` (the
    earliest sessions train, the latest test), `session` (sessions at random), `pair` (pairs at random), or `auto`:
    `time` for a source with a clock, otherwise `session`.

    Args:
        policies: what is left out.

    Raises:
        InputError: a setting is out of range, or sessions are torn apart by `split=pair` although tracks are hidden.
    """

    policies: Policies
    pairing: Annotated[str, Setting("which tracks of a session are paired", choices=PAIRINGS)]
    window: Annotated[
        int, Setting("largest distance for pairing=window", least=1, hint="pairing=consecutive is a window of 1")
    ] = 3
    split: Annotated[str, Setting("what trains and what tests", choices=("auto", "time", "order", "session", "pair"))]
    cold_share: Annotated[
        float, Setting("share of tracks hidden from training", least=0, most=0.9, hint="0 hides no track, 0.1 is usual")
    ] = 0.0
    cold_seed: Annotated[int, Setting("decides which", least=0, most=2**32 - 1)] = 0
    session_gap_minutes: GapMinutes = 30.0

    def __post_init__(self) -> None:
        if self.cold_share and self.split == "pair":
            raise InputError(
                f"datamodule.cold_share={self.cold_share} leaves tracks out of training sessions, but split=pair puts "
                "pairs of one session into every split; use datamodule.split=session, or split=time"
            )

    @property
    def session_gap_ms(self) -> int:
        """The gap in milliseconds."""
        return round(self.session_gap_minutes * 60_000)

    def num_pairs(self, place: Int64[np.ndarray, "E"]) -> Int64[np.ndarray, "E"]:
        """How many pairs each event makes with events before it.

        Args:
            place: place 0, 1, … of each event in its session.
        """
        return np.asarray(np.minimum(place, self.window if self.pairing == "window" else 1))

    def split_of(self, *, has_clock: bool) -> str:
        """`time`, `order`, `session` or `pair`.

        Args:
            has_clock: whether the source has timestamps.

        Raises:
            InputError: `split=time` for a source without a clock, or `split=order` for one that has a clock.
        """
        if self.split == "time" and not has_clock:
            raise InputError(
                "split=time needs timestamps, and this source has none; use datamodule.split=session, or, where the "
                "rows are in the order of time, datamodule.split=order"
            )
        if self.split == "order" and has_clock:
            raise InputError("split=order is for sources without timestamps; use datamodule.split=time")
        return self.split if self.split != "auto" else "time" if has_clock else "session"
