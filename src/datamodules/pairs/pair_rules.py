"""The settings that decide which pairs a source has, and in which split: the same for arrays and for SQL."""

from dataclasses import dataclass

from segue.datamodules.pairs.left_out import Policies


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """From events to pairs; `PairDataModule` has checked the values and explains them.

    Args:
        policies: what is left out.
        pairing: which tracks of a session are paired.
        window: largest distance for `pairing=window`.
        split: `auto`, `time`, `session` or `pair`.
        split_seed: seed of the split.
        cold_share: share of the tracks played in training that are hidden from it.
        cold_seed: decides which.
        session_gap_minutes: a longer pause ends a session.
    """

    policies: Policies
    pairing: str
    window: int
    split: str
    split_seed: int
    cold_share: int | float
    cold_seed: int
    session_gap_minutes: int | float

    @property
    def session_gap_ms(self) -> int:
        """The gap in milliseconds."""
        return round(self.session_gap_minutes * 60_000)
