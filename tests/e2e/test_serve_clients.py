"""Clients of `serve.py` that send half of a request and then nothing more."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import PATIENCE_S, serving

pytestmark = pytest.mark.timing

HEAD = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n"
HALVES = [HEAD.format("/next/1") + "{", HEAD.format("/room/api/step") + "{", "POST /next/1 HTTP/1.1\r\nContent-Len"]


@contextlib.contextmanager
def sent(port: int, halves: list[str]) -> Iterator[list[socket.socket]]:
    """A connection for each half of a request, which stays open."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in halves]
        for connection, half in zip(connections, halves, strict=True):
            connection.sendall(half.encode())
        yield connections


def test_a_service_stops_by_itself_whatever_clients_have_not_finished(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "recommendations=random", "workers=2") as running,
        sent(running.port, HALVES * 8) as connections,
    ):
        for user in range(20):
            assert running.next(user).status == 200
        assert running.ask("GET", "/room/api/state").status == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == 0
        assert "is killed" not in running.said()
        assert len(running.lines()) == 20
        assert {connection.recv(100) for connection in connections} == {b""}
