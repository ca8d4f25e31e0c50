"""Reads what the arms of an experiment need, and prepares a release that can be written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from segue.assignment import check_arms
from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.picker import LISTS, POLICIES, check_picking, new_rows
from segue.runs.catalog_files import read_catalog, read_top_tracks
from segue.runs.recommendations import Recommendations, has_lists_of_users
from segue.runs.recommender_names import FILES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import FILE, SessionVectors, context_of
from segue.serving.release import Arm, write_release

_WORDS = sorted(set(POLICIES) - set(LISTS))


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedRelease:
    """The checked contents of a release; see `write_release`.

    Args:
        files: the file of each arm that has lists; the release records where it was, for the listening room.
    """

    experiment: str
    arms: Mapping[str, Arm]
    catalog: Catalog
    top_tracks: Int64[np.ndarray, "P"]
    lists: Mapping[str, Recommendations]
    vectors: Mapping[str, SessionVectors]
    files: Mapping[str, Path]

    def write(self, folder: Path, *, provenance: Mapping[str, str]) -> str:
        """Write the release; returns its version."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "files"}
        origins = {f"lists_{arm}": str(file.absolute()) for arm, file in self.files.items()}
        return write_release(folder, **parts, provenance={**provenance, **origins})


def prepare_release(
    arms: Any,
    *,
    experiment: str,
    pick: str,
    artist_gap: int,
    exploration: float = 0.0,
    exploration_plays: int = 1,
    context: str | None,
    num_lists: int,
    max_tracks: int,
    tracks: Path | None,
    world: Callable[[], Any],
    locate: Callable[[str], Path],
) -> PreparedRelease:
    """Read what the arms of an experiment need.

    The catalogue comes from `tracks`, or from the first file with lists of tracks, or, where no arm has a file, from
    the embedded world. The most played tracks come from the `top_tracks.json` beside that file, or from the world.

    Args:
        arms: for each arm the name of a recommender, or a mapping with `recommender` and optionally `pick`,
            `artist_gap`, `exploration`, `exploration_plays`, `context` and `num_lists`.
        experiment: name of the experiment.
        pick: how arms without a `pick` of their own pick from their lists.
        artist_gap: gap of arms without one of their own.
        exploration: share of the picks among new tracks, for arms without one of their own.
        exploration_plays: tracks with fewer plays in training are new, for arms without one of their own.
        context: `last` or `session` for arms without one of their own; None for that of their training run.
        num_lists: number of last tracks whose lists are searched with `session`, for arms without one of their own.
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
    checked: dict[str, Arm] = {}
    files: dict[str, Path] = {}
    defaults = {"pick": pick, "artist_gap": artist_gap, "context": context, "num_lists": num_lists}
    defaults |= {"exploration": exploration, "exploration_plays": exploration_plays}
    for arm in check_arms(arms):
        where = _where(arm, arms)
        checked[arm], file = _arm(where, arms[arm], defaults, locate)
        if checked[arm].artist_gap > max_tracks:
            raise InputError(
                f"artist_gap must be at most the {max_tracks} tracks of a session that are remembered, got "
                f"{checked[arm].artist_gap}; set sessions.max_tracks of the service at least as high"
            )
        if file is not None:
            files[arm] = file
    if not files and (setting := _pick_setting({**defaults, "num_lists": None, "exploration_plays": None})):
        raise InputError(f"{setting} applies to lists, and no arm has any; leave it out, or give an arm {FILES}")
    catalog, top_tracks, lists = _catalogue(files, tracks, world)
    if not len(top_tracks) and any(arm.policy == "popular" for arm in checked.values()):
        raise InputError("popular needs a top_tracks.json beside the recommendations or tracks=; there is none")
    lists |= {arm: Recommendations.read(file, catalog) for arm, file in files.items() if arm not in lists}
    for arm in (arm for arm in files if lists[arm].users is not None):
        checked[arm] = replace(checked[arm], policy="user_lists", context="last")
        if _settings(arms[arm]).get("context", context) == "session":
            raise InputError(
                f"{_where(arm, arms)}: context=session needs lists of tracks, and {files[arm]} has lists of users"
            )
    for arm, file in files.items():
        if checked[arm].exploration:
            new_rows(lists[arm].plays, checked[arm].exploration_plays, f"{_where(arm, arms)}: {file}")
    vectors = {
        arm: _vectors(_where(arm, arms), file.with_name(FILE), catalog, checked[arm], max_tracks)
        for arm, file in files.items()
        if checked[arm].is_of_session
    }
    return PreparedRelease(
        experiment=experiment,
        arms=checked,
        catalog=catalog,
        top_tracks=top_tracks,
        lists=lists,
        vectors=vectors,
        files=files,
    )


def _where(arm: str, arms: Mapping[Any, Any]) -> str:
    """How an arm is named on the command line."""
    return f"arms.{arm}" if len(arms) > 1 else "recommendations"


def _settings(given: Any) -> dict[Any, Any]:
    return {key: value for key, value in given.items() if key != "recommender"} if isinstance(given, Mapping) else {}


def _vectors(where: str, path: Path, catalog: Catalog, arm: Arm, max_tracks: int) -> SessionVectors:
    vectors = SessionVectors.read(path, catalog)
    if (needed := max(vectors.max_length, arm.num_lists)) > max_tracks:
        raise InputError(
            f"{where}: context=session of this run looks at the last {needed} tracks, and {max_tracks} are remembered; "
            "set sessions.max_tracks of the service at least as high, or use context=last"
        )
    return vectors


def _arm(where: str, given: Any, defaults: Mapping[str, Any], locate: Callable[[str], Path]) -> tuple[Arm, Path | None]:
    name = recommender_name(given)
    if name is None:
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
    check_picking(explores, f"{where}: " if explores.keys() & own.keys() else "")
    named = parse_name(name)
    if named.kind == "word":
        if name not in _WORDS:
            raise InputError(unknown_recommender(where, name, _WORDS, FILES))
        if setting := _pick_setting(own):
            raise InputError(f"{where}: {setting} applies to lists, and {name} has none; leave it out")
        return Arm(recommender=name, policy=name, **how), None
    if named.kind == "url":
        raise InputError(f"{where}: {name!r} is another service; choose one of {', '.join(_WORDS)}, {FILES}")
    file = locate(named.name) if named.kind == "stored" else Path(named.name)
    found = context_of(where, settings["context"], file)
    if found == "last" and "num_lists" in own:
        raise InputError(f"{where}: num_lists={own['num_lists']} applies to context=session alone; leave it out")
    how |= {"context": found, "num_lists": settings["num_lists"]} if found == "session" else {}
    how |= explores if explores["exploration"] else {}
    return Arm(recommender=name, policy="lists", **how), file


def _pick_setting(settings: Mapping[str, Any]) -> str:
    """The first setting of how to pick that is not the default, as it is typed; empty where there is none."""
    defaults = {"pick": "uniform", "artist_gap": 0, "context": None, "num_lists": None}
    defaults |= {"exploration": 0, "exploration_plays": None}
    return next((f"{key}={settings[key]}" for key in defaults if settings.get(key, defaults[key]) != defaults[key]), "")


def _catalogue(
    files: Mapping[str, Path], tracks: Path | None, world: Callable[[], Any]
) -> tuple[Catalog, Int64[np.ndarray, "P"], dict[str, Recommendations]]:
    """The catalogue, its most played tracks, and the lists of the file that the catalogue came from."""
    lists: dict[str, Recommendations] = {}
    if tracks is not None:
        catalog, source = read_catalog(tracks), tracks
    elif files:
        of_tracks = ((arm, file) for arm, file in files.items() if not has_lists_of_users(file))
        arm, source = next(of_tracks, next(iter(files.items())))
        lists[arm], catalog = Recommendations.read_with_catalog(source)
    else:
        embedded = world()
        return embedded.catalog, embedded.top_tracks, lists
    top_file = source.with_name("top_tracks.json")
    top_tracks = read_top_tracks(top_file, catalog) if top_file.exists() else np.empty(0, np.int64)
    return catalog, top_tracks, lists
