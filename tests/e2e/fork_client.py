"""Stands for a fork: `tests/e2e/forks.py` says how. Started by `python -I -S`, which takes no time."""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    asked = json.dumps({"argv": sys.argv[2:], "cwd": str(Path.cwd()), "env": dict(os.environ)}).encode()
    socket.send_fds(connection, [len(asked).to_bytes(4)], [0, 1, 2])
    connection.sendall(asked)
    answers = connection.makefile()
    fork = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(fork, number))
    code = int(answers.readline())
if code < 0:
    with contextlib.suppress(OSError):  # SIGKILL cannot be handled
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
