"""A token bucket never admits more than burst and rate allow; its memory is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.serving import limits
from segue.serving.limits import RateLimit

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
