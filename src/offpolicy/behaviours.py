"""What the arms of a log recommended, from the releases beside it, and the candidate of an estimate."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.choices import KINDS, Behaviour
from segue.runs.catalog_files import read_catalog, read_top_tracks
from segue.runs.recommendations import Recommendations, file_digest, new_rows

_NUM_POPULAR = 100
"""Most played tracks among which `popular` chooses."""

_SERVICE: dict[str, Any] = {"fallbacks": ("artist", "popular"), "draws": 20}
_SIMULATOR: dict[str, Any] = {"fallbacks": (), "draws": 21}
"""What replaces a list without a track left, and how often a track is drawn until it is not played."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LogFolder:
    """A folder with logs, and what is beside them.

    Args:
        logs: the folder.
        catalog: the catalogue of the tracks.
        popular: distinct rows of the most played tracks; may be empty.
        releases: file `release.json` of each release, by its version.
        is_served: whether a service wrote the logs; its fallbacks are others than those of the simulator.
    """

    logs: Path
    catalog: Catalog
    popular: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    releases: Mapping[str, Path]
    is_served: bool = False

    @classmethod
    def open(cls, logs: Path, tracks: Path | None = None) -> "LogFolder":
        """Find the catalogue and the releases of logs: in the folder, or in the run folder that it is part of.

        Args:
            logs: folder with event logs.
            tracks: file of the catalogue; None to look for `tracks.json`.

        Raises:
            InputError: there is no catalogue, or it cannot be read.
        """
        if not logs.is_dir():
            raise InputError(f"logs={logs}: no such folder; name a folder with data.json files in it or below it")
        beside = (logs, *logs.absolute().parents[:2])
        if tracks is None:
            tracks = next((path for folder in beside if (path := folder / "tracks.json").is_file()), None)
        if tracks is None:
            raise InputError(f"logs={logs}: no tracks.json in it or beside it; name the catalogue, tracks=<file>")
        catalog, top_file = read_catalog(tracks), tracks.with_name("top_tracks.json")
        popular = read_top_tracks(top_file, catalog) if top_file.is_file() else np.empty(0, np.int64)
        simulated = list(logs.rglob("release.json"))
        served = sorted(path for folder in beside for path in folder.glob("store/*/release.json"))
        if not len(popular) and served:
            popular = _popular_of(served[-1].parent, _rows_of(served[-1].parent, catalog))
        return cls(
            logs=logs,
            catalog=catalog,
            popular=_distinct(popular),
            releases={str(version): path for path in (*simulated, *served) if (version := _json(path).get("version"))},
            is_served=bool(served),
        )

    def behaviour(self, experiments: str, release: str) -> Behaviour | None:
        """What the arm of a line recommended; None if it is not known.

        Args:
            experiments: text of the key `experiments` of the line.
            release: its key `release`.
        """
        if (path := self.releases.get(release)) is None:
            return None
        contents = _json(path)
        arm = _parsed(experiments).get(str(contents.get("experiment")))
        given = contents["arms"].get(arm)
        if given is None or given.get("policy") not in KINDS or given.get("context") == "session":
            return None
        if "world" in contents:
            return self._simulated(given)
        return self._served(path.parent, str(arm), given)

    def candidate(
        self,
        name: str,
        *,
        pick: str,
        artist_gap: int,
        file: Path | None,
        exploration: int | float = 0.0,
        exploration_plays: int = 1,
    ) -> Behaviour:
        """The recommender that is estimated. If its list has no track left, it does what the writer of the logs does:
        a service uses its fallbacks, and the simulator draws any track.

        Args:
            name: `random`, `popular`, `sticky_artist`, or any other name of a recommender with lists.
            pick: how it picks from its lists.
            artist_gap: number of previous tracks whose artists it avoids.
            file: its lists; None without.
            exploration: share of its picks from lists that are among new tracks.
            exploration_plays: tracks with fewer plays in training are new.

        Raises:
            InputError: the lists cannot be read, are for another catalogue, or do not say what is new; or the most
                played tracks are not known.
        """
        if name == "popular" and file is None and not len(self.popular):
            raise InputError(
                f"candidate=popular: logs={self.logs} have no top_tracks.json beside the catalogue; copy it there, or "
                "name a catalogue that has one: tracks=<path>/tracks.json"
            )
        fallbacks = _SERVICE if self.is_served else _SIMULATOR
        if file is None:
            return self._make({"policy": name, "pick": "uniform", "artist_gap": 0}, None, **fallbacks)
        given = Recommendations.read(file, self.catalog)
        policy = "lists" if given.users is None else "user_lists"
        how = {"policy": policy, "pick": pick, "artist_gap": artist_gap, "exploration": exploration}
        new = new_rows(given.plays, exploration_plays, str(file)) if exploration else None
        return self._make(how, given, new=new, **fallbacks)

    def _simulated(self, given: Mapping[str, Any]) -> Behaviour | None:
        if given["policy"] == "popular":
            return self._make(given, None, num_popular=given["num_tracks"], **_SIMULATOR)
        if "lists" not in given:
            return self._make(given, None, **_SIMULATOR)
        file = Path(given["file"])
        if not file.is_file() or file_digest(file) != given["lists"]:
            return None
        lists = Recommendations.read(file, self.catalog)
        new = new_rows(lists.plays, given["exploration_plays"], str(file)) if given.get("exploration") else None
        return self._make(given, lists, new=new, **_SIMULATOR)

    def _served(self, folder: Path, arm: str, given: Mapping[str, Any]) -> Behaviour:
        rows, known = _rows_of(folder, self.catalog), None
        if (file := folder / f"lists_{arm}.npy").is_file():
            known, users = rows[np.load(file, allow_pickle=False)], None
            if (of_users := folder / f"users_{arm}.npy").is_file():
                users = np.load(of_users, allow_pickle=False)
            else:
                by_row = np.full((len(self.catalog), known.shape[1]), -1, np.int64)
                by_row[rows[:-1]] = known
                known = by_row
            known = Recommendations(rows=known, scores=np.full(known.shape, np.nan, np.float32), users=users)
        new = folder / f"new_{arm}.npy"
        explored = np.sort(rows[np.load(new, allow_pickle=False)]) if new.is_file() else None
        return self._make(given, known, popular=_distinct(_popular_of(folder, rows)), new=explored, **_SERVICE)

    def _make(
        self,
        given: Mapping[str, Any],
        lists: Recommendations | None,
        *,
        fallbacks: tuple[str, ...],
        draws: int,
        popular: np.ndarray | None = None,
        new: np.ndarray | None = None,
        num_popular: int = _NUM_POPULAR,
    ) -> Behaviour:
        top = self.popular if popular is None else popular
        return Behaviour(
            policy=str(given["policy"]),
            artist_of=np.asarray(self.catalog.artist_of, np.int64),
            pick=str(given.get("pick", "uniform")),
            artist_gap=int(given.get("artist_gap", 0)),
            lists=np.empty((0, 0), np.int32) if lists is None else lists.rows.astype(np.int32),
            users=np.empty(0, np.int64) if lists is None or lists.users is None else np.asarray(lists.users),
            popular=top[:num_popular],
            fallbacks=tuple(source for source in fallbacks if lists is not None),
            draws=draws,
            exploration=float(given.get("exploration", 0.0)),
            new=np.empty(0, np.int64) if new is None else np.asarray(new, np.int64),
        )


def _rows_of(release: Path, catalog: Catalog) -> np.ndarray:
    """Row in a catalogue of each track of a release of the service, and −1 for its −1."""
    return np.append(catalog.rows_of(np.load(release / "track_ids.npy", allow_pickle=False)), -1)


def _popular_of(release: Path, rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows[np.load(release / "top_tracks.npy", allow_pickle=False)])


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Each row once, in the order of the first; −1, a track that the catalogue does not have, is left out."""
    return np.array([row for row in dict.fromkeys(rows.tolist()) if row >= 0], np.int64)


def _json(path: Path) -> dict[str, Any]:
    return _parsed(path.read_text(encoding="utf-8"))


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
