"""Reads what the arms of an experiment need for a release."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from segue.assignment import check_arms
from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.arm import Arm, Locate, read_arm
from segue.picking.picker import Picker
from segue.runs.catalog_files import read_catalog, read_top_tracks
from segue.runs.profiles import FILE as PROFILES
from segue.runs.recommendations import Recommendations, key_of_lines
from segue.serving.release import ReleaseContents


def prepare_release(
    arms: Any,
    *,
    experiment: str,
    defaults: Mapping[str, Any],
    max_tracks: int,
    tracks: Path | None,
    world: Callable[[], Any],
    locate: Locate,
) -> ReleaseContents:
    """Read what the arms of an experiment need.

    The catalogue comes from `tracks`, or from the first file with lists of tracks, or, where no arm has a file, from
    the embedded world. The most played tracks come from the `top_tracks.json` beside that file, or from the world.

    Args:
        arms: each arm as `read_arm` takes it.
        experiment: name of the experiment.
        defaults: settings of arms without their own.
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
    names = {arm: f"arms.{arm}" if len(arms) > 1 else "recommendations" for arm in check_arms(arms)}  # as typed
    for name, where in names.items():
        checked[name], file = read_arm(where, arms[name], defaults=defaults, locate=locate)
        files |= {} if file is None else {name: file}
    catalog, top, lists = _catalogue(files, tracks, world)
    if not len(top) and any(arm.policy == "popular" for arm in checked.values()):
        raise InputError("popular needs a top_tracks.json beside the recommendations or tracks=; there is none")
    for name, file in files.items():
        lists[name] = lists[name] if name in lists else Recommendations.read(file, catalog)
    found = ReleaseContents(
        experiment=experiment, arms=checked, catalog=catalog, top_tracks=top, lists=lists, vectors={}, files=files
    )
    for name, arm in checked.items():
        picker, needed = Picker.read(arm, files.get(name), catalog, top, lists.get(name)), arm.artist_gap
        if picker.search is not None:
            needed, found.vectors[name] = max(needed, picker.search.length), picker.search.vectors
        if picker.before is not None:
            found.profiles[files[name].with_name(PROFILES)] = picker.before
        if needed > max_tracks:
            raise InputError(
                f"{names[name]}: this arm looks at the last {needed} tracks of a session (artist_gap={arm.artist_gap}, "
                f"context={arm.context}), and {max_tracks} are remembered; set sessions.max_tracks of the service at "
                "least as high"
            )
    return found


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
