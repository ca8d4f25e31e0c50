"""The closing line, and the port that is reserved for the workers."""

import socket

import pytest

from segue.errors import InputError
from segue.serving.server import hold_port


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
