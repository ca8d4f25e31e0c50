"""The store of releases: a folder of versions, of which one is current; with Redis, what a replica copied."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from segue.atomic import write_record
from segue.errors import InputError
from segue.runs.profiles import Profiles
from segue.serving.known_tracks import Change, change_of, refuse_changes, with_kept
from segue.serving.release import Release
from segue.serving.settings import is_word


@dataclass(frozen=True)
class Index:
    """The versions of a store in the order they were loaded, and the current one.

    Args:
        current: the version that is served; None before the first one was loaded.
        versions: all versions that are kept, the latest last.
    """

    current: str | None = None
    versions: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, text: bytes | None, where: str) -> "Index":
        """Read it from JSON.

        Raises:
            InputError: it is damaged.
        """
        if text is None:
            return cls()
        try:
            given = json.loads(text)
            versions, current = given["versions"], given["current"]
        except (ValueError, TypeError, KeyError, RecursionError):
            versions, current = [], None
        if not isinstance(versions, list) or not all(map(is_word, versions)) or current not in versions:
            raise InputError(f"{where} is damaged; load a release into an empty store")
        return cls(current, versions)

    def after_load(self, version: str, keep: int) -> tuple["Index", list[str]]:
        """The index after `version` was loaded, and the versions that are removed.

        The previously current version is placed right before it; a rollback returns to it.
        """
        before = [self.current] if self.current and self.current != version else []
        versions = [*(other for other in self.versions if other not in (version, *before)), *before, version]
        return Index(version, versions[-keep:]), versions[:-keep]

    def replaced(self, old: str, version: str) -> "Index":
        """The index with another version in place of one."""
        others = [version if other == old else other for other in self.versions if other != version or other == old]
        return Index(version if self.current == old else self.current, others)

    def after_rollback(self, where: str) -> "Index":
        """The index after a rollback to the version before the current one.

        Raises:
            InputError: there is no earlier version.
        """
        place = self.versions.index(self.current) if self.current else 0
        if place == 0:
            raise InputError(f"{where} has no version before {self.current or 'the first'} to roll back to")
        return Index(self.versions[place - 1], self.versions)


class Loaded(NamedTuple):
    """A release that was loaded.

    Attributes:
        version: of the release.
        change: how its ids differ from those of the release before; None where there was none.
        profiles: of the listeners of its runs.
    """

    version: str
    change: Change | None
    profiles: Sequence[Profiles] = ()


def damaged(version: str, where: str) -> str:
    """The message for a version that cannot be rolled back to."""
    return f"version {version} in {where} is damaged; nothing was changed; load it again"


def changed_meanwhile(where: str) -> str:
    """The message for a store that another command changed during a `load` or a `rollback`."""
    return f"another command changed {where} while this one ran; type this one again"


class StoreUnreachableError(InputError):
    """The store that replicas share does not answer, or refuses a request."""


class FolderStore:
    """Releases in a folder: `<version>/` for each, and `index.json`, which is replaced as a whole.

    Args:
        folder: the folder; it is created if it is missing.
        keep: number of versions that are kept, at least the current one.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.where, self._keep = folder, str(folder), keep
        self._lock = FileLock(folder / ".lock")
        self.local = self  # the folder that is served from

    def index(self) -> Index:
        """The versions in this store.

        Raises:
            InputError: the index is damaged.
        """
        path = self.folder / "index.json"
        try:
            return Index.parse(path.read_bytes() if path.exists() else None, str(path))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None

    def path(self, version: str) -> Path:
        """Folder of a version."""
        return self.folder / version

    def load(self, write: Callable[[Path], object]) -> str:
        """Add a release, which `write` writes into an empty folder, and make it current; returns its version.

        A version that is already in the store is not replaced. If `write` fails, nothing changes.
        """
        with self._partial() as new:
            write(new)
            with self._lock:
                return self._add(Release(new))

    def load_next(self, write: Callable[[Path], object], *, accept_changes: bool = False) -> Loaded:
        """As `load`, for a release that replaces the current one: it keeps the ids that only the current one knows.

        Args:
            write: as for `load`.
            accept_changes: whether an id may get another title or artist.

        Raises:
            InputError: an id has another title or artist, or another command changed the store meanwhile.
        """
        before, old, change = self.index().current, None, None
        with suppress(InputError):  # where no version is undamaged there is nothing to keep
            old = self.open_whole()[0]
        with self._partial() as plain, self._partial() as extended:
            write(plain)
            new = Release(plain)
            if old is not None:
                change = change_of(old, new)
                if not accept_changes:
                    refuse_changes(change, old, new)
                new = with_kept(change, old, new, extended)
            with self._lock:
                if self.index().current != before:
                    raise InputError(changed_meanwhile(self.where))
                return Loaded(self._add(new), change)

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """A folder for a release that is no version yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=self.folder) as partial:
            (new := Path(partial, "release")).mkdir()
            yield new

    def _add(self, new: Release) -> str:
        index, removed = self.index().after_load(new.version, self._keep)
        self._change(new, index, removed)
        return new.version

    def _change(self, new: Release, index: Index, removed: list[str]) -> None:
        """Move a release to its place, then change the index, then remove versions."""
        if not self.is_whole(new.version):
            shutil.rmtree(self.path(new.version), ignore_errors=True)
            new.folder.rename(self.path(new.version))
        write_record(asdict(index), self.folder / "index.json")
        for old in removed:
            shutil.rmtree(self.path(old), ignore_errors=True)

    def is_whole(self, version: str) -> bool:
        """Whether a version is in this store and undamaged."""
        try:
            return Release(self.path(version)).version == version
        except InputError:
            return False

    def rollback(self) -> str:
        """Make the version before the current one current, and return it.

        If it does not know all ids of the current one, a version that also knows these takes its place.

        Raises:
            InputError: there is no earlier version, or it is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock, self._partial() as extended:
            before, index = str(self.index().current), self.index().after_rollback(str(self.folder))
            if not self.is_whole(target := str(index.current)):
                raise InputError(damaged(target, str(self.folder)))
            release = Release(self.path(target))
            if self.is_whole(before):
                old = Release(self.path(before))
                release = with_kept(change_of(old, release), old, release, extended)
            self._change(release, index.replaced(target, release.version), [target] * (release.version != target))
        return release.version

    def publish(self, version: str, *, before: str | None) -> str:  # noqa: ARG002 - as that of Redis
        """Return a version: in this store it became current when it was loaded."""
        return version

    def fetch(self) -> str:
        """The current version, of which nothing needs to be copied.

        Raises:
            InputError: there is none.
        """
        if (current := self.index().current) is None:
            raise InputError(f"{self.folder} holds no release; load one with serve.py load recommendations=<name>")
        return current

    def switch(self, version: str) -> None:
        """Make a version current that is already in this store."""
        with self._lock:
            if (index := self.index()).current != version:
                write_record(asdict(index.after_load(version, self._keep)[0]), self.folder / "index.json")

    def open(self) -> Release:
        """The current release.

        Raises:
            InputError: there is no release, or it is damaged.
        """
        return Release(self.path(self.fetch()))

    def open_whole(self) -> tuple[Release, str | None]:
        """The current release and None, or the latest undamaged one and why the current one cannot be served.

        Raises:
            InputError: there is no undamaged release.
        """
        try:
            return self.open(), None
        except InputError as error:
            other = next((version for version in reversed(self.index().versions) if self.is_whole(version)), None)
            if other is None:
                raise
            return Release(self.path(other)), f"{error}; serving version {other}"
