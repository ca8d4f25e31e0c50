"""The targets: what the published ladder and the real logs say, and how far a world is from it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """A number of an arm, and where it should be.

    Args:
        arm: the arm.
        measure: a key of `measures.measure`.
        low: lower end of the published range; a single number is both ends.
        high: upper end.
        tolerance: how far outside of the range a world may be.
    """

    arm: str
    measure: str
    low: float
    high: float
    tolerance: float

    def off(self, value: float) -> float:
        """Distance of a value from the range, in tolerances; a world is good enough up to 1."""
        return max(self.low - value, value - self.high, 0.0) / self.tolerance


def _number(arm: str, measure: str, value: float) -> Target:
    """A time or a number of tracks: within a tenth."""
    return Target(arm=arm, measure=measure, low=value, high=value, tolerance=0.1 * value)


def _share(arm: str, measure: str, low: float, high: float | None = None) -> Target:
    """A share: within .04."""
    return Target(arm=arm, measure=measure, low=low, high=low if high is None else high, tolerance=0.04)


def _quartile(arm: str, measure: str, value: float) -> Target:
    """A quartile of the session length, a whole number: within one track."""
    return Target(arm=arm, measure=measure, low=value, high=value, tolerance=1.0)


CHOSEN_BY = (
    # the ladder of spring 2023
    _number("random", "time", 2.24),
    _number("random", "tracks", 7.37),
    _number("sticky", "time", 3.07),
    _number("sticky", "tracks", 7.92),
    _number("popular", "time", 3.65),
    _number("popular", "tracks", 8.54),
    # contextual: the ladder has 5.35 (interval 4.5 to 6.2) and 10.40 tracks, the contextual arms of two real logs 4.77
    # and 4.30 per listener and session
    Target(arm="contextual", measure="time", low=4.5, high=5.0, tolerance=0.475),
    Target(arm="contextual", measure="tracks", low=9.7, high=10.4, tolerance=1.0),
    # arm C of the real log, which is contextual
    _share("contextual", "other p", 0.436),
    _share("contextual", "other p<.05", 0.376),
    _share("contextual", "other p>.95", 0.289),
    _quartile("contextual", "length 25", 6),
    _quartile("contextual", "length 50", 8),
    _quartile("contextual", "length 75", 11),
    _share("contextual", "repeats", 0.02),
    # the same-artist lists of another real log of the service
    _share("sticky", "same p", 0.946),
    _share("sticky", "same p<.05", 0.03),
    _share("sticky", "same p>.95", 0.91),
    # all four arms of the two real logs
    _share("random", "first by artist", 0.56, 0.60),
    _share("random", "first is interest", 0.08, 0.10),
)
"""The targets by which the parameters are chosen."""

HELD_OUT = (
    _number("lists per user", "time", 3.79),
    _number("lists per user", "tracks", 8.78),
    _number("diverse", "time", 4.62),
    _number("diverse", "tracks", 9.59),
)
"""Arms of the ladder that no choice has used."""
