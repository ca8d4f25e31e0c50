"""Reads what the arms of an experiment need, and prepares a release that can be written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from src.assignment import check_arms
from src.catalog import Catalog
from src.catalog_files import read_catalog, read_top_tracks
from src.errors import InputError
from src.recommendations import Recommendations, has_lists_of_users
from src.recommender_names import FILES, parse_name, recommender_name, unknown_recommender
from src.serving.release import LISTS, POLICIES, Arm, write_release

_WORDS = sorted(set(POLICIES) - set(LISTS))


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedRelease:
    """The checked contents of a release; see `write_release`."""

    experiment: str
    arms: Mapping[str, Arm]
    catalog: Catalog
    top_tracks: Int64[np.ndarray, "P"]
    lists: Mapping[str, Recommendations]

    def write(self, folder: Path, *, provenance: Mapping[str, str]) -> str:
        """Write the release; returns its version."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return write_release(folder, **parts, provenance=provenance)


def prepare_release(
    arms: Any,
    *,
    experiment: str,
    pick: str,
    artist_gap: int,
    max_tracks: int,
    tracks: Path | None,
    world: Callable[[], Any],
    locate: Callable[[str], Path],
) -> PreparedRelease:
    """Read what the arms of an experiment need.

    The catalogue comes from `tracks`, or from the first file with lists of tracks, or, where no arm has a file, from
    the embedded world. The most played tracks come from the `top_tracks.json` beside that file, or from the world.

    Args:
        arms: for each arm the name of a recommender, or a mapping with `recommender` and optionally `pick` and
            `artist_gap`.
        experiment: name of the experiment.
        pick: how arms without a `pick` of their own pick from their lists.
        artist_gap: gap of arms without one of their own.
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
    for arm in check_arms(arms):
        where = f"arms.{arm}" if len(arms) > 1 else "recommendations"
        checked[arm], file = _arm(where, arms[arm], {"pick": pick, "artist_gap": artist_gap}, locate)
        if checked[arm].artist_gap > max_tracks:
            raise InputError(
                f"artist_gap must be at most the {max_tracks} tracks of a session that are remembered, got "
                f"{checked[arm].artist_gap}; set sessions.max_tracks of the service at least as high"
            )
        if file is not None:
            files[arm] = file
    if not files and (setting := _pick_setting({"pick": pick, "artist_gap": artist_gap})):
        raise InputError(f"{setting} applies to lists, and no arm has any; leave it out, or give an arm {FILES}")
    catalog, top_tracks, lists = _catalogue(files, tracks, world)
    if not len(top_tracks) and any(arm.policy == "popular" for arm in checked.values()):
        raise InputError("popular needs a top_tracks.json beside the recommendations or tracks=; there is none")
    lists |= {arm: Recommendations.read(file, catalog) for arm, file in files.items() if arm not in lists}
    checked |= {arm: replace(checked[arm], policy="user_lists") for arm in files if lists[arm].users is not None}
    return PreparedRelease(experiment=experiment, arms=checked, catalog=catalog, top_tracks=top_tracks, lists=lists)


def _arm(where: str, given: Any, defaults: Mapping[str, Any], locate: Callable[[str], Path]) -> tuple[Arm, Path | None]:
    name = recommender_name(given)
    if name is None:
        raise InputError(
            f"{where} must name a recommender, got {given!r}; such as popular, or {{recommender: popular}}"
        )
    settings = {key: value for key, value in given.items() if key != "recommender"} if name != given else {}
    if wrong := sorted(map(str, set(settings) - set(defaults))):
        known = ", ".join(defaults)
        raise InputError(f"{where}: {wrong[0]!r} is not a setting of an arm; its settings are {known}")
    settings = {**defaults, **settings}
    how = {"pick": str(settings["pick"]), "artist_gap": settings["artist_gap"]}
    named = parse_name(name)
    if named.kind == "word":
        if name not in _WORDS:
            raise InputError(unknown_recommender(where, name, _WORDS, FILES))
        if isinstance(given, Mapping) and (setting := _pick_setting(given)):
            raise InputError(f"{where}: {setting} applies to lists, and {name} has none; leave it out")
        return Arm(recommender=name, policy=name, **how), None
    if named.kind == "url":
        raise InputError(f"{where}: {name!r} is another service; choose one of {', '.join(_WORDS)}, {FILES}")
    file = locate(named.name) if named.kind == "stored" else Path(named.name)
    return Arm(recommender=name, policy="lists", **how), file


def _pick_setting(settings: Mapping[str, Any]) -> str:
    """The first setting of how to pick that is not the default, as it is typed; empty where there is none."""
    defaults = {"pick": "uniform", "artist_gap": 0}
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
