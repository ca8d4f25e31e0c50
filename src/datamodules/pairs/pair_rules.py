"""The settings that decide which pairs the events of a source make, and in which split each of them is."""

from dataclasses import dataclass

from segue.datamodules.pairs.left_out import Policies
from segue.datamodules.reading.table_settings import check_choice
from segue.errors import InputError, check_number

PAIRINGS = ("consecutive", "first", "window")
"""The ways to pair the tracks of a session; see `PairRules`."""


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """From events to pairs.

    Args:
        policies: what is left out.
        pairing: `consecutive` (each track with the track before it), `first` (the first track of a session with every
            later track), or `window` (each track with every track at most `window` places before it).
        window: largest distance for `pairing=window`, at least 1.
        split: `time` (the earliest sessions train, the latest test), `session` (sessions at random), `pair` (pairs at
            random), or `auto`: `time` for a source with a clock, otherwise `session`.
        split_seed: seed of `split=session|pair`, in [0, 2³²).
        cold_share: share of the tracks played in training that are hidden from it, in [0, 0.9].
        cold_seed: decides which, in [0, 2³²).
        session_gap_minutes: a longer pause ends a session, in minutes, above 0.

    Raises:
        InputError: a setting is out of range, or sessions are torn apart by `split=pair` although tracks are hidden.
    """

    policies: Policies
    pairing: str
    window: int
    split: str
    split_seed: int
    cold_share: int | float
    cold_seed: int
    session_gap_minutes: int | float

    def __post_init__(self) -> None:
        check_choice("datamodule.split", self.split, ("auto", "time", "session", "pair"))
        check_number("split_seed", self.split_seed, whole=True, least=0, most=2**32 - 1)
        hint = "0 hides no track, 0.1 is usual"
        check_number("datamodule.cold_share", self.cold_share, least=0, most=0.9, hint=hint)
        check_number("datamodule.cold_seed", self.cold_seed, whole=True, least=0, most=2**32 - 1)
        if self.cold_share and self.split == "pair":
            raise InputError(
                f"datamodule.cold_share={self.cold_share} leaves tracks out of training sessions, but split=pair puts "
                "pairs of one session into every split; use datamodule.split=session, or split=time"
            )
        check_number("session_gap_minutes", self.session_gap_minutes, above=0, most=1e9, hint="30 is usual")
        check_choice("pairing", self.pairing, PAIRINGS)
        check_number("window", self.window, whole=True, least=1, hint="pairing=consecutive is a window of 1")

    @property
    def session_gap_ms(self) -> int:
        """The gap in milliseconds."""
        return round(self.session_gap_minutes * 60_000)

    @property
    def reach(self) -> int:
        """With how many of the events before it an event makes a pair, at most."""
        return self.window if self.pairing == "window" else 1

    def split_of(self, *, has_clock: bool) -> str:
        """`time`, `session` or `pair`.

        Args:
            has_clock: whether the source has timestamps.

        Raises:
            InputError: `split=time` for a source without a clock.
        """
        if self.split == "time" and not has_clock:
            raise InputError("split=time needs timestamps, and this source has none; use datamodule.split=session")
        return self.split if self.split != "auto" else "time" if has_clock else "session"
