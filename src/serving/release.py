"""A release: everything that a service answers from, as a folder of arrays that are mapped into memory.

N tracks, of which some are kept, M new ones, A artists, K candidates of a list, P popular tracks, Q lists. Rows are in
the order of the keys of their ids (`catalog.key_of`). A *kept* track is known by its id, title and artist, has no
lists, and is never recommended; see `known_tracks.py`.
"""

import hashlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from segue.catalog import Catalog, Id
from segue.errors import InputError
from segue.picking.arm import Arm
from segue.picking.artist_tracks import ArtistTracks
from segue.picking.picker import distinct
from segue.picking.session_scores import import_faiss
from segue.runs.catalog_files import packed, text_at, texts_at
from segue.runs.profiles import Profiles
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import SessionVectors

HEAD = "release.json"
EXTENDS = "extends"
"""Key of the provenance with the versions that a release with more kept tracks was made of."""
_HEAD_KINDS = {"version": str, "experiment": str, "arms": dict, "arrays": dict, "catalogue": str, "provenance": dict}


@dataclass(frozen=True, eq=False, kw_only=True)
class ReleaseContents:
    """What a release is written from.

    Args:
        experiment: name of the experiment; together with the user it decides the arm.
        arms: `C`, `T1`, … in this order.
        catalog: all tracks.
        top_tracks: rows of the most played tracks, best first; may be empty.
        lists: for each arm that has lists, its recommendations, in rows of `catalog`.
        vectors: for each arm with `context=session` or `listener`, its vectors, in rows of `catalog`.
        files: the file of each arm that has lists; the release records where it was, for the listening room.
        profiles: of the listeners of the runs of arms with `context=listener`, by file; no part of the release.
    """

    experiment: str
    arms: Mapping[str, Arm]
    catalog: Catalog
    top_tracks: Int64[np.ndarray, "P"]
    lists: Mapping[str, Recommendations]
    vectors: dict[str, SessionVectors]
    files: Mapping[str, Path] = field(default_factory=dict)
    profiles: dict[Path, Profiles] = field(default_factory=dict)

    def write(self, folder: Path, *, provenance: Mapping[str, str]) -> str:
        """Write the release into an empty folder and return its version, a digest of its contents.

        Args:
            folder: an empty folder.
            provenance: command, commit and versions that produced it.
        """
        catalog, order = self.catalog, np.argsort(self.catalog.keys)
        row_of = np.empty(len(catalog) + 1, np.int32)  # a last one for -1
        row_of[order], row_of[-1] = np.arange(len(catalog)), -1
        arrays: dict[str, np.ndarray] = {
            **packed("track_ids", catalog.track_ids[order]),
            **({"track_keys": catalog.keys[order]} if catalog.has_texts else {}),
            "artist_of": catalog.artist_of[order].astype(np.int32),
            "top_tracks": row_of[self.top_tracks],
            **packed("titles", catalog.titles[order]),
            **packed("artists", catalog.artists),
        }
        artists = ArtistTracks.of(arrays["artist_of"], catalog.num_artists)
        arrays["by_artist"], arrays["artist_ends"] = artists.by_artist.astype(np.int32), artists.ends
        for arm, lists in self.lists.items():
            if lists.users is not None:
                arrays[f"users_{arm}"], arrays[f"lists_{arm}"] = lists.users, row_of[lists.rows]
                continue
            arrays[f"lists_{arm}"] = _renumbered(lists.rows, row_of, order)
            if not np.isnan(lists.scores).all():
                arrays[f"scores_{arm}"] = lists.scores[order]
        for arm, of_arm in self.vectors.items():
            arrays |= {f"{name}_{arm}": array for name, array in of_arm.in_order(order).arrays().items()}
        arms = {arm: given.record() for arm, given in self.arms.items()}
        origins = {f"lists_{arm}": str(file.absolute()) for arm, file in self.files.items()}
        return write_arrays(folder, self.experiment, arms, arrays, provenance={**provenance, **origins})


def write_arrays(
    folder: Path,
    experiment: str,
    arms: Mapping[str, Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
    *,
    provenance: Mapping[str, str],
) -> str:
    """Write a release into an empty folder and return its version.

    Args:
        folder: an empty folder.
        experiment: name of the experiment.
        arms: as JSON, by name.
        arrays: by name, as `Release` reads them.
        provenance: command, commit and versions that produced it, and where its lists were.
    """
    digests = {}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(array, order="C"), allow_pickle=False)
        digests[name] = digest(folder / f"{name}.npy")
    contents = {"experiment": experiment, "arms": arms, "arrays": digests}
    head = {"version": _version(contents), **contents, "catalogue": catalogue_digest(arrays), "provenance": provenance}
    (folder / HEAD).write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _version(contents)


def catalogue_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Digest of the ids, titles and artists of the tracks of a release, which other lists or arms do not change.

    Args:
        arrays: of the release, by name.
    """
    found, of = hashlib.blake2b(digest_size=6), np.asarray(arrays["artist_of"])
    for name in ("track_ids", "track_ids_text", "track_ids_ends", "titles_text", "titles_ends"):
        if name in arrays:
            found.update(np.ascontiguousarray(arrays[name]).data)
    for start in range(0, len(of), _NUM_AT_ONCE):
        for part in texts_at(arrays["artists_text"], arrays["artists_ends"], of[start : start + _NUM_AT_ONCE]):
            found.update(part.data)
    return found.hexdigest()


_NUM_AT_ONCE = 65_536  # tracks that are looked at together


def _renumbered(
    rows: Int64[np.ndarray, "N K"], row_of: Int32[np.ndarray, "N_1"], order: Int64[np.ndarray, "N"]
) -> Int32[np.ndarray, "N K"]:
    """The lists in another order, with the rows of that order."""
    lists = np.empty(rows.shape, np.int32)
    for start in range(0, len(order), _NUM_AT_ONCE):
        lists[start : start + _NUM_AT_ONCE] = row_of[rows[order[start : start + _NUM_AT_ONCE]]]
    return lists


def _version(contents: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(contents).encode(), digest_size=6).hexdigest()


def digest(path: Path) -> str:
    """Digest of the contents of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_head(folder: Path) -> dict[str, Any]:
    """Read the description of a release.

    Raises:
        InputError: it cannot be read, or it does not describe a release.
    """
    path = folder / HEAD
    try:
        return parse_head(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def parse_head(text: bytes, where: str) -> dict[str, Any]:
    """Read the description of a release from its JSON.

    Raises:
        InputError: it does not describe a release.
    """
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is damaged ({error}); load the release again") from None
    fits = (
        isinstance(head, dict)
        and all(isinstance(head.get(name), kind) for name, kind in _HEAD_KINDS.items())
        and all(name.isidentifier() and isinstance(given, str) for name, given in head["arrays"].items())
    )
    if not fits:
        raise InputError(f"{where} does not describe a release; load it again")
    if head["version"] != _version({name: head[name] for name in ("experiment", "arms", "arrays")}):
        raise InputError(f"{where} is damaged: its contents do not match its version; load the release again")
    return dict(head)


class Release:
    """A release that is mapped into memory: data is read when it is needed, and workers share the pages.

    Args:
        folder: a folder that `ReleaseContents.write` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        head = read_head(folder)
        self.version: str = head["version"]
        self.experiment: str = head["experiment"]
        self.provenance: dict[str, str] = head["provenance"]
        self.catalogue: str = head["catalogue"]
        """Digest of ids, titles and artists."""
        self.folder = folder
        try:
            self.arms: dict[str, Arm] = {arm: Arm(**given) for arm, given in head["arms"].items()}
        except (InputError, TypeError) as error:
            raise InputError(f"{folder / HEAD} is damaged: {error}; load the release again") from None
        try:
            self.arrays = arrays = {name: _mapped(folder / f"{name}.npy", of) for name, of in head["arrays"].items()}
            self.keys: Int64[np.ndarray, N] = arrays["track_keys" if "track_keys" in arrays else "track_ids"]
            """The key of the id of each track (`catalog.key_of`), ascending."""
            self._ids = (arrays["track_ids_text"], arrays["track_ids_ends"]) if "track_keys" in arrays else None
            self.kept: Int64[np.ndarray, kept] = arrays.get("kept", np.empty(0, np.int64))
            """Rows of the kept tracks, ascending."""
            self.artist_of: Int32[np.ndarray, N] = arrays["artist_of"]
            self.artists = ArtistTracks(self.artist_of, arrays["by_artist"], arrays["artist_ends"])
            self.top_tracks: Int32[np.ndarray, P] = distinct(arrays["top_tracks"])
            self._titles = arrays["titles_text"], arrays["titles_ends"]
            self._artist_names = arrays["artists_text"], arrays["artists_ends"]
            self.lists: dict[str, Int32[np.ndarray, "N K"]] = {
                arm: arrays[f"lists_{arm}"]
                for arm, given in self.arms.items()
                if given.policy == "lists" or (given.is_own and f"lists_{arm}" in arrays)
            }
            self.user_lists: dict[str, tuple[Int64[np.ndarray, Q], Int32[np.ndarray, "Q K"]]] = {
                arm: (arrays[f"users_{arm}"], arrays[f"lists_{arm}"])
                for arm, given in self.arms.items()
                if given.policy == "user_lists"
            }
            self.scores: dict[str, Float32[np.ndarray, "N K"]] = {  # NaN where a list has none
                arm: arrays[f"scores_{arm}"] for arm in self.lists if f"scores_{arm}" in arrays
            }
            self.vectors: dict[str, SessionVectors] = {
                arm: SessionVectors.of_arrays(
                    {name.removesuffix(f"_{arm}"): array for name, array in arrays.items() if name.endswith(f"_{arm}")},
                    num_tracks=len(self.keys),
                    where=str(folder),
                )
                for arm, given in self.arms.items()
                if given.is_of_session
            }
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder} is damaged: {error} is missing or wrong; load the release again") from None
        if self.vectors:
            import_faiss()  # now, and not at the first request

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def has_texts(self) -> bool:
        """Whether the ids are texts."""
        return self._ids is not None

    @property
    def extends(self) -> list[str]:
        """Versions with the same lists that know fewer tracks; this one was made of them."""
        return self.provenance.get(EXTENDS, "").split()

    def texts(self, name: str) -> tuple[UInt8[np.ndarray, "letters"], Int64[np.ndarray, "n"]]:
        """The texts of the arrays `<name>_text` and `<name>_ends`; see `catalog_files.packed`.

        Args:
            name: `titles` by track, `artists` by artist, or `track_ids` where they are texts.
        """
        return self.arrays[f"{name}_text"], self.arrays[f"{name}_ends"]

    def row_of(self, key: int) -> int:
        """Row of the track whose id has this key (`catalog.key_of`); -1 if it is not in the catalogue."""
        row = int(self.keys.searchsorted(key))
        return row if row < len(self.keys) and self.keys[row] == key else -1

    def id_of(self, row: int) -> Id:
        """The id of a track."""
        return int(self.keys[row]) if self._ids is None else text_at(*self._ids, row)

    def title(self, row: int) -> str:
        """The title of a track; empty where it is unknown."""
        return text_at(*self._titles, row)

    def track(self, row: int) -> dict[str, Any]:
        """The record of a track: `artist`, `title`, `track`."""
        artist, title = text_at(*self._artist_names, int(self.artist_of[row])), self.title(row)
        return {"artist": artist or None, "title": title, "track": self.id_of(row)}

    def recommended_ids(self, row: int) -> list[Id]:
        """Ids that the first arm with lists of tracks recommends after a track, best first; empty without any."""
        lists = next(iter(self.lists.values()), None)
        return [] if lists is None else [*map(self.id_of, lists[row][lists[row] >= 0].tolist())]

    def recommended(self, arm: str, row: int) -> list[dict[str, Any]]:
        """The list of an arm after a track, best first: records of tracks, with scores if the file has them."""
        if arm not in self.lists:
            return []
        entries = [self.track(candidate) for candidate in self.lists[arm][row].tolist() if candidate >= 0]
        if arm in self.scores:
            scores = self.scores[arm][row].astype(np.float64).round(6).tolist()
            for entry, score in zip(entries, scores, strict=False):
                entry |= {} if np.isnan(score) else {"score": score}
        return entries


def _mapped(path: Path, expected_digest: str) -> np.ndarray:
    try:
        if digest(path) != expected_digest:
            raise ValueError("it has changed since it was written")
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}; load the release again") from None
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_RANDOM)  # otherwise each list that is not in memory is read with 30 others
    return array.view(np.ndarray)  # slices of np.memmap are slower
