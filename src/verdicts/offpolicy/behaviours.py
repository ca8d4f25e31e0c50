"""What the arms of a log recommended, from the releases beside it, and the candidate of an estimate: `candidate=`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.last_ten import LastTen, check_no_other_rules
from segue.picking.listener_scores import past_of
from segue.picking.picker import (
    LEARNED,
    LISTS,
    NUM_POPULAR,
    POLICIES,
    ArtistTracks,
    Choices,
    Picker,
    check_familiar,
    check_picking,
    distinct,
    familiar_share,
    new_rows,
)
from segue.picking.session_search import MOST_LISTS, SessionSearch
from segue.runs.catalog_files import read_catalog, read_top_tracks
from segue.runs.profiles import ENTRY, Profiles
from segue.runs.profiles import FILE as PROFILES
from segue.runs.recommendations import Recommendations, file_digest, lists_of
from segue.runs.recommender_names import FILES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import CONTEXTS, FILE, LAST_TEN, SessionVectors, context_of
from segue.settings import Setting, checked
from segue.verdicts.abtest.events import json_object
from segue.verdicts.offpolicy.decisions import Decisions

_WORDS = ("popular", "random", "sticky_artist")  # recommenders without lists that can be estimated
_HOW = ("pick", "artist_gap", "exploration", "exploration_plays", "familiar")  # a candidate picks from its lists
_SETTINGS = (*_HOW, "fallback", "context", "num_lists")
_NOBODY = Profiles.of(np.empty(0, np.int64), np.zeros(0, ENTRY))
_NUM_LISTS = Setting("last tracks whose lists are searched", least=1, most=MOST_LISTS)
# what simulate.py calls the arms that answer from the session
_CONTEXT_OF = dict(zip(("session_lists", "listener_lists"), CONTEXTS[1:], strict=True))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recommender that is estimated.

    Args:
        name: as it was typed.
        pick: how it picks from its lists.
        artist_gap: number of previous tracks whose artists it avoids.
        file: its lists; None without.
        exploration: share of its picks that are among new tracks.
        exploration_plays: tracks with fewer plays in training are new.
        familiar: share of its picks that the listener may know; below 1 with `listener` only.
        fallback: what follows where a list has no track left; None for that of whatever wrote the logs.
        context: what it answers from; with `last_ten` no other setting applies.
        num_lists: number of last tracks whose lists are searched, with `session` and `listener`.
        where: begins the names of its settings in messages.

    Raises:
        InputError: a setting is out of range.
    """

    name: str
    pick: str = "uniform"
    artist_gap: int = 0
    file: Path | None = None
    exploration: int | float = 0.0
    exploration_plays: int = 1
    familiar: int | float = 1.0
    fallback: str | None = None
    context: str = "last"
    num_lists: int = 4
    where: InitVar[str] = "candidate: "

    def __post_init__(self, where: str) -> None:
        fallback = {} if self.fallback is None else {"fallback": self.fallback}
        check_picking({name: getattr(self, name) for name in _HOW} | fallback, where)
        checked(f"{where}num_lists", self.num_lists, int, _NUM_LISTS)


def candidate_of(given: Any, *, locate: Callable[[str], Path], exploration_plays: int = 1) -> Candidate:
    """Read `candidate=`.

    Args:
        given: the name of a recommender, or a mapping with `recommender` and optionally `pick`, `artist_gap`,
            `exploration`, `exploration_plays`, `familiar`, `fallback`, `context` and `num_lists`.
        locate: finds the file of a run or a model.
        exploration_plays: that of a candidate that explores and does not give it.

    Raises:
        InputError: it is no recommender, or a setting is out of range.
    """
    if (name := recommender_name(given)) is None:
        raise InputError(
            f"candidate must name a recommender, got {given!r}; such as run:<id>, or {{recommender: run:<id>}}"
        )
    own = {key: value for key, value in given.items() if key != "recommender"} if isinstance(given, Mapping) else {}
    if unknown := sorted(map(str, set(own) - set(_SETTINGS))):
        raise InputError(
            f"candidate: {unknown[0]!r} is not a setting of a candidate; its settings are {', '.join(_SETTINGS)}"
        )
    named, how = parse_name(name), {"exploration_plays": exploration_plays, **own}
    context = how.pop("context", None)
    found = Candidate(name=name, **how | {"familiar": familiar_share(how.get("familiar", LEARNED), "candidate: ")})
    if named.kind == "url" or (named.kind == "word" and name not in _WORDS):
        raise InputError(unknown_recommender("candidate", name, list(_WORDS), FILES))
    if named.kind == "word":
        if own:
            raise InputError(f"candidate: {next(iter(own))} applies to lists, and {name} has none; leave it out")
        return found
    file = locate(named.name) if named.kind == "stored" else Path(named.name)
    if (answers_from := context_of("candidate", context, file)) == LAST_TEN:
        check_no_other_rules("candidate", own)
    check_familiar("candidate: ", found.familiar, answers_from)
    return replace(found, file=file, context=answers_from)


@dataclass(frozen=True, eq=False, kw_only=True)
class Behaviour:
    """How a recommender picks the next track.

    Q lists of K tracks.

    Args:
        picker: its rules.
        lists: rows of the list of each track, or of each of `users`; -1 fills up; no columns for other policies.
        users: keys of the users of the lists (`catalog.key_of`), ascending; for `user_lists`.
        last_ten: the rule that takes the place of the picker where it answers from the last ten plays of the user.
        search: finds the best tracks where it answers from the session, or from the session and the listener.
        before: what it knew of listeners before the log, with rows of tracks.
        is_older: whether this is moved to a time before the log; see `Decisions.profiles`.
        familiar: see `SessionSearch.best`.
    """

    picker: Picker
    lists: Int32[np.ndarray, "Q K"]
    users: Int64[np.ndarray, "Q"] | None = None
    last_ten: LastTen | None = None
    search: SessionSearch | None = None
    before: Profiles = _NOBODY
    is_older: bool = False
    familiar: float = 1.0

    @property
    def knows_listeners(self) -> bool:
        """Whether its choices depend on what the listener heard in earlier sessions."""
        return self.search is not None and self.search.knows_listeners

    def choices(self, some: Decisions, step: int) -> Choices:
        """Compute the probabilities of the track after some of each session.

        Args:
            some: the sessions.
            step: number of tracks of the session that had been played, at least 1.
        """
        if self.last_ten is not None:
            return self.last_ten.choices(some.last_plays(step))
        (heard, shares), past = some.newest_first(step), None
        if self.users is not None:
            candidates = lists_of(some.users, self.users, self.lists)
        elif self.search is not None:
            if self.knows_listeners:
                past = past_of(some.profiles(self.before, is_older=self.is_older), heard)
            k = self.search.num_kept(self.picker)
            candidates = self.search.best(heard, shares, k, past, some.times_ms[some.first + step - 1], self.familiar)
        else:
            candidates = self.lists[heard[:, 0]] if self.picker.has_lists else np.empty((len(heard), 0), np.int32)
        return self.picker.choices(candidates, heard)


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
        found = [tracks] if tracks else [path for folder in beside if (path := folder / "tracks.json").is_file()]
        if not found:
            raise InputError(f"logs={logs}: no tracks.json in it or beside it; name the catalogue, tracks=<file>")
        catalog, top_file = read_catalog(found[0]), found[0].with_name("top_tracks.json")
        popular = read_top_tracks(top_file, catalog) if top_file.is_file() else np.empty(0, np.int64)
        served = sorted(path for folder in beside for path in folder.glob("store/*/release.json"))
        if not len(popular) and served:
            popular = _popular_of(served[-1].parent, _rows_of(served[-1].parent, catalog))
        files = {version: path for path in (*logs.rglob("release.json"), *served) for version in _versions(path)}
        return cls(
            logs=logs,
            catalog=catalog,
            popular=distinct(popular),
            releases=files,
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
        arm = str(json_object(experiments).get(str(contents.get("experiment"))))
        with _read(path):
            given = contents["arms"].get(arm)
            if given is None or given.get("policy") not in (*POLICIES, *_CONTEXT_OF):
                return None
            how = {name: given[name] for name in (*_HOW, "fallback") if name in given}
            check_picking(how, f"{path}: arms.{arm}.")
            given = {**given, "familiar": familiar_share(given.get("familiar", LEARNED))}
            return self._simulated(given) if "world" in contents else self._served(path.parent, arm, given)

    def candidate(self, given: Candidate) -> Behaviour:
        """The recommender that is estimated. If its list has no track left, it does what the writer of the logs does:
        a service uses its fallbacks, and the simulator draws any track.

        Raises:
            InputError: the lists cannot be read, are for another catalogue, or do not say what is new; or the most
                played tracks are not known.
        """
        if given.name == "popular" and given.file is None and not len(self.popular):
            raise InputError(
                f"candidate=popular: logs={self.logs} have no top_tracks.json beside the catalogue; copy it there, or "
                "name a catalogue that has one: tracks=<path>/tracks.json"
            )
        if given.file is None:
            return self._make({"policy": given.name})
        how = {name: getattr(given, name) for name in _HOW}
        how["fallback"] = given.fallback or ("artist" if self.is_served else "random")
        return self._listed(how | {"context": given.context, "num_lists": given.num_lists}, given.file)

    def _simulated(self, given: Mapping[str, Any]) -> Behaviour | None:
        if "lists" not in given:
            return self._make(given, num_popular=given.get("num_tracks", NUM_POPULAR))
        file = Path(given["file"])
        names = {"lists": file.name, "vectors": FILE, "profiles": PROFILES}
        known = {file.with_name(name): given[kind] for kind, name in names.items() if kind in given}
        if not all(path.is_file() and file_digest(path) == digest for path, digest in known.items()):
            return None
        if given.get("familiar", 1) < 1 and "known_gap" not in given:  # older versions left tracks out
            return None
        return self._listed({"context": _CONTEXT_OF.get(given["policy"], "last"), **given}, file, is_older=True)

    def _listed(self, given: Mapping[str, Any], file: Path, *, is_older: bool = False) -> Behaviour:
        lists = Recommendations.read(file, self.catalog)
        new = new_rows(lists.plays, given["exploration_plays"], str(file)) if given.get("exploration") else None
        vectors = SessionVectors.read(file.with_name(FILE), self.catalog) if given["context"] in CONTEXTS[1:] else None
        made = self._make({**given, "policy": LISTS[lists.users is not None]}, lists, new=new, vectors=vectors)
        found = replace(made, before=self._profiles(made, file), is_older=is_older)
        if found.search is not None and found.familiar < 1:
            gap = given["known_gap"] if is_older else found.search.known_gap(found.before, found.picker.artist_gap)
            found.search.vectors = replace(found.search.vectors, known_gap=gap)
        return found

    def _profiles(self, of: Behaviour, file: Path) -> Profiles:
        """What the run of a file of lists knew of listeners, with rows of tracks."""
        if not of.knows_listeners or not (path := file.with_name(PROFILES)).is_file():
            return _NOBODY
        return Profiles.read(path).in_rows(self.catalog)

    def _served(self, folder: Path, arm: str, given: Mapping[str, Any]) -> Behaviour | None:
        rows, known = _rows_of(folder, self.catalog), None
        if (lists := _array(folder / f"lists_{arm}.npy")) is not None:
            users, of_lists = _array(folder / f"users_{arm}.npy"), rows[lists]
            if users is None:
                of_lists = np.full((len(self.catalog) + 1, lists.shape[1]), -1, np.int64)
                of_lists[rows[:-1]] = rows[lists]  # the last row is of tracks that the catalogue does not have
                of_lists = of_lists[:-1]
            known = Recommendations(rows=of_lists, scores=np.full(of_lists.shape, np.nan, np.float32), users=users)
        new = _array(folder / f"new_{arm}.npy")
        explored = None if new is None else np.sort(rows[new])
        kept = _array(folder / "kept.npy")
        picked = rows[:-1] if kept is None else np.delete(rows[:-1], kept)
        others = np.setdiff1d(np.arange(len(self.catalog)), picked)  # the release does not have them, or has kept them
        artists = ArtistTracks.of(self.catalog.artist_of, kept=others) if len(others) else self._artists
        how: dict[str, Any] = {"popular": distinct(_popular_of(folder, rows)), "new": explored, "artists": artists}
        if given.get("context") in CONTEXTS[1:]:
            own = {path.name.removesuffix(f"_{arm}.npy"): np.load(path) for path in folder.glob(f"*_{arm}.npy")}
            vectors = SessionVectors.of_arrays(own, num_tracks=len(rows) - 1, where=str(folder))
            if 0 < given.get("familiar", 1) < 1 and vectors.known_gap is None:  # as in `_simulated`
                return None
            how["vectors"] = vectors.at_rows(rows[:-1], len(self.catalog) + 1)  # the last row as above
        made = self._make({"fallback": "artist", **given}, known, **how)
        file = dict(_json(folder / "release.json").get("provenance", {})).get(f"lists_{arm}")
        return made if file is None else replace(made, before=self._profiles(made, Path(file)))

    def _make(
        self,
        given: Mapping[str, Any],
        lists: Recommendations | None = None,
        *,
        popular: np.ndarray | None = None,
        new: np.ndarray | None = None,
        num_popular: int = NUM_POPULAR,
        artists: ArtistTracks | None = None,
        vectors: SessionVectors | None = None,
    ) -> Behaviour:
        picker = Picker(
            policy=str(given["policy"]),
            artists=artists or self._artists,
            pick=str(given.get("pick", "uniform")),
            artist_gap=int(given.get("artist_gap", 0)),
            exploration=float(given.get("exploration", 0.0)),
            new=np.empty(0, np.int64) if new is None else np.asarray(new, np.int64),
            popular=(self.popular if popular is None else popular)[:num_popular],
            fallback=str(given.get("fallback", "random")),
        )
        if lists is None:
            return Behaviour(picker=picker, lists=np.empty((0, 0), np.int32))
        rows = lists.rows.astype(np.int32)
        rule = LastTen(lists=rows, artists=picker.artists) if given.get("context") == LAST_TEN else None
        search = None
        if vectors is not None:
            artists_of = self.catalog.artist_of
            search = SessionSearch(
                vectors if given["context"] == "listener" else replace(vectors, listener=None),
                rows,
                num_lists=int(given["num_lists"]),
                may_repeat=not picker.avoids_heard,
                artist_of=np.append(artists_of, artists_of.max(initial=0) + 1)[: len(rows)],  # the last as in `_served`
            )
        how: dict[str, Any] = {"last_ten": rule, "search": search, "familiar": float(given.get("familiar", 1.0))}
        return Behaviour(picker=picker, lists=rows, users=lists.users, **how)

    @cached_property
    def _artists(self) -> ArtistTracks:
        return ArtistTracks.of(self.catalog.artist_of)


def _array(file: Path) -> np.ndarray | None:
    return np.load(file, allow_pickle=False) if file.is_file() else None


def _rows_of(release: Path, catalog: Catalog) -> np.ndarray:
    """Row in a catalogue of each track of a release of the service, and −1 for its −1."""
    keys = _array(release / "track_keys.npy")  # of ids that are texts
    return np.append(catalog.rows_of(np.load(release / "track_ids.npy") if keys is None else keys), -1)


def _popular_of(release: Path, rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows[np.load(release / "top_tracks.npy", allow_pickle=False)])


def _versions(path: Path) -> list[str]:
    """The version of a release, and those with the same lists that knew fewer tracks."""
    head = _json(path)
    with _read(path):
        own = [str(head["version"])] if head.get("version") else []
        return [*dict(head.get("provenance", {})).get("extends", "").split(), *own]


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """Read the description of a release, which anybody may have changed."""
    try:
        yield
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} describes no release ({type(error).__name__}: {error}); leave its logs out, or copy it again"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    return json_object(path.read_text(encoding="utf-8"))
