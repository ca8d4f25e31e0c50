"""Where a service finds its releases: a folder of versions, of which one is current."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock

from src.errors import InputError, check_number
from src.runs.atomic import write_record
from src.serving.release import Release


@dataclass(frozen=True)
class Index:
    """Which versions there are, in the order they were loaded, and which one is served.

    Args:
        current: the one that is served; None before the first was loaded.
        versions: all that are kept, the latest last.
    """

    current: str | None = None
    versions: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, text: bytes | None, where: str) -> "Index":
        """From its JSON.

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
        if not isinstance(versions, list) or not all(map(is_version, versions)) or current not in versions:
            raise InputError(f"{where} is damaged; load a release into an empty store")
        return cls(current, versions)

    def json(self) -> dict[str, Any]:
        """What `parse` reads."""
        return asdict(self)

    def after_load(self, version: str, keep: int) -> tuple["Index", list[str]]:
        """The index once `version` is current, and the versions that are not kept any more.

        The one that was current comes right before it, so that a rollback leads back to what was served.
        """
        before = [self.current] if self.current and self.current != version else []
        versions = [*(other for other in self.versions if other not in (version, *before)), *before, version]
        return Index(version, versions[-keep:]), versions[:-keep]

    def after_rollback(self, where: str) -> "Index":
        """The index once the version before the current one is served again.

        Raises:
            InputError: there is none.
        """
        place = self.versions.index(self.current) if self.current else 0
        if place == 0:
            raise InputError(f"{where} has no version before {self.current or 'the first'} to roll back to")
        return Index(self.versions[place - 1], self.versions)


def is_version(given: object) -> bool:
    """Whether it looks like a version, so that it may be part of a path or a key."""
    return isinstance(given, str) and 0 < len(given) <= 64 and given.isascii() and given.isalnum()


def damaged(version: str, where: str) -> str:
    """Why a version cannot be rolled back to."""
    return f"version {version} in {where} is damaged; nothing changes; load it again"


class StoreUnreachableError(InputError):
    """The store that replicas share does not answer, or refuses."""


@runtime_checkable
class ReleaseStore(Protocol):
    """Versions of releases, of which one is current."""

    @property
    def where(self) -> str:
        """What users know it by."""
        ...

    def index(self) -> Index:
        """Its versions."""
        ...

    def rollback(self) -> str:
        """Serve the version before the current one; returns which that is."""
        ...


@runtime_checkable
class SharedStore(ReleaseStore, Protocol):
    """A store that several replicas copy their releases from. Each call may raise `StoreUnreachableError`."""

    def publish(self, version: str) -> str:
        """Take a version from the local folder and make it current."""
        ...

    def fetch(self) -> str:
        """Bring the current version to the local folder and make it current there; returns which that is."""
        ...


class FolderStore:
    """Releases in a folder: `<version>/` for each, and `index.json`, which is replaced as a whole.

    Args:
        folder: is made where it is missing.
        keep: how many versions are kept.

    Raises:
        InputError: `keep` is out of range.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        check_number("store.keep", keep, whole=True, least=1, hint="the one that is served must be kept")
        self.folder, self.where, self._keep = folder, str(folder), keep
        self._lock = FileLock(folder / ".lock")

    def index(self) -> Index:
        """Its versions.

        Raises:
            InputError: the index is damaged.
        """
        path = self.folder / "index.json"
        try:
            text: bytes | None = path.read_bytes()
        except FileNotFoundError:
            text = None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        return Index.parse(text, str(path))

    def path(self, version: str) -> Path:
        """Folder of a version."""
        return self.folder / version

    def load(self, write: Callable[[Path], object]) -> str:
        """Take in a release, which `write` writes into an empty folder, and make it current; returns its version.

        A release that is there already is not written again. Nothing changes where `write` fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=self.folder) as partial:
            made = Path(partial, "release")
            made.mkdir()
            write(made)
            version = Release(made).version
            with self._lock:
                index, gone = self.index().after_load(version, self._keep)
                if not self.is_whole(version):
                    shutil.rmtree(self.path(version), ignore_errors=True)
                    made.rename(self.path(version))
                write_record(index.json(), self.folder / "index.json")
                for old in gone:
                    shutil.rmtree(self.path(old), ignore_errors=True)
        return version

    def is_whole(self, version: str) -> bool:
        """Whether a version lies here undamaged."""
        try:
            return Release(self.path(version)).version == version
        except InputError:
            return False

    def rollback(self) -> str:
        """Serve the version before the current one; returns which that is.

        Raises:
            InputError: there is none, or it is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            index = self.index().after_rollback(str(self.folder))
            if not self.is_whole(str(index.current)):
                raise InputError(damaged(str(index.current), str(self.folder)))
            write_record(index.json(), self.folder / "index.json")
        return str(index.current)

    def switch(self, version: str) -> None:
        """Serve a version that lies here already."""
        with self._lock:
            index = self.index()
            if index.current != version:
                write_record(index.after_load(version, self._keep)[0].json(), self.folder / "index.json")

    def open(self) -> Release:
        """The current release.

        Raises:
            InputError: there is none, or it is damaged.
        """
        current = self.index().current
        if current is None:
            raise InputError(f"{self.folder} holds no release; load one with serve.py load recommendations=<name>")
        return Release(self.path(current))

    def open_whole(self) -> tuple[Release, str | None]:
        """The current release, or the latest that is undamaged; and what is wrong with the current one, if anything.

        Raises:
            InputError: there is none.
        """
        try:
            return self.open(), None
        except InputError as error:
            others = (version for version in reversed(self.index().versions) if self.is_whole(version))
            other = next(others, None)
            if other is None:
                raise
            return Release(self.path(other)), f"{error}; serving version {other}"
