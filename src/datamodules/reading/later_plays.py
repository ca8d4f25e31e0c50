"""Plays of the future: how many were left out, and what to do about it."""

from dataclasses import dataclass
from datetime import UTC, datetime

_MOST_ZONE_HOURS = 14  # the largest distance of a zone from UTC


@dataclass(frozen=True, kw_only=True)
class LaterPlays:
    """Plays that were left out because they are of the future.

    Args:
        num: number of them.
        last_ms: time of the last one, in milliseconds since 1970.
        day: the last day (UTC) whose plays were kept: that of the clock of the machine that read them.
        hours: hours from this clock to the last one, rounded up.
        has_zone: whether the times have a zone of their own, so that the setting of the zone does not matter.
    """

    num: int
    last_ms: int
    day: str
    hours: int
    has_zone: bool

    @property
    def remedy(self) -> str:
        """What to do about it, as options."""
        repeat = f"datamodule.policies.until={self.day} reads the same plays on another day, and until=null all"
        if self.hours > _MOST_ZONE_HOURS or self.has_zone:
            return f"check datamodule.units.timestamp; {repeat}"
        zone = f"datamodule.zone=Etc/GMT-{self.hours}"  # in these names the sign is the other one
        return f"if the times are those of a clock {self.hours} h before UTC, {zone}; {repeat}"

    def __str__(self) -> str:
        last = datetime.fromtimestamp(self.last_ms / 1000, UTC)
        return (
            f"{self.num:,} plays are of the future, later than {self.day}, and were left out; the last is of "
            f"{last:%Y-%m-%d %H:%M} UTC"
        )
