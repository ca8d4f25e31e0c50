"""The store of releases: a folder of versions, of which one is current; with Redis, what a replica copied."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from segue.errors import InputError
from segue.runs.atomic import write_record
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

    def after_rollback(self, where: str) -> "Index":
        """The index after a rollback to the version before the current one.

        Raises:
            InputError: there is no earlier version.
        """
        place = self.versions.index(self.current) if self.current else 0
        if place == 0:
            raise InputError(f"{where} has no version before {self.current or 'the first'} to roll back to")
        return Index(self.versions[place - 1], self.versions)


def damaged(version: str, where: str) -> str:
    """The message for a version that cannot be rolled back to."""
    return f"version {version} in {where} is damaged; nothing was changed; load it again"


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
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=self.folder) as partial:
            new = Path(partial, "release")
            new.mkdir()
            write(new)
            version = Release(new).version
            with self._lock:
                index, removed = self.index().after_load(version, self._keep)
                if not self.is_whole(version):
                    shutil.rmtree(self.path(version), ignore_errors=True)
                    new.rename(self.path(version))
                write_record(asdict(index), self.folder / "index.json")
                for old in removed:
                    shutil.rmtree(self.path(old), ignore_errors=True)
        return version

    def is_whole(self, version: str) -> bool:
        """Whether a version is in this store and undamaged."""
        try:
            return Release(self.path(version)).version == version
        except InputError:
            return False

    def rollback(self) -> str:
        """Make the version before the current one current, and return it.

        Raises:
            InputError: there is no earlier version, or it is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            index = self.index().after_rollback(str(self.folder))
            if not self.is_whole(str(index.current)):
                raise InputError(damaged(str(index.current), str(self.folder)))
            write_record(asdict(index), self.folder / "index.json")
        return str(index.current)

    def publish(self, version: str) -> str:
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
