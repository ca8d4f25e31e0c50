"""Habits: what listeners do because of earlier days. Each is off unless it is set, and then nothing else changes.

A track that was heard often is worth less and recovers; listeners leave for good after bad sessions. S sessions.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float64, Int64

from segue.settings import Setting, settings
from segue.simulation.listener import WHOLE, Crowd
from segue.statistics.discovery import KNOWN

NUM_PLAYS = 200
"""Plays of a listener that fatigue looks at; older ones are forgotten."""
RECOVERY_DAYS = 7.0
"""Days after which an earlier play tires half as much."""


@settings("habits")
@dataclass(frozen=True, kw_only=True)
class Habits:
    """What listeners do because of earlier days; a day begins where a day of traffic does."""

    fatigue: Annotated[
        float, Setting("the share played of a track is multiplied by exp(−fatigue · earlier plays)", least=0, most=10)
    ] = 0.0
    leaving: Annotated[
        float, Setting("probability to leave for good after a session without a loved recommendation", least=0, most=1)
    ] = 0.0

    @property
    def num_past(self) -> int:
        """Number of earlier plays that are remembered of each listener."""
        return NUM_PLAYS if self.fatigue else 0

    def worth(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"] | None:
        """What is left of the share that is played of a track which was heard before; None without fatigue.

        exp(−fatigue · Σ share · ½^(age / RECOVERY_DAYS)), over the earlier plays of the track.
        """
        if not self.fatigue:
            return None
        plays, sessions = np.nonzero(crowd.past_tracks == tracks)
        ages = np.maximum(crowd.past_ages[plays, sessions], 0) / RECOVERY_DAYS
        tiring = crowd.past_shares[plays, sessions] / WHOLE * 0.5**ages
        return np.asarray(np.exp(-self.fatigue * np.bincount(sessions, tiring, minlength=len(crowd))))

    def leave(self, ended: Crowd, draws: Float64[np.ndarray, "S"]) -> Bool[np.ndarray, "S"]:
        """Which listeners leave for good.

        Args:
            draws: uniform in [0, 1).
        """
        is_bad = ~(ended.shares[1:] >= KNOWN * WHOLE).any(0)
        return np.asarray(is_bad & (draws < self.leaving))
