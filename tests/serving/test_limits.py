"""A token bucket never admits more than burst and rate allow; its memory is bounded."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import InputError
from segue.serving import limits
from segue.serving.limits import RateLimit
from segue.serving.settings import LimitSettings, LogSettings, SessionSettings, StoreSettings

RATE = st.floats(0.01, 1000)
WAITS = st.lists(st.floats(0, 20), min_size=1, max_size=60)


@given(per_second=RATE, burst=st.integers(1, 20), waits=WAITS)
def test_no_interval_admits_more_than_burst_and_rate_allow(per_second: float, burst: int, waits: list[float]) -> None:
    limit, now_s, admitted = RateLimit(per_second=per_second, burst=burst), 1e5, list[float]()
    for wait_s in waits:
        now_s += wait_s
        if limit.take("a", now_s) == 0:
            admitted.append(now_s)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            allowed = burst + per_second * (admitted[last] - admitted[first])
            assert last - first + 1 <= allowed * (1 + 1e-6) + 1e-6


@given(per_second=RATE, burst=st.integers(1, 20), waits=WAITS)
def test_a_client_that_waits_for_retry_after_is_admitted(per_second: float, burst: int, waits: list[float]) -> None:
    limit, now_s = RateLimit(per_second=per_second, burst=burst), 0.0
    for wait_s in waits:
        now_s += wait_s
        told_s = limit.take("a", now_s)
        assert 0 <= told_s <= 1 / per_second
        if told_s:
            now_s += told_s + 1e-6 / per_second
            assert limit.take("a", now_s) == 0


def test_clients_have_buckets_of_their_own() -> None:
    limit = RateLimit(per_second=1, burst=1)
    assert [limit.take(client, 0.0) for client in "abab"] == [0, 0, 1, 1]


def test_clients_that_were_silent_longest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_CLIENTS", 3)
    limit = RateLimit(per_second=0.001, burst=1)
    assert [limit.take(client, 0.0) for client in "abc"] == [0, 0, 0]
    assert limit.take("a", 1.0) > 0
    assert limit.take("d", 1.0) == 0, "the new client replaces b, which was silent longest"
    assert len(limit._buckets) == 3
    assert limit.take("c", 1.0) > 0
    assert limit.take("a", 1.0) > 0
    assert limit.take("b", 1.0) == 0


def test_any_number_of_clients_takes_bounded_memory() -> None:
    limit = RateLimit(per_second=1, burst=1)
    for number in range(12_000):
        limit.take(f"10.{number >> 8}.{number & 255}", float(number))
    assert len(limit._buckets) == 10_000


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (LogSettings, {"fsync": "sometimes"}, "log.fsync must be one of"),
        (LimitSettings, {"header_bytes": 1}, "limits.header_bytes must be"),
        (LimitSettings, {"requests_per_second": 0}, "limits.requests_per_second must be"),
        (SessionSettings, {"capacity": 0}, "sessions.capacity must be"),
        (StoreSettings, {"keep": 0}, "store.keep must be"),
    ],
)
def test_a_setting_of_the_service_out_of_range_is_refused(kind: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**change)
