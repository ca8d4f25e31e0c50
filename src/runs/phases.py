"""Where the time of a run goes: seconds by phase, which add up to all of its time."""

import time

_STARTED = time.perf_counter() - time.process_time()
"""About when the process started: before this module is imported, the process seldom waits."""


class PhaseClock:
    """Counts time by phase, from now on: every moment belongs to one phase.

    Attributes:
        seconds: wall-clock time of each phase by name, in the order in which they first ended.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    @classmethod
    def of_process(cls) -> "PhaseClock":
        """A clock that counts since the process started."""
        clock = cls()
        clock._since = _STARTED
        return clock

    def end(self, phase: str) -> None:
        """Count the time since the end of the last phase."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now
