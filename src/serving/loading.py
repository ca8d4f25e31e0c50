"""Loads releases into stores: when a service starts, and while it runs.

MLflow, which finds runs, is imported only when a release is loaded.
"""

import asyncio
import errno
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import InputError
from segue.picking.arm import Arm
from segue.runs.profiles import ENTRY, Profiles
from segue.serving.log_writer import now_ms
from segue.serving.profile_memory import MappedProfiles
from segue.serving.release_store import FolderStore, Loaded, StoreUnreachableError
from segue.serving.settings import RedisSettings, ServiceSettings
from segue.serving.stores import ProfileStore, Store, make_profiles, make_store
from segue.settings import Setting, checked

ACCEPT_CHANGES = Setting("whether an id may get another title or artist than in the current release")

_OF_ARMS = ("pick", "artist_gap", "exploration", "familiar", "fallback", "num_lists")

ReleaseWriter = Callable[[FolderStore], Loaded]
"""Writes the release that the command line names into a folder and makes it current there."""


def requested(
    given: Mapping[str, Any],
    *,
    world: Callable[[], Any],
    locate: Callable[[str], Path],
    provenance: Callable[[], Mapping[str, str]],
) -> ReleaseWriter | None:
    """The release that the composed config names; None where it names none.

    Args:
        given: the config.
        world: builds the embedded world.
        locate: finds the `recommendations.jsonl` of a run or a model.
        provenance: command, commit and versions that the release records.

    Raises:
        InputError: it is named in two ways.
    """
    arms, only = given["arms"], given["recommendations"]
    accepts = checked("accept_changes", given["accept_changes"], bool, ACCEPT_CHANGES)
    if arms is None and only is None:
        return None
    if arms is not None and only is not None:
        raise InputError("give recommendations=<recommender>, or arms={C: …, T1: …}, not both")
    remember = partial(_remember, given)
    settings = {
        "defaults": {name: given[name] for name in _OF_ARMS} | {"context": given["arm_context"]},
        "experiment": "" if given["experiment_name"] is None else str(given["experiment_name"]),
        "max_tracks": given["sessions"]["max_tracks"],
        "tracks": None if given["tracks"] is None else Path(str(given["tracks"])),
        "world": world,
        "locate": locate,
    }
    return partial(_load_into, {"C": only} if arms is None else arms, settings, remember, provenance, accepts)


def _remember(given: Mapping[str, Any]) -> str:
    """`profiles.remember` of the service."""
    settings = ServiceSettings.of(given)
    return (settings.of_service() if given["do"] == "load" else settings).profiles.remember


def check_last_plays(arms: Mapping[str, Arm], remember: Callable[[], str]) -> None:
    """Refuse an arm that needs the last plays of users where none are kept.

    Args:
        arms: of a release.
        remember: `profiles.remember` of the service.

    Raises:
        InputError: there is such an arm.
    """
    for name, arm in arms.items():
        if arm.is_own and remember() == "none":
            raise InputError(f"arms.{name}: policy={arm.policy} needs profiles.remember=all or consenting, got none")


def _load_into(
    arms: Any,
    settings: Mapping[str, Any],
    remember: Callable[[], str],
    provenance: Callable[[], Mapping[str, str]],
    accept_changes: bool,
    store: FolderStore,
) -> Loaded:
    from segue.serving.prepared_release import prepare_release

    prepared = prepare_release(arms, **settings)
    check_last_plays(prepared.arms, remember)
    try:
        loaded = store.load_next(partial(prepared.write, provenance=provenance()), accept_changes=accept_changes)
        return loaded._replace(profiles=list(prepared.profiles.values()))
    except OSError as error:
        is_full = error.errno in (None, errno.ENOSPC, errno.EDQUOT)  # numpy gives no number for half an array
        why = "No space left on device" if is_full else error.strerror
        remedy = "make space there" if is_full else "make it writable"
        raise InputError(
            f"cannot write the release into the store {store.folder}: {why}; {remedy}, then type the command "
            "again; nothing in the store has changed"
        ) from None


def load_to_serve(request: ReleaseWriter | None, settings: ServiceSettings, warn: Callable[[str], None]) -> None:
    """Make sure that the folder which is served from has a current release.

    Raises:
        InputError: there is no release, the one that was named cannot be served, or Redis does not answer.
    """
    store = make_store(settings)
    if not isinstance(settings.store, RedisSettings) and request is None and store.index().current is None:
        raise InputError("nothing to serve: name a recommender, recommendations=<recommender> or arms={C: …, T1: …}")
    if num_left_out := MappedProfiles(Path(settings.store.folder), settings.profiles).resize():
        few = f"profiles.capacity={settings.profiles.capacity}"
        warn(f"{num_left_out:,} profiles of listeners found no place with {few} and are forgotten")
    _fetch(store)
    loaded = request(store.local) if request is not None else None
    version = None if loaded is None else loaded.version
    try:
        if version is not None and store.index().current is None:
            store.publish(version, before=None)
        _fill(settings, loaded, warn)
        if version not in (None, served := store.fetch()):
            warn(
                f"{store.where} holds version {served}, which is served instead of the recommender named here; "
                "use serve.py load to change it for all replicas"
            )
    except StoreUnreachableError as error:
        if isinstance(settings.store, RedisSettings) and settings.store.on_failure == "error":
            raise InputError(f"{error}; start it, or serve without it: store.on_failure=embedded") from None
        if store.local.index().current is None:
            raise InputError(f"{error}; there is nothing to serve without it: name a recommender as well") from None
        warn(f"{error}; serving from {store.local.folder} until it does")


def _fill(settings: ServiceSettings, loaded: Loaded | None, warn: Callable[[str], None]) -> None:
    """Add what the runs of a release know of listeners to the profiles of the service, and forget what is old there."""
    if settings.profiles.remember == "none":
        return
    of_runs = (loaded.profiles if loaded is not None else ()) or (_NOBODY,)
    if num_old := sum(one.num_silent(now_ms() - settings.profiles.days_ms) for one in of_runs):
        warn(
            f"{num_old:,} profiles of the run were left out, because their listeners played nothing in the last "
            f"{settings.profiles.days:g} days; set profiles.days of the service higher"
        )
    try:
        num_left_out = asyncio.run(_merge(make_profiles(settings.store, settings.profiles), of_runs))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        raise InputError(f"profiles of listeners were not added: {where}{error.strerror}") from None
    if num_left_out:
        warn(
            f"{num_left_out:,} profiles of listeners were left out, because those of later visits fill their places; "
            "set profiles.capacity of the service higher"
        )


_NOBODY = Profiles.of(np.zeros(0, np.int64), np.zeros(0, ENTRY))


async def _merge(profiles: ProfileStore, of_runs: Sequence[Profiles]) -> int:
    try:
        return sum([await profiles.merge(one, now_ms()) for one in of_runs])
    finally:
        if (close := getattr(profiles, "close", None)) is not None:
            await close()


def _fetch(store: Store) -> str | None:
    """The current version, copied into the local folder where replicas share it; None if it cannot be served."""
    with suppress(InputError):
        return store.fetch()
    return None


def load(
    request: ReleaseWriter | None, given: Mapping[str, Any], warn: Callable[[str], None] = lambda _: None
) -> tuple[Loaded, str]:
    """Load a release into the store of a running service; returns it and the store.

    Args:
        request: writes the release.
        given: the composed config.
        warn: prints a line about profiles of listeners that find no place.

    Raises:
        InputError: no recommender is named, it cannot be served, there is no such store, or an id means another song
            than in the current release.
    """
    if request is None:
        raise InputError("load needs recommendations=<recommender> or arms={C: …, T1: …}")
    with tempfile.TemporaryDirectory() as staging:
        store = store_of(given, staging)
        before = store.index().current
        _fetch(store)
        loaded = request(store.local)
        store.publish(loaded.version, before=before)
        try:
            _fill(ServiceSettings.of(given).of_service(), loaded, warn)
        except InputError as error:
            raise InputError(f"version {loaded.version} is current; {error}; load it again to add profiles") from None
        return loaded, store.where


def store_of(given: Mapping[str, Any], staging: str) -> Store:
    """The store of a running service.

    Args:
        given: the composed config.
        staging: with Redis, the folder in which releases are prepared.

    Raises:
        InputError: there is no such store.
    """
    if given["store"]["kind"] == "redis":
        given = {**given, "store": {**given["store"], "folder": staging}}
    elif not Path(given["store"]["folder"]).is_dir():
        raise InputError(
            f"{given['do']}: there is no store {Path(given['store']['folder']).absolute()}; name that of a service "
            "with store.folder=<its run folder>/store, or store=redis store.url=<address>"
        )
    return make_store(ServiceSettings.of(given))
