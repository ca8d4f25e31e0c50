"""The settings of conf/serve.yaml, which are checked before anything is started."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from segue.atomic import write_record
from segue.errors import InputError
from segue.runs.profiles import DAY_MS
from segue.settings import Setting, settings

SETTINGS = "serve.json"
TOKEN = "SEGUE_TOKEN"
REDIS = "SEGUE_REDIS_URL"
FSYNC = ("always", "interval", "never")


@settings("store")
@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Releases are in a folder of this machine."""

    kind: str
    folder: str
    keep: Annotated[
        int,
        Setting("number of versions that are kept for a rollback", least=1, hint="the current version must be kept"),
    ] = 5


@settings("store")
@dataclass(frozen=True, kw_only=True)
class RedisSettings(StoreSettings):
    """Releases and sessions are in Redis, for several replicas; each copies the current release into its folder.

    Raises:
        InputError: the name cannot be the prefix of a key.
    """

    name: Annotated[str, Setting("prefix of every key, a word of letters and digits")] = "segue"
    timeout_s: Annotated[float, Setting("seconds to wait for an answer", above=0)] = 1.0
    on_failure: Annotated[
        str,
        Setting(
            "if Redis is down at the start; embedded serves the recommender named here", choices=("error", "embedded")
        ),
    ] = "error"

    def __post_init__(self) -> None:
        if not is_word(self.name):
            raise InputError(f"store.name must be a word of letters and digits, got {self.name!r}")


def store_settings(given: Mapping[str, Any]) -> StoreSettings:
    """Settings of a store, as `serve.json` has them.

    Args:
        given: by name.
    """
    return (RedisSettings if given["kind"] == "redis" else StoreSettings)(**given)


@settings("sessions")
@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """The memory of ranked, weighted, artist_gap and context=session."""

    capacity: Annotated[int, Setting("number of sessions", least=1, most=10_000_000)] = 32_768
    max_tracks: Annotated[
        int, Setting("tracks of a session that are remembered; no artist_gap can be larger", least=1, most=10_000)
    ] = 128
    idle_s: Annotated[float, Setting("seconds without a request after which a session has ended", above=0)] = 1800.0

    @property
    def idle_ms(self) -> int:
        """The same in milliseconds."""
        return int(self.idle_s * 1000)


@settings("profiles")
@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """The memory of context=listener: what each listener has heard in all sessions."""

    remember: Annotated[
        str,
        Setting(
            'whose plays are kept: all, but those of requests with "remember": false; consenting, those of requests '
            'with "remember": true; none. Others are answered from the session alone',
            choices=("all", "consenting", "none"),
        ),
    ] = "all"
    capacity: Annotated[int, Setting("number of listeners in the file", least=1, most=10_000_000)] = 100_000
    max_tracks: Annotated[int, Setting("tracks of a listener that are remembered", least=1, most=10_000)] = 500
    days: Annotated[
        float,
        Setting(
            "after which a track that was not played again, or a listener without a visit, is forgotten",
            above=0,
            most=36_500,
        ),
    ] = 365.0

    @property
    def days_ms(self) -> int:
        """The same in milliseconds."""
        return int(self.days * DAY_MS)

    def remembers(self, consent: bool | None) -> bool:
        """Whether a play is kept.

        Args:
            consent: `remember` of the request; None where it has none.
        """
        return consent is not False if self.remember == "all" else self.remember == "consenting" and consent is True


@settings("log")
@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """The event log of each worker; see `EventLogWriter`."""

    fsync: Annotated[str, Setting("what a power failure can lose", choices=FSYNC)] = "interval"
    max_bytes: Annotated[int, Setting("size of a file before it is rotated", least=4096)] = 100_000_000
    backups: Annotated[
        int, Setting("number of rotated files that are kept; older ones are deleted", least=0, most=1000)
    ] = 10
    with_fallback: Annotated[bool, Setting("whether lines have the source of an answer that no list gave")] = False
    with_propensity: Annotated[
        bool, Setting("whether next lines have the probability of the recommendation, and the release")
    ] = True


@settings("limits")
@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """What a client may send."""

    max_body_bytes: Annotated[int, Setting("size of a body", least=64)] = 4096
    body_timeout_s: Annotated[float, Setting("seconds within which a body must arrive", above=0)] = 10.0
    header_timeout_s: Annotated[
        float, Setting("seconds within which headers must arrive, also the next ones of a connection", above=0, most=60)
    ] = 20.0
    header_bytes: Annotated[int, Setting("size of the headers", least=8192)] = 16_384
    connections: Annotated[int, Setting("number of connections of a worker", least=1)] = 4096
    requests_per_second: Annotated[
        float | None, Setting("admitted of a client by a worker; null: no limit", above=0)
    ] = None
    burst: Annotated[int, Setting("requests at once, if requests_per_second is set", least=1)] = 100


@settings()
@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How to serve. Secrets are read from the environment instead.

    Raises:
        InputError: a setting is out of range.
    """

    run_dir: str
    host: str
    port: Annotated[int, Setting("0 for a free one", least=0, most=65535)]
    workers: Annotated[int, Setting("number of processes", least=1, most=256)]
    seed: Annotated[int | None, Setting("seed of the picks; null: a different one at each start", least=0)]
    store: StoreSettings
    sessions: SessionSettings
    profiles: ProfileSettings
    log: LogSettings
    limits: LimitSettings
    room: dict[str, Any]
    policies: Annotated[
        list[str], Setting("classes of arms of your own that releases may name, beside those of arms=")
    ] = field(default_factory=list)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "ServiceSettings":
        """Read them from the composed config.

        The address of Redis may contain a password and is therefore not written to a file: it is put into the
        environment, where the stores of this process and of the workers read it.

        Raises:
            InputError: a setting is out of range.
        """
        groups = {
            name: {key: one for key, one in given[name].items() if key != "_target_"}
            for name in ("store", *_GROUPS, "room")
        }
        url, folder = groups["store"].pop("url"), Path(groups["store"]["folder"]).absolute()
        is_shared = groups["store"]["kind"] == "redis"
        made: dict[str, Any] = {name: kind(**groups[name]) for name, kind in _GROUPS.items()}
        made["store"] = store_settings({**groups["store"], "folder": str(folder)})
        os.environ.pop(REDIS, None)
        if is_shared:
            os.environ[REDIS] = str(url)
        alike = {name: given[name] for name in ("host", "port", "workers", "seed")}
        arms = [*(given.get("arms") or {}).values(), given.get("recommendations")]
        typed = [arm["policy"] for arm in arms if isinstance(arm, Mapping) and isinstance(arm.get("policy"), str)]
        made["policies"] = [*(given.get("policies") or []), *typed]
        return cls(run_dir=str(Path(given["run_dir"]).absolute()), room=groups["room"], **alike, **made)

    def of_service(self) -> "ServiceSettings":
        """With the sessions and the profiles of the service that began last with this store, for a command beside it.

        They are in its `serve.json`, at `run_dir`, beside the store, or in a folder of one of these; if there is none,
        such as on another machine, those of the command stay.

        Raises:
            InputError: a `serve.json` is damaged.
        """
        roots = {Path(self.run_dir), Path(self.store.folder).parent}
        found = {path for root in roots for path in (*root.glob(SETTINGS), *root.glob(f"*/{SETTINGS}"))}
        key = "name" if isinstance(self.store, RedisSettings) else "folder"
        for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                given = json.loads(path.read_bytes())
                if given["store"].get(key) == getattr(self.store, key):
                    groups = {name: _GROUPS[name](**given[name]) for name in ("sessions", "profiles") if name in given}
                    return replace(self, **groups)
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise InputError(f"{path} is damaged ({error}); a service writes it when it starts") from None
        return self

    def write(self) -> None:
        """Write them to `serve.json` in the run folder."""
        write_record(asdict(self), Path(self.run_dir, SETTINGS))


_GROUPS: Any = {
    "sessions": SessionSettings,
    "profiles": ProfileSettings,
    "log": LogSettings,
    "limits": LimitSettings,
}


def check_groups(given: Mapping[str, Any]) -> None:
    """Refuse a value in the place of a group of settings.

    Args:
        given: the composed config.

    Raises:
        InputError: there is one.
    """
    if wrong := [name for name in (*_GROUPS, "room") if not isinstance(given.get(name), dict)]:
        raise InputError(
            f"{wrong[0]} is a group of settings, got {given.get(wrong[0])!r}; set one of them, {wrong[0]}.<name>=, "
            "and see --help"
        )


def is_word(given: object) -> bool:
    """Whether a value is a word of letters and digits, as a version is, and is therefore safe in a path or a key."""
    return isinstance(given, str) and 0 < len(given) <= 64 and given.isascii() and given.isalnum()


def check_token() -> None:
    """Refuse a token that cannot be sent in a header.

    Raises:
        InputError: the environment variable has other characters than printable ASCII.
    """
    token = os.environ.get(TOKEN, "")
    if not (token.isascii() and token.isprintable() and token == token.strip()):
        raise InputError(f"{TOKEN} must be printable ASCII without a space at either end, as it is sent in a header")
