"""A world on one of the days on which tracks are released: what is not out yet is not in it.

N tracks, K of them released, U listeners, I interests of a listener.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64

from segue.errors import InputError
from segue.simulation.world import World

_BLOCK = 256
"""Interests whose substitutes are searched together."""


def is_released(world: World, day: str) -> Bool[np.ndarray, "N"]:
    """Whether each track is released on a day.

    Args:
        world: a world whose tracks have release dates.
        day: a date such as 2026-01-05.

    Raises:
        InputError: its tracks have no release dates.
    """
    if "released" not in world.attributes:
        raise InputError("the tracks of this world have no release dates; give it some with world.attributes.releases=")
    return np.array(world.attributes["released"], object) <= day


def released_by(world: World, day: str) -> World:
    """The world of a day: only tracks that are released are in it.

    A listener who loves a track that is not released yet loves the released track with the largest affinity to it.

    Args:
        world: a world whose tracks have release dates.
        day: a date such as 2026-01-05.

    Returns:
        The world; its tracks keep their ids and their order, and its listeners theirs.

    Raises:
        InputError: its tracks have no release dates.
    """
    kept = np.flatnonzero(is_released(world, day))
    row_of = np.full(len(world.catalog) + 1, -1)  # the last one is for no interest
    row_of[kept] = np.arange(len(kept))
    catalog, listeners = world.catalog, world.listeners
    artists, artist_of = np.unique(catalog.artist_of[kept], return_inverse=True)
    interests = np.unique(listeners.interests[listeners.interests >= 0])
    substituted = row_of.copy()
    absent = interests[row_of[interests] < 0]
    substituted[absent] = _most_alike(world, absent, kept)
    return replace(
        world,
        catalog=replace(
            catalog,
            track_ids=catalog.track_ids[kept],
            titles=catalog.titles[kept],
            artist_of=artist_of,
            artists=catalog.artists[artists],
        ),
        top_tracks=row_of[world.top_tracks][row_of[world.top_tracks] >= 0],
        embeddings=world.embeddings[kept],
        listeners=replace(listeners, interests=substituted[listeners.interests]),
        attributes={name: [values[row] for row in kept.tolist()] for name, values in world.attributes.items()},
    )


def _most_alike(world: World, rows: Int64[np.ndarray, "I"], kept: Int64[np.ndarray, "K"]) -> Int64[np.ndarray, "I"]:
    """Places in `kept` of the tracks with the largest affinity to some tracks."""
    candidates = world.embeddings[kept].T
    found = [
        (world.embeddings[rows[start : start + _BLOCK]] @ candidates).argmax(1) for start in range(0, len(rows), _BLOCK)
    ]
    return np.concatenate([np.empty(0, np.int64), *found])
