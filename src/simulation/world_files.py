"""A world as files in the formats of botify (2023): `tracks.json`, `users.json`, `top_tracks.json`, `tracks.npy`.

N tracks, D width of the true embeddings.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from segue.catalog import Catalog
from segue.errors import InputError, check_number
from segue.runs.atomic import write_whole
from segue.runs.catalog_files import (
    is_whole,
    read_catalog,
    read_columns,
    read_lines,
    read_top_tracks,
    write_catalog,
    write_lines,
    write_top_tracks,
)
from segue.settings import Setting, settings
from segue.simulation.generated_attributes import NAMES
from segue.simulation.world import (
    ARTIST_DISCOUNT,
    NUM_NEIGHBOURS,
    SESSION_BUDGET,
    Listeners,
    Taste,
    World,
    standardised,
)

WORLD_FILES = ("tracks.json", "users.json", "top_tracks.json", "tracks.npy")
"""Names of the files of a world."""


def write_world(world: World, folder: Path) -> None:
    """Write the four files of a world. Row r of `tracks.npy` is the embedding of line r of `tracks.json`.

    Args:
        world: the world.
        folder: created if missing; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    catalog, listeners = world.catalog, world.listeners
    write_catalog(catalog, folder / "tracks.json", world.attributes)
    write_whole(folder / "tracks.npy", lambda path: np.save(path, world.embeddings, allow_pickle=False))
    write_top_tracks(catalog.track_ids[world.top_tracks], folder / "top_tracks.json")
    write_lines(folder / "users.json", _records(listeners, catalog))


def _records(listeners: Listeners, catalog: Catalog) -> Iterator[dict[str, Any]]:
    for user in range(len(listeners)):
        interests = listeners.interests[user]
        yield {
            "user": int(listeners.user_ids[user]),
            "interests": catalog.track_ids[interests[interests >= 0]].tolist(),
            "consume_bias": float(listeners.bias[user]),
            "consume_sharpness": float(listeners.sharpness[user]),
            "interest_neighbours": int(listeners.num_neighbours[user]),
            "session_budget": int(listeners.budget[user]),
            "artist_discount_gamma": float(listeners.artist_discount[user]),
        }


@settings("world")
def read_world(
    *,
    path: Annotated[str, Setting("folder of tracks.json and users.json; tracks.npy and top_tracks.json are optional")],
    seed: Annotated[int, Setting("of the generated embeddings, if there is no tracks.npy", least=0)] = 0,
    taste: Taste | None,
) -> World:
    """Read a world from files.

    Tracks are sorted by id: row r of `tracks.npy` is the embedding of the r-th smallest id. Without `tracks.npy`,
    embeddings are generated. Without `top_tracks.json`, tracks are ranked by the number of listeners who love them.
    `tracks.json` may have the attributes of a generated world; see `TrackAttributes`.

    Args:
        taste: parameters of the generated embeddings; None: `tracks.npy` must be there.

    Returns:
        The world.

    Raises:
        InputError: a file is missing or damaged, or the files do not fit together.
    """
    folder = Path(path)
    catalog = read_catalog(folder / "tracks.json")
    listeners = _read_listeners(folder / "users.json", catalog)
    loved = np.bincount(listeners.interests[listeners.interests >= 0], minlength=len(catalog))
    if taste is None or (folder / "tracks.npy").exists():
        embeddings = _read_embeddings(folder / "tracks.npy", len(catalog))
    else:
        of_artists = np.bincount(catalog.artist_of, weights=loved, minlength=catalog.num_artists)
        embeddings = taste.embed(
            catalog.artist_of,
            artist_fame=standardised(np.log1p(of_artists)),
            rng=np.random.default_rng(seed),
        )
    if (folder / "top_tracks.json").exists():
        top_tracks = read_top_tracks(folder / "top_tracks.json", catalog)
    else:
        top_tracks = np.argsort(-loved, kind="stable")
    return World(
        catalog=catalog,
        top_tracks=top_tracks,
        embeddings=embeddings,
        listeners=listeners,
        attributes=read_columns(folder / "tracks.json", NAMES, catalog),
    )


def _read_listeners(path: Path, catalog: Catalog) -> Listeners:
    columns: dict[str, list[Any]] = {name: [] for name in Listeners.__dataclass_fields__}
    lines: list[str] = []
    for where, record in read_lines(path):
        interests = record.get("interests")
        if not isinstance(interests, list) or not interests or not all(map(is_whole, interests)):
            raise InputError(f"{where}: interests must be a list of at least one track id, got {interests!r}")
        user = record.get("user")
        if not is_whole(user):
            raise InputError(f"{where}: user must be a whole number, got {user!r}")
        bias, sharpness = record.get("consume_bias"), record.get("consume_sharpness")
        budget = record.get("session_budget", SESSION_BUDGET)
        discount = record.get("artist_discount_gamma", ARTIST_DISCOUNT)
        neighbours = record.get("interest_neighbours", NUM_NEIGHBOURS)
        check_number(f"{where}: consume_bias", bias, least=-1e6, most=1e6)
        check_number(f"{where}: consume_sharpness", sharpness, least=0, most=1e6)
        check_number(f"{where}: session_budget", budget, whole=True, least=1, most=1_000_000)
        check_number(f"{where}: artist_discount_gamma", discount, least=0, most=1)
        check_number(f"{where}: interest_neighbours", neighbours, whole=True, least=1, most=min(len(catalog), 1000))
        for name, value in zip(columns, (user, interests, bias, sharpness, budget, discount, neighbours), strict=True):
            columns[name].append(value)
        lines.append(where)
    if not lines:
        raise InputError(f"{path} is empty; a world needs at least one listener")
    user_ids = np.array(columns["user_ids"], np.int64)
    repeated = pd.Series(user_ids).duplicated().to_numpy()
    if repeated.any():
        place = int(repeated.argmax())
        raise InputError(f"{lines[place]}: user {user_ids[place]} occurs twice; give each user one line")
    return Listeners(
        user_ids=user_ids,
        interests=_interest_rows(columns["interests"], lines, catalog, path.parent / "tracks.json"),
        bias=np.array(columns["bias"], np.float64),
        sharpness=np.array(columns["sharpness"], np.float64),
        budget=np.array(columns["budget"], np.int64),
        artist_discount=np.array(columns["artist_discount"], np.float64),
        num_neighbours=np.array(columns["num_neighbours"], np.int64),
    )


def _interest_rows(
    interests: list[list[int]], lines: list[str], catalog: Catalog, catalog_path: Path
) -> Int64[np.ndarray, "U I"]:
    lengths = np.array(list(map(len, interests)))
    is_given = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(is_given.shape, np.int64)
    ids[is_given] = np.concatenate([np.array(one, np.int64) for one in interests])
    rows = catalog.rows_of(ids)
    unknown = is_given & (rows < 0)
    if unknown.any():
        user, place = np.argwhere(unknown)[0]
        raise InputError(
            f"{lines[user]}: interest {ids[user, place]} is not a track of {catalog_path}; use ids of this file"
        )
    return np.where(is_given, rows, -1)


_LARGEST = 1e6
"""Largest absolute value in an embedding: products of larger numbers would exceed the range of a float."""


def _read_embeddings(path: Path, num_tracks: int) -> Float32[np.ndarray, "N D"]:
    try:
        embeddings = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path} as an array of numbers: {error}") from None
    if not isinstance(embeddings, np.ndarray) or embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
        raise InputError(f"{path} must hold one array of numbers with a row for each track")
    if len(embeddings) != num_tracks or not embeddings.shape[1]:
        raise InputError(f"{path} has shape {embeddings.shape}; it needs one row for each of the {num_tracks} tracks")
    invalid = ~(np.abs(embeddings) <= _LARGEST)  # also NaN
    if invalid.any():
        raise InputError(
            f"{path}, row {int(invalid.any(1).argmax())}: every number must be finite and at most {_LARGEST:g}"
        )
    return embeddings.astype(np.float32)
