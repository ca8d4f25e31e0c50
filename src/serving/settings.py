"""The settings of conf/serve.yaml, checked before anything is started."""

import contextlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segue.errors import InputError, check_flag, check_number
from segue.runs.atomic import write_record
from segue.serving.limits import RateLimit
from segue.serving.log_writer import check_log
from segue.serving.release_store import is_version
from segue.serving.session_memory import check_limits

SETTINGS = "serve.json"
TOKEN = "SEGUE_TOKEN"
REDIS = "SEGUE_REDIS_URL"
_HOST = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
KEYS = ("with_fallback", "with_propensity")
"""Settings of `log` that decide which keys a line of the event log has."""


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How to serve; see conf/serve.yaml. Secrets are read from the environment instead.

    Raises:
        InputError: a setting is out of range.
    """

    run_dir: str
    host: str
    port: int
    workers: int
    seed: int | None
    poll_s: float
    store: dict[str, Any]
    sessions: dict[str, Any]
    log: dict[str, Any]
    limits: dict[str, Any]
    restart: dict[str, Any]
    room: dict[str, Any]

    def __post_init__(self) -> None:
        check_number("workers", self.workers, whole=True, least=1, most=256)
        check_number("store.poll_s", self.poll_s, above=0)
        if self.seed is not None:
            check_number("seed", self.seed, whole=True, least=0)
        limits = self.limits
        check_number("limits.max_body_bytes", limits["max_body_bytes"], whole=True, least=64)
        check_number("limits.body_timeout_s", limits["body_timeout_s"], above=0)
        check_number("limits.header_timeout_s", limits["header_timeout_s"], above=0, most=60)
        check_number("limits.header_bytes", limits["header_bytes"], whole=True, least=8192)
        check_number("limits.connections", limits["connections"], whole=True, least=1)
        check_number("restart.max_pause_s", self.restart["max_pause_s"], least=0.1, most=5)
        check_number("restart.reset_after_s", self.restart["reset_after_s"], above=0)
        self.rate_limit()
        check_flag("room.enabled", self.room["enabled"])
        check_recommenders(self.room["recommenders"])
        check_link(self.room["mlflow"])
        check_world(self.room["world"])
        check_audio(self.room["audio"], self.room["audio_from"])
        for name in KEYS:
            check_flag(f"log.{name}", self.log[name])
        check_log(**self.log_settings())
        check_limits(**self.sessions)
        failures, given = ("error", "embedded"), self.store.get("on_failure", "error")
        if given not in failures:
            raise InputError(f"store.on_failure must be one of {', '.join(failures)}, got {given!r}")

    @classmethod
    def of(cls, given: Mapping[str, Any], *, port: int) -> "ServiceSettings":
        """Read them from the composed config.

        The address of Redis may contain a password and is therefore not written to a file: it is put into the
        environment, where `make_stores` and the workers read it.

        Raises:
            InputError: a setting is out of range.
        """
        store = {key: value for key, value in given["store"].items() if key != "url"}
        store["folder"] = str(Path(store["folder"]).absolute())
        os.environ.pop(REDIS, None)
        if store["kind"] == "redis":
            check_name(store["name"])
            os.environ[REDIS] = str(given["store"]["url"])
        return cls(
            run_dir=str(Path(given["run_dir"]).absolute()),
            host=given["host"],
            port=port,
            workers=given["workers"],
            seed=given["seed"],
            poll_s=store.pop("poll_s"),
            store=store,
            sessions=given["sessions"],
            log=given["log"],
            limits=given["limits"],
            restart=given["restart"],
            room=given["room"],
        )

    def log_settings(self) -> dict[str, Any]:
        """The settings of `EventLogWriter`."""
        return {name: value for name, value in self.log.items() if name not in KEYS}

    def rate_limit(self) -> RateLimit | None:
        """The rate limit of a client, if any."""
        rate = self.limits["requests_per_second"]
        check_number("limits.burst", self.limits["burst"], whole=True, least=1)
        return None if rate is None else RateLimit(per_second=rate, burst=self.limits["burst"])

    def write(self) -> None:
        """Write them to `serve.json` in the run folder."""
        write_record(asdict(self), Path(self.run_dir, SETTINGS))


def check_name(name: object) -> None:
    """Refuse a name that cannot be the prefix of a key of Redis.

    Raises:
        InputError: it has other characters than letters and digits.
    """
    if not is_version(name):
        raise InputError(f"store.name must be a word of letters and digits, got {name!r}")


def check_recommenders(given: object) -> None:
    """Refuse what is no list of recommenders for the room.

    Raises:
        InputError: it is none.
    """
    if not isinstance(given, list) or not all(isinstance(name, str) and name for name in given) or len(given) > 20:
        raise InputError(f"room.recommenders must be a list of at most 20 names, such as [run:<id>], got {given!r}")


def check_link(given: object) -> None:
    """Refuse an address of MLflow that a page cannot link to.

    Raises:
        InputError: it does not begin with http:// or https://.
    """
    if given is not None and not (isinstance(given, str) and given.startswith(("http://", "https://"))):
        raise InputError(
            f"room.mlflow must be the address of an MLflow UI, such as http://127.0.0.1:5000, got {given!r}"
        )


def check_world(given: object) -> None:
    """Refuse what is no folder of a world for the room.

    Raises:
        InputError: it has no `users.json` and `tracks.npy`.
    """
    if given is not None and not all(Path(str(given), name).is_file() for name in ("users.json", "tracks.npy")):
        raise InputError(
            f"room.world must be the folder of a run of simulate.py, with users.json and tracks.npy, got {given!r}"
        )


def check_audio(file: object, allowed: object) -> None:
    """Refuse previews of the room that cannot be played.

    Raises:
        InputError: the file is missing, or a place that is allowed is neither a folder nor a host.
    """
    if not isinstance(allowed, list):
        raise InputError(f"room.audio_from must be a list such as [previews, https://a.example], got {allowed!r}")
    for one in allowed:
        if not isinstance(one, str) or not (is_host(one) or Path(one).is_dir()):
            raise InputError(
                f"room.audio_from: {one!r} is neither a folder nor a host such as https://previews.example.com"
            )
    if file is not None and not Path(str(file)).is_file():
        raise InputError(f"room.audio must be a tracks.json with the column `audio`, and there is no file {file}")
    if file is not None and not allowed:
        raise InputError("room.audio plays nothing without room.audio_from, such as room.audio_from=[previews]")


def is_host(given: str) -> bool:
    """Whether a text is a scheme and a host, with or without a port, and nothing else."""
    return _HOST.fullmatch(given) is not None


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0, after a check that no other program listens at it.

    Raises:
        InputError: another program listens at it, or the host is not an address of this machine.
    """
    check_number("port", port, whole=True, least=0, most=65535)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
            return int(probe.getsockname()[1])
    except OSError as error:
        remedy = "choose another port=, or 0 for a free one"
        raise InputError(f"cannot listen at {host}:{port}: {error.strerror}; {remedy}") from None


def hold_port(host: str, port: int) -> socket.socket:
    """Reserve a port for the workers, which listen at it one by one, also while none of them does.

    Returns:
        A socket that is bound and does not listen. Only a socket of the same user that shares the port on purpose
        (`SO_REUSEPORT`), as those of the workers do, can be bound to the port as well.

    Raises:
        InputError: another program listens at the port.
    """
    free_port(host, port)
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # which would let any program bind it as well
    return held


def address_of(host: object) -> str:
    """The IP address of a host; IPv4 if it has one.

    Raises:
        InputError: it has no address.
    """
    if isinstance(host, str) and host:
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError, UnicodeError):
                return str(socket.getaddrinfo(host, None, family)[0][4][0])
    raise InputError(f"host must be an address of this machine, such as 127.0.0.1 or 0.0.0.0, got {host!r}")


def check_token() -> None:
    """Refuse a token that cannot be sent in a header.

    Raises:
        InputError: the environment variable has other characters than printable ASCII.
    """
    token = os.environ.get(TOKEN, "")
    if not (token.isascii() and token.isprintable() and token == token.strip()):
        raise InputError(f"{TOKEN} must be printable ASCII without a space at either end, as it is sent in a header")
