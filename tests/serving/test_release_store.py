"""A folder of versions: the current one, the previous one, and no incomplete one."""

import json
import multiprocessing
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from segue.errors import InputError
from segue.serving.release_store import FolderStore, Index
from segue.serving.settings import is_word
from tests.serving.conftest import writer


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store", keep=3)


def folders(store: FolderStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir() if path.is_dir())


def is_consistent(store: FolderStore) -> bool:
    """The folder has each version of the index complete, and nothing else."""
    versions = store.index().versions
    return folders(store) == sorted(versions) and all(map(store.is_whole, versions))


def test_equal_contents_have_the_same_version(store: FolderStore) -> None:
    first = store.load(writer("one"))
    inode = store.path(first).stat().st_ino
    assert store.load(writer("one")) == first
    assert store.index() == Index(first, [first])
    assert store.path(first).stat().st_ino == inode, "it is not written again"


def test_loading_replaces_a_damaged_version(store: FolderStore) -> None:
    version = store.load(writer("one"))
    (store.path(version) / "track_ids.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"track_ids.npy is damaged"):
        store.open()
    assert not store.is_whole(version)
    assert store.load(writer("one")) == version
    assert store.open().version == version


def test_a_damaged_version_is_not_rolled_back_to(store: FolderStore) -> None:
    first, second = store.load(writer("one")), store.load(writer("two"))
    (store.path(first) / "track_ids.npy").write_bytes(b"")
    with pytest.raises(InputError, match=f"version {first} in .* is damaged; nothing was changed"):
        store.rollback()
    assert store.index().current == second


def test_an_empty_store_has_nothing_to_serve_or_to_roll_back_to(store: FolderStore) -> None:
    with pytest.raises(InputError, match=r"store holds no release; load one with serve.py load"):
        store.open()
    with pytest.raises(InputError, match="has no version before the first to roll back to"):
        store.rollback()


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_latest_are_kept(tmp_path: Path, keep: int) -> None:
    store = FolderStore(tmp_path, keep=keep)
    versions = [store.load(writer(name)) for name in "abcdefa"]
    assert store.index() == Index(versions[-1], versions[-keep:])
    assert is_consistent(store)


def test_a_release_that_is_mapped_outlives_its_pruning(store: FolderStore) -> None:
    store.load(writer("old"))
    served = store.open()
    for number in range(4):
        store.load(writer(str(number)))
    assert not store.path(served.version).exists()
    assert served.track(3) == {"artist": "Artist 0", "title": "Title 3", "track": 103}


def fails_at_once(_: Path) -> None:
    raise InputError("no such file")


def fails_half_way(folder: Path) -> None:
    writer("two")(folder)
    (folder / "titles_text.npy").unlink()
    raise OSError("no space left")


def writes_half(folder: Path) -> None:
    writer("two")(folder)
    (folder / "titles_text.npy").write_bytes(b"")


def writes_nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize("write", [fails_at_once, fails_half_way, writes_half, writes_nothing])
def test_a_load_that_fails_changes_nothing(store: FolderStore, write: object) -> None:
    first = store.load(writer("one"))
    before = (store.folder / "index.json").read_bytes()
    with pytest.raises((InputError, OSError), match=r"no such file|no space left|is damaged|cannot read"):
        store.load(write)  # type: ignore[arg-type]
    assert (store.folder / "index.json").read_bytes() == before
    assert store.open().version == first
    assert sorted(path.name for path in store.folder.iterdir()) == sorted([".lock", "index.json", first])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"current": "abc", "versions": []}',
        b'{"current": "abc", "versions": "abc"}',
        b'{"current": "../../etc", "versions": ["../../etc"]}',
        b'{"current": "abc", "versions": ["abc", ""]}',
    ],
)
def test_a_damaged_index_is_refused_and_stays_as_it_is(store: FolderStore, text: bytes) -> None:
    version = store.load(writer("one"))
    path = store.folder / "index.json"
    path.write_bytes(text)
    for work in (store.index, store.open, store.rollback, lambda: store.load(writer("two"))):
        with pytest.raises(InputError, match=r"index.json is damaged; load a release into an empty store"):
            work()
    assert path.read_bytes() == text
    assert folders(store) == [version]


def test_an_index_that_cannot_be_read_is_refused(store: FolderStore) -> None:
    (store.folder / "index.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot read .*index.json: Is a directory"):
        store.open()


@pytest.mark.parametrize("given", ["", "a" * 65, "../x", "a/b", "a b", "ä", ".", 7, None])
def test_a_name_that_is_unsafe_in_a_path_is_not_a_version(given: object) -> None:
    assert not is_word(given)
    assert is_word("0a1b2c3d4e5f")


def test_switch_makes_a_local_version_current(store: FolderStore) -> None:
    first, second = store.load(writer("one")), store.load(writer("two"))
    store.switch(first)
    assert store.open().version == first
    assert store.rollback() == second
    before = (store.folder / "index.json").stat().st_ino
    store.switch(second)
    assert (store.folder / "index.json").stat().st_ino == before, "nothing is written where nothing changes"


def load_some(folder: Path, names: list[str]) -> None:
    store = FolderStore(folder, keep=50)
    for name in names:
        store.load(writer(name))


@pytest.mark.timing
def test_processes_and_threads_that_load_at_once_lose_nothing(tmp_path: Path) -> None:
    names = [[f"{worker}{number}" for number in range(4)] + ["shared"] for worker in range(6)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=load_some, args=(tmp_path, given)) for given in names[:3]]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(load_some, [tmp_path] * 3, names[3:]))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = FolderStore(tmp_path, keep=50)
    versions = store.index().versions
    assert len(versions) == len(set(versions)) == 6 * 4 + 1
    assert is_consistent(store)


KEEP = 3


class Loads(RuleBasedStateMachine):
    """Loads and rollbacks in any order, compared with a simple list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="segue-store-"))
        self.store = FolderStore(self.folder, keep=KEEP)
        self.served: str | None = None

    @rule(name=st.sampled_from("abcde"))
    def load(self, name: str) -> None:
        before = self.served
        self.served = self.store.load(writer(name))
        versions = self.store.index().versions
        assert versions[-1] == self.served
        if before not in (None, self.served):
            assert versions[-2] == before, "a rollback leads back to what was served"

    @rule()
    def rollback(self) -> None:
        index = self.store.index()
        place = index.versions.index(self.served) if self.served else 0
        if place:
            self.served = self.store.rollback()
            assert self.served == index.versions[place - 1]
            assert self.store.index().versions == index.versions
        else:
            with pytest.raises(InputError, match="to roll back to"):
                self.store.rollback()

    @invariant()
    def what_is_served_is_whole(self) -> None:
        index = self.store.index()
        assert index.current == self.served
        assert len(index.versions) <= KEEP
        if self.served:
            assert is_consistent(self.store)
            assert self.store.open().version == self.served
            assert json.loads((self.folder / "index.json").read_text()) == asdict(index)

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


TestLoads = Loads.TestCase
TestLoads.settings = settings(max_examples=12, stateful_step_count=8)
