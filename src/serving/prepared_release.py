"""Reads what the arms of an experiment need for a release."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from segue.assignment import check_arms
from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.last_ten import check_no_other_rules
from segue.picking.picker import LEARNED, LISTS, POLICIES, check_familiar, check_picking, familiar_share, new_rows
from segue.picking.session_search import SessionSearch
from segue.runs.catalog_files import read_catalog, read_top_tracks
from segue.runs.profiles import FILE as PROFILES
from segue.runs.profiles import Profiles
from segue.runs.recommendations import Recommendations, key_of_lines
from segue.runs.recommender_names import FILES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import FILE, LAST_TEN, SessionVectors, context_of
from segue.serving.release import Arm, ReleaseContents

_WORDS = sorted(set(POLICIES) - set(LISTS))


def prepare_release(
    arms: Any,
    *,
    experiment: str,
    pick: str,
    artist_gap: int,
    exploration: float = 0.0,
    exploration_plays: int = 1,
    familiar: float | int | str = LEARNED,
    fallback: str = "artist",
    context: str | None,
    num_lists: int,
    max_tracks: int,
    tracks: Path | None,
    world: Callable[[], Any],
    locate: Callable[[str], Path],
) -> ReleaseContents:
    """Read what the arms of an experiment need.

    The catalogue comes from `tracks`, or from the first file with lists of tracks, or, where no arm has a file, from
    the embedded world. The most played tracks come from the `top_tracks.json` beside that file, or from the world.

    Args:
        arms: for each arm the name of a recommender, or a mapping with `recommender` and optionally `pick`,
            `artist_gap`, `exploration`, `exploration_plays`, `familiar`, `fallback`, `context` and `num_lists`.
        experiment: name of the experiment.
        pick: how arms without a `pick` of their own pick from their lists.
        artist_gap: gap of arms without one of their own.
        exploration: share of the picks among new tracks, for arms without one of their own.
        exploration_plays: tracks with fewer plays in training are new, for arms without one of their own.
        familiar: aimed share of known tracks, or `learned`, for arms with `listener` and without one of their own.
        fallback: what follows where a list has no track left, for arms without one of their own.
        context: what arms without one of their own answer from (`ARM_CONTEXTS`); None for that of their run.
        num_lists: number of last tracks whose lists are searched unless it is `last`, for arms without one of their
            own.
        max_tracks: number of tracks of a session that are remembered; no `artist_gap` can be larger.
        tracks: a `tracks.json`.
        world: builds the embedded world, which has a `catalog` and `top_tracks`.
        locate: finds the `recommendations.jsonl` of a run or a model.

    Raises:
        InputError: an arm names a recommender that cannot be served, a setting is out of range, or a file is missing
            or damaged.
    """
    if not isinstance(arms, Mapping):
        raise InputError(
            f"arms must give each arm a recommender, such as arms={{C: random, T1: popular}}, got {arms!r}"
        )
    if not experiment:
        raise InputError("experiment must have a name, got an empty one")
    checked, files = dict[str, Arm](), dict[str, Path]()
    defaults = {"pick": pick, "artist_gap": artist_gap, "context": context, "num_lists": num_lists}
    defaults |= {"exploration": exploration, "exploration_plays": exploration_plays, "fallback": fallback}
    defaults["familiar"] = familiar
    names = {arm: f"arms.{arm}" if len(arms) > 1 else "recommendations" for arm in check_arms(arms)}  # as typed
    for arm, where in names.items():
        checked[arm], file = _arm(where, arms[arm], defaults, locate)
        if checked[arm].artist_gap > max_tracks:
            raise InputError(
                f"artist_gap must be at most the {max_tracks} tracks of a session that are remembered, got "
                f"{checked[arm].artist_gap}; set sessions.max_tracks of the service at least as high"
            )
        if file is not None:
            files[arm] = file
    catalog, top, lists = _catalogue(files, tracks, world)
    if not len(top) and any(arm.policy == "popular" for arm in checked.values()):
        raise InputError("popular needs a top_tracks.json beside the recommendations or tracks=; there is none")
    vectors, profiles = {}, dict[Path, Profiles]()
    for arm, file in files.items():
        where = names[arm]
        if arm not in lists:
            lists[arm] = Recommendations.read(file, catalog)
        if lists[arm].users is not None:
            checked[arm] = replace(checked[arm], policy="user_lists", context="last")
            if (typed := _settings(arms[arm]).get("context", context)) not in (None, "last"):
                raise InputError(f"{where}: context={typed} needs lists of tracks, and {file} has lists of users")
        if checked[arm].exploration:
            new_rows(lists[arm].plays, checked[arm].exploration_plays, f"{where}: {file}")
        if checked[arm].is_of_session:
            vectors[arm] = SessionVectors.read(file.with_name(FILE), catalog)
            if checked[arm].context == "listener" and (beside := file.with_name(PROFILES)).exists():
                profiles[beside] = Profiles.read(beside)
                search = SessionSearch(
                    vectors[arm],
                    lists[arm].rows.astype(np.int32),
                    num_lists=checked[arm].num_lists,
                    may_repeat=False,
                    artist_of=catalog.artist_of,
                )
                gap = search.known_gap(profiles[beside].in_rows(catalog), checked[arm].artist_gap)
                vectors[arm] = replace(vectors[arm], known_gap=gap)
            if (needed := max(vectors[arm].num_newest, checked[arm].num_lists)) > max_tracks:
                raise InputError(
                    f"{where}: context={checked[arm].context} of this run looks at the last {needed} tracks, and "
                    f"{max_tracks} are remembered; set sessions.max_tracks of the service at least as high, or use "
                    "context=last"
                )
    return ReleaseContents(
        experiment=experiment,
        arms=checked,
        catalog=catalog,
        top_tracks=top,
        lists=lists,
        vectors=vectors,
        files=files,
        profiles=list(profiles.values()),
    )


def _settings(given: Any) -> dict[Any, Any]:
    return {key: value for key, value in given.items() if key != "recommender"} if isinstance(given, Mapping) else {}


def _arm(where: str, given: Any, defaults: Mapping[str, Any], locate: Callable[[str], Path]) -> tuple[Arm, Path | None]:
    if (name := recommender_name(given)) is None:
        raise InputError(
            f"{where} must name a recommender, got {given!r}; such as popular, or {{recommender: popular}}"
        )
    own = _settings(given)
    if wrong := sorted(map(str, set(own) - set(defaults))):
        known = ", ".join(defaults)
        raise InputError(f"{where}: {wrong[0]!r} is not a setting of an arm; its settings are {known}")
    settings = {**defaults, **own}
    how = {"pick": str(settings["pick"]), "artist_gap": settings["artist_gap"]}
    explores = {key: settings[key] for key in ("exploration", "exploration_plays")}
    of_lists = {**explores, "familiar": settings["familiar"]}
    check_picking(of_lists, f"{where}: " if of_lists.keys() & own.keys() else "")
    if (named := parse_name(name)).kind == "word":
        if name not in _WORDS:
            raise InputError(unknown_recommender(where, name, _WORDS, FILES))
        return Arm(recommender=name, policy=name, **how), None
    if named.kind == "url":
        raise InputError(f"{where}: {name!r} is another service; choose one of {', '.join(_WORDS)}, {FILES}")
    file = locate(named.name) if named.kind == "stored" else Path(named.name)
    if (found := context_of(where, settings["context"], file)) == LAST_TEN:
        check_no_other_rules(where, own)
        return Arm(recommender=name, policy="lists", pick="uniform", context=LAST_TEN, fallback="random"), file
    how |= {"fallback": settings["fallback"]}
    how |= {"context": found, "num_lists": settings["num_lists"]} if found != "last" else {}
    how |= explores if explores["exploration"] else {}
    if (familiar := familiar_share(settings["familiar"])) < 1:
        how["familiar"] = familiar
        check_familiar(f"{where}: ", familiar, found)
    return Arm(recommender=name, policy="lists", **how), file


def _catalogue(
    files: Mapping[str, Path], tracks: Path | None, world: Callable[[], Any]
) -> tuple[Catalog, Int64[np.ndarray, "P"], dict[str, Recommendations]]:
    """The catalogue, its most played tracks, and the lists of the file that the catalogue came from."""
    lists: dict[str, Recommendations] = {}
    if tracks is not None:
        catalog, source = read_catalog(tracks), tracks
    elif files:
        of_tracks = ((arm, file) for arm, file in files.items() if key_of_lines(file) != "user")
        arm, source = next(of_tracks, next(iter(files.items())))
        lists[arm], catalog = Recommendations.read_with_catalog(source)
    else:
        embedded = world()
        return embedded.catalog, embedded.top_tracks, lists
    top_file = source.with_name("top_tracks.json")
    top_tracks = read_top_tracks(top_file, catalog) if top_file.exists() else np.empty(0, np.int64)
    return catalog, top_tracks, lists
