"""Which release a service serves: the one that was named, that of the shared store, or that of its own store."""

import asyncio
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.runs.profiles import Profiles, entries_of_events
from segue.serving import loading
from segue.serving.loading import ReleaseWriter, check_last_plays, load, load_to_serve, requested, store_of
from segue.serving.log_writer import now_ms
from segue.serving.profile_memory import FILE as PROFILES
from segue.serving.profile_memory import MappedProfiles
from segue.serving.release_store import FolderStore, Index, Loaded, StoreUnreachableError
from segue.serving.settings import REDIS, SETTINGS, ProfileSettings, ServiceSettings, check_groups
from segue.serving.stores import make_store
from tests.conftest import make_catalog
from tests.serving.conftest import arm, writer


class SmallWorld:
    catalog = make_catalog([0, 0, 1, 2])
    top_tracks = make_catalog([0, 0]).rows_of(make_catalog([0, 0]).track_ids)


class Shared:
    """A shared store, as one replica sees it."""

    where = "the shared store"

    def __init__(self, local: FolderStore, *, holds: str | None = None, is_away: bool = False) -> None:
        self.local, self._current, self._is_away = local, holds, is_away

    def index(self) -> Index:
        if self._is_away:
            raise StoreUnreachableError("it does not answer")
        return Index(self._current, [self._current] if self._current else [])

    def publish(self, version: str, *, before: str | None) -> str:
        assert before == self._current
        self._current = version
        return version

    def fetch(self) -> str:
        self.index()
        return str(self._current)


def request(**named: Any) -> ReleaseWriter | None:
    usual: dict[str, Any] = {"pick": "uniform", "artist_gap": 0, "fallback": "artist", "num_lists": 4}
    usual |= {"exploration": 0.0, "familiar": 1.0}
    more = {"arms": None, "recommendations": None, "experiment_name": "TEST", "arm_context": None, "tracks": None}
    given = usual | more | {"accept_changes": False} | {"sessions": {"max_tracks": 128}} | named
    return requested(given, world=SmallWorld, locate=Path, provenance=dict)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The composed config of conf/serve.yaml for a run folder."""
    monkeypatch.delenv(REDIS, raising=False)
    store = {"kind": "embedded", "folder": str(tmp_path / "store"), "url": None, "keep": 5}
    process = {"run_dir": str(tmp_path), "host": "127.0.0.1", "port": 1, "workers": 1, "seed": None}
    groups = {"sessions": {}, "profiles": {"capacity": 8}, "log": {}, "limits": {}, "room": {"enabled": True}}
    return {"do": "load", "store": store, **process, **groups}


def on_redis(given: Mapping[str, Any], on_failure: str = "error") -> dict[str, Any]:
    more = {"kind": "redis", "url": "redis://:s3cret@nowhere/0", "name": "segue", "timeout_s": 1.0}
    return {**given, "store": {**given["store"], **more, "on_failure": on_failure}}


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shared]:
    """Puts a store that replicas share beside the folder."""

    def put(store: FolderStore, **how: Any) -> Shared:
        shared = Shared(store, **how)
        monkeypatch.setattr(loading, "make_store", lambda _: shared)
        return shared

    return put


def serve(asked: ReleaseWriter | None, given: Mapping[str, Any]) -> list[str]:
    """Warnings of a service that starts."""
    warnings: list[str] = []
    load_to_serve(asked, ServiceSettings.of(given), warnings.append)
    return warnings


def folder_of(given: Mapping[str, Any]) -> FolderStore:
    return make_store(ServiceSettings.of(given)).local


def test_the_release_in_the_store_is_served_if_no_recommender_is_named(given: dict[str, Any]) -> None:
    version = folder_of(given).load(writer())
    assert serve(request(), given) == []
    assert folder_of(given).index().current == version


def test_nothing_to_serve_and_two_ways_to_name_it_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="nothing to serve: name a recommender, recommendations=<recommender> or arms"):
        serve(request(), given)
    with pytest.raises(InputError, match=r"give recommendations=<recommender>, or arms=\{C: …, T1: …\}, not both"):
        serve(request(recommendations="random", arms={"C": "random"}), given)


def test_the_first_replica_publishes_what_it_names(given: dict[str, Any], share: Callable[..., Shared]) -> None:
    store = folder_of(given)
    shared = share(store)
    assert serve(request(recommendations="random"), on_redis(given)) == []
    assert shared.index().current == store.index().current is not None


def test_a_replica_that_names_something_else_is_warned(given: dict[str, Any], share: Callable[..., Shared]) -> None:
    shared = share(folder_of(given), holds="abc")
    (warning,) = serve(request(recommendations="random"), on_redis(given))
    assert warning == (
        "the shared store holds version abc, which is served instead of the recommender named here; "
        "use serve.py load to change it for all replicas"
    )
    assert shared.index().current == "abc"
    assert serve(request(), on_redis(given)) == []


def test_without_a_shared_store_and_without_a_release_there_is_nothing_to_serve(
    given: dict[str, Any], share: Callable[..., Shared]
) -> None:
    share(folder_of(given), is_away=True)
    with pytest.raises(
        InputError, match="it does not answer; there is nothing to serve without it: name a recommender"
    ):
        serve(request(), on_redis(given, "embedded"))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError("200000 requested and 12784 written"), "No space left on device; make space there"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; make space there"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied; make it writable"),
    ],
)
def test_a_disk_that_is_full_is_named_with_the_store_and_changes_nothing(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: OSError, why: str
) -> None:
    store = folder_of(given)
    first = store.load(writer())

    def save(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(InputError, match=f"^cannot write the release into the store {store.folder}: {why}, then type"):
        load(request(recommendations="random"), given)
    assert store.index() == Index(first, [first])
    assert not list(store.folder.glob(".partial-*"))


def test_a_release_in_which_an_id_is_another_song_is_refused_when_loaded_and_at_the_start(
    given: dict[str, Any],
) -> None:
    """The world that is served without a catalogue has other songs than the recommendations before."""
    store = folder_of(given)
    first = store.load(writer(artists=[9, 0, 1, 2, 3]))
    message = (
        rf"^track 100 is 'Title 0' by 'Artist 0' in the new release and 'Title 0' by 'Artist 9' in release {first}"
    )
    for asked in (lambda one: load(one, given), lambda one: serve(one, given)):
        with pytest.raises(InputError, match=message):
            asked(request(recommendations="random"))
        assert store.index() == Index(first, [first])
    (second, change, _), _ = load(request(recommendations="random", accept_changes=True), given)
    assert str(change) == "0 new, 1 kept without lists, 1 changed"
    assert store.open().kept.tolist() == [4]
    assert serve(request(recommendations="random"), given) == []
    assert store.index().current == second, "the same release, and the same kept track"
    with pytest.raises(InputError, match="accept_changes must be true or false, got 'yes'"):
        request(recommendations="random", accept_changes="yes")


def test_a_missing_store_is_refused_with_the_name_of_the_command(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"rollback: there is no store .*; name that of a service with store.folder="):
        store_of({**given, "do": "rollback"}, given["run_dir"])
    with pytest.raises(InputError, match="load: there is no store"):
        load(request(recommendations="random"), given)
    with pytest.raises(InputError, match=r"load needs recommendations=<recommender> or arms=\{C: …, T1: …\}"):
        load(request(), given)


def test_the_address_of_redis_is_in_the_environment_and_in_no_file(given: dict[str, Any]) -> None:
    settings = ServiceSettings.of(on_redis(given))
    settings.write()
    assert os.environ[REDIS] == "redis://:s3cret@nowhere/0"
    assert "s3cret" not in Path(given["run_dir"], "serve.json").read_text()
    ServiceSettings.of(given)
    assert REDIS not in os.environ, "nobody else's address is taken for ours"
    wrong = on_redis(given)
    wrong["store"]["name"] = "a:b"
    with pytest.raises(InputError, match=r"store.name must be a word of letters and digits, got 'a:b'"):
        ServiceSettings.of(wrong)


@pytest.mark.parametrize(("name", "value"), [("profiles", "none"), ("room", None)])
def test_a_value_in_the_place_of_a_group_is_refused(given: dict[str, Any], name: str, value: str | None) -> None:
    check_groups(given)
    without = {key: one for key, one in given.items() if key != name}  # ~room of the command line
    for wrong, shown in ((given | {name: value}, value), (without, None)):
        with pytest.raises(
            InputError, match=rf"{name} is a group of settings, got {shown!r}; set one of them, {name}\."
        ):
            check_groups(wrong)


def test_profiles_of_runs_fill_those_of_the_service_and_a_line_says_what_found_no_place(given: dict[str, Any]) -> None:
    store, num = folder_of(given), 20
    users, time_ms = np.arange(num), np.full(num, now_ms())
    of_run = Profiles.of(*entries_of_events(users, users, np.ones(num, np.float32), time_ms))

    def asked(store: FolderStore) -> Loaded:
        return store.load_next(writer())._replace(profiles=[of_run])

    warnings = list[str]()
    store.load(writer("before"))
    ServiceSettings.of(given | {"profiles": {"remember": "none"}}).write()
    load(asked, given, warnings.append)
    assert not (store.folder / PROFILES).exists(), "the settings of the service count, and not those of the command"
    load_to_serve(asked, ServiceSettings.of(given), warnings.append)
    assert warnings == [
        "12 profiles of listeners were left out, because those of later visits fill their places; "
        "set profiles.capacity of the service higher"
    ]
    profiles = MappedProfiles(store.folder, ProfileSettings())
    known = [user for user in range(num) if len(asyncio.run(profiles.look(user, 1)))]
    assert len(known) == 8
    small = given | {"profiles": {"capacity": 8, "max_tracks": 1}}
    load_to_serve(None, ServiceSettings.of(given | {"profiles": {"capacity": 64}}), warnings.append)
    load_to_serve(asked, ServiceSettings.of(given | {"profiles": {"capacity": 64}}), warnings.append)
    assert len(warnings) == 1, "there is more room before the profiles are added"
    load_to_serve(None, ServiceSettings.of(small), warnings.append)
    assert warnings[1:] == ["12 profiles of listeners found no place with profiles.capacity=8 and are forgotten"]


def test_profiles_that_cannot_be_added_leave_the_release_current(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_of(given)
    store.load(writer("before"))

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("segue.serving.profile_memory._add", fail)
    users = np.arange(1)
    of_run = Profiles.of(*entries_of_events(users, users, np.ones(1, np.float32), users + now_ms()))
    said = r"version \w+ is current; profiles of listeners were not added: No space left on device; load it again"
    with pytest.raises(InputError, match=said):
        load(lambda store: store.load_next(writer("after"))._replace(profiles=[of_run]), given)
    assert store.open().experiment == "after"
    monkeypatch.undo()
    (lock := store.folder / "removed.lock").unlink()
    lock.mkdir()
    with pytest.raises(InputError, match=r"profiles of listeners were not added: \S+/removed\.lock: Is a directory"):
        load_to_serve(None, ServiceSettings.of(given), lambda _: None)


def test_a_command_finds_the_settings_of_the_service_whose_store_it_names(given: dict[str, Any]) -> None:
    root = Path(given["run_dir"])
    for number, (folder, days) in enumerate({"old": 1.0, "new": 2.0, "other": 3.0}.items()):
        service = ServiceSettings.of(given | {"profiles": {"days": days}, "run_dir": str(root / folder)})
        (root / folder).mkdir()
        store = replace(service.store, folder=str(root / "another")) if folder == "other" else service.store
        replace(service, store=store).write()
        os.utime(root / folder / SETTINGS, (number, number))
    found = ServiceSettings.of(given | {"run_dir": str(root / "command")}).of_service()
    assert (found.profiles.days, found.run_dir) == (2.0, str(root / "command"))


def test_a_serve_json_that_is_damaged_is_named(given: dict[str, Any]) -> None:
    folder_of(given).load(writer())
    Path(given["run_dir"], SETTINGS).write_text("{}")
    with pytest.raises(InputError, match=r"serve\.json is damaged"):
        ServiceSettings.of(given).of_service()


def test_an_arm_that_needs_last_plays_is_refused_where_none_are_kept() -> None:
    arms = {"C": arm(), "T1": arm("a.module:Class")}
    check_last_plays(arms, lambda: "consenting")
    with pytest.raises(InputError, match=r"arms\.T1: policy=a.module:Class needs profiles\.remember=all or consenting"):
        check_last_plays(arms, lambda: "none")
