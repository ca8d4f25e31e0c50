"""Where the time of a run goes: seconds by phase, which add up to all of its time."""

import time

# About when the process started: before this module is imported, the process seldom waits.
_STARTED = time.perf_counter() - time.process_time()


class PhaseClock:
    """Counts time by phase: every moment belongs to one phase.

    Args:
        of_process: whether it counts since the process started, and not from now on.

    Attributes:
        seconds: wall-clock time of each phase by name, in the order in which they first ended.
    """

    def __init__(self, *, of_process: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._since = _STARTED if of_process else time.perf_counter()

    def end(self, phase: str) -> None:
        """Count the time since the end of the last phase."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now
