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
    words = sys.argv[2:]
    while words[0].startswith("-") and words[0] not in ("-m", "-c"):  # options of the interpreter
        del words[: 2 if words[0] in ("-W", "-X") else 1]
    opened = [int(file.name) for file in Path("/proc/self/fd").iterdir() if file.exists()]
    opened.remove(connection.fileno())
    asked = json.dumps({"argv": words, "cwd": str(Path.cwd()), "env": dict(os.environ), "descriptors": opened}).encode()
    socket.send_fds(connection, [len(asked).to_bytes(4)], opened)
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
