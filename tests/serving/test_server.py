"""The closing line, and the port that is reserved for the workers."""

import socket

import pytest

from segue.errors import InputError
from segue.serving.prometheus_metrics import Totals
from segue.serving.server import closing_line, hold_port


def test_the_closing_line_adds_up_by_endpoint_and_by_status_class() -> None:
    requests = {("next", "200"): 1200, ("next", "400"): 3, ("last", "200"): 7, ("page", "404"): 1, ("page", "503"): 2}
    totals = Totals(requests=requests, num_events=1207, num_fallbacks=4)
    assert closing_line(totals, num_restarts=2, uptime_s=3725.04) == (
        "after 3,725.0 s; requests answered: 1,213 (next 1,203, last 7, page 3; 2xx 1,207, 4xx 4, 5xx 2); "
        "events logged: 1,207; fallbacks: 4; worker restarts: 2"
    )


def test_the_closing_line_of_a_service_that_nobody_used() -> None:
    totals = Totals(requests={}, num_events=0, num_fallbacks=0)
    assert closing_line(totals, num_restarts=0, uptime_s=0.5) == (
        "after 0.5 s; requests answered: 0 (next 0, last 0, page 0; 2xx 0); "
        "events logged: 0; fallbacks: 0; worker restarts: 0"
    )


def listen(port: int, *, shares: bool) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        server.bind(("127.0.0.1", port))
        server.listen()
    except OSError:
        server.close()
        raise
    return server


@pytest.mark.timing
def test_a_port_that_is_held_is_free_for_workers_alone() -> None:
    with hold_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use"):
            listen(port, shares=False)
        with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use; choose anot"):
            hold_port("127.0.0.1", port)
        with listen(port, shares=True), listen(port, shares=True):
            pass
        with pytest.raises(OSError, match="Address already in use"):
            listen(port, shares=False)
