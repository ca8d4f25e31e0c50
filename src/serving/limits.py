"""Limits of requests per client."""

from collections import OrderedDict

_MOST_CLIENTS = 10_000


class RateLimit:
    """A token bucket for each client of one worker; clients that have been silent longest are forgotten first.

    Args:
        per_second: requests per second that are admitted on average.
        burst: requests that are admitted at once.
    """

    def __init__(self, *, per_second: int | float, burst: int) -> None:
        self.per_second, self._burst = per_second, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now_s: float) -> float:
        """Admit a request and return 0, or return how many seconds the client must wait."""
        tokens, filled_s = self._buckets.pop(client, (float(self._burst), now_s))
        tokens = min(self._burst, tokens + (now_s - filled_s) * self.per_second)
        is_admitted = tokens >= 1
        self._buckets[client] = (tokens - is_admitted, now_s)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if is_admitted else (1 - tokens) / self.per_second
