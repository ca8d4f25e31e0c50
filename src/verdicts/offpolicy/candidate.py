"""The candidate of an estimate, `candidate=`: a recommender, and with which probabilities it picks the next track."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.last_ten import LastTen, check_no_other_rules
from segue.picking.listener_scores import past_of
from segue.picking.picker import (
    LEARNED,
    LISTS,
    NUM_POPULAR,
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
from segue.runs.recommendations import Recommendations, lists_of
from segue.runs.recommender_names import FILES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import CONTEXTS, FILE, LAST_TEN, SessionVectors, context_of
from segue.settings import Setting, checked, refuse_unknown
from segue.verdicts.offpolicy.decisions import Decisions

_WORDS = ("popular", "random", "sticky_artist")  # recommenders without lists that can be estimated
_NUM_LISTS = Setting("last tracks whose lists are searched", least=1, most=MOST_LISTS)


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidate:
    """A recommender that is estimated.

    Q lists of K tracks.

    Args:
        name: as it was typed.
        picker: its rules.
        lists: rows of the list of each track, or of each of `users`; -1 fills up; no columns for other policies.
        users: keys of the users of the lists (`catalog.key_of`), ascending.
        last_ten: the rule that takes the place of the picker where it answers from the last ten plays of the user.
        search: finds the best tracks where it answers from the session, or from the session and the listener.
        before: what its run knew of listeners, with rows of tracks.
        familiar: see `SessionSearch.best`.
    """

    name: str
    picker: Picker
    lists: Int32[np.ndarray, "Q K"]
    users: Int64[np.ndarray, "Q"] | None = None
    last_ten: LastTen | None = None
    search: SessionSearch | None = None
    before: Profiles
    familiar: float = 1.0

    def choices(self, some: Decisions) -> Choices:
        """Compute the probabilities of the first recommended track of each session."""
        if self.last_ten is not None:
            return self.last_ten.choices(some.last_plays())
        heard = some.of("track")[:, None]
        return self.picker.choices(self._candidates(some, heard), heard)

    def _candidates(self, some: Decisions, heard: Int64[np.ndarray, "V 1"]) -> Int[np.ndarray, "V k"]:
        if self.users is not None:
            return lists_of(some.of("user_id"), self.users, self.lists)
        if self.search is None:
            return self.lists[heard[:, 0]] if self.picker.has_lists else np.empty((len(heard), 0), np.int32)
        past = past_of(some.profiles(self.before), heard) if self.search.knows_listeners else None
        k, shares = self.search.num_kept(self.picker), some.of("time").astype(np.float32)[:, None]
        return self.search.best(heard, shares, k, past, some.of("timestamp"), self.familiar)


def candidate_of(
    given: Any,
    *,
    locate: Callable[[str], Path],
    defaults: Mapping[str, Any],
    catalog: Catalog,
    popular: Int64[np.ndarray, "P"],
) -> Candidate:
    """Read `candidate=`.

    Args:
        given: the name of a recommender, or a mapping with `recommender` and some of the settings.
        locate: finds the file of a run or a model.
        defaults: its settings, those of an arm of the simulator, with their defaults.
        catalog: the catalogue of the log.
        popular: distinct rows of its most played tracks; may be empty.

    Raises:
        InputError: it is no recommender, a setting is out of range, or its files cannot be read or are of another
            catalogue.
    """
    if (name := recommender_name(given)) is None:
        raise InputError(
            f"candidate must name a recommender, got {given!r}; such as run:<id>, or {{recommender: run:<id>}}"
        )
    own = {key: value for key, value in given.items() if key != "recommender"} if isinstance(given, Mapping) else {}
    refuse_unknown(own, list(defaults), key="candidate")
    named, artists = parse_name(name), ArtistTracks.of(catalog.artist_of)
    if named.kind == "url" or (named.kind == "word" and name not in _WORDS):
        raise InputError(unknown_recommender("candidate", name, list(_WORDS), FILES))
    if named.kind == "word":
        if own:
            raise InputError(f"candidate: {next(iter(own))} applies to lists, and {name} has none; leave it out")
        if name == "popular" and not len(popular):
            raise InputError("candidate=popular: there is no top_tracks.json beside the catalogue; copy it there")
        picker = Picker(policy=name, artists=artists, popular=popular[:NUM_POPULAR])
        return Candidate(name=name, picker=picker, lists=np.empty((0, 0), np.int32), before=_no_profiles())
    file, how = locate(named.name) if named.kind == "stored" else Path(named.name), {**defaults, **own}
    if (context := context_of("candidate", how.pop("context"), file)) == LAST_TEN:
        check_no_other_rules("candidate", own)
    num_lists = checked("candidate: num_lists", how.pop("num_lists"), int, _NUM_LISTS)
    check_picking(how, "candidate: ")
    familiar = familiar_share(how.pop("familiar", LEARNED), "candidate: ")
    check_familiar("candidate: ", familiar, context)
    lists, num_plays = Recommendations.read(file, catalog), how.pop("exploration_plays")
    rows, exploration = lists.rows.astype(np.int32), float(how.pop("exploration"))
    new = new_rows(lists.plays, num_plays, str(file)) if exploration else np.empty(0, np.int64)
    how |= {"policy": LISTS[lists.users is not None], "exploration": exploration}
    picker = Picker(artists=artists, new=new, popular=popular[:NUM_POPULAR], **how)
    found = Candidate(name=name, picker=picker, lists=rows, users=lists.users, before=_no_profiles(), familiar=familiar)
    if context == LAST_TEN:
        return replace(found, last_ten=LastTen(lists=rows, artists=artists))
    return found if context == CONTEXTS[0] else _searching(found, file, context, num_lists, catalog)


def _searching(found: Candidate, file: Path, context: str, num_lists: int, catalog: Catalog) -> Candidate:
    """The candidate with what answers from the session, and with `context=listener` from the listener too."""
    vectors, before, picker = SessionVectors.read(file.with_name(FILE), catalog), found.before, found.picker
    if context != "listener":
        vectors = replace(vectors, listener=None)
    elif (path := file.with_name(PROFILES)).is_file():
        before = Profiles.read(path).in_rows(catalog)
    how: dict[str, Any] = {"num_lists": num_lists, "may_repeat": not picker.avoids_heard}
    search = SessionSearch(vectors, found.lists, artist_of=catalog.artist_of, **how)
    if found.familiar < 1:
        search.vectors = replace(vectors, known_gap=search.known_gap(before, picker.artist_gap))
    return replace(found, search=search, before=before)


def _no_profiles() -> Profiles:
    return Profiles.of(np.empty(0, np.int64), np.zeros(0, ENTRY))


def catalog_of_logs(logs: Path, tracks: Path | None) -> tuple[Catalog, Int64[np.ndarray, "P"], bool]:
    """Find the catalogue of logs: in the folder, or in the run folder that it is part of.

    Args:
        logs: folder with event logs.
        tracks: file of the catalogue; None to look for `tracks.json`.

    Returns:
        The catalogue; distinct rows of its most played tracks, none without a `top_tracks.json` beside it; and whether
        a service wrote the logs, because its releases are there.

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
    is_served = any(path for folder in beside for path in folder.glob("store/*/release.json"))
    return catalog, distinct(popular), is_served
