"""A world as files in the formats of botify (2023): `tracks.json`, `users.json`, `top_tracks.json`, `tracks.npy`.

A world with the tastes of a model also has `world.json`, which names it. N tracks, D width of the true embeddings.
"""

import json
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from segue.catalog import Catalog, Id, id_problem, ids_of, most_played
from segue.errors import InputError
from segue.runs.atomic import write_record, write_whole
from segue.runs.catalog_files import (
    read_catalog,
    read_columns,
    read_lines,
    read_top_tracks,
    refuse_mixed,
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
    TasteModel,
    World,
    standardised,
)

MODEL_FILE = "world.json"
"""Name of the file with the fields of the `TasteModel` of a world."""
WORLD_FILES = ("tracks.json", "users.json", "top_tracks.json", "tracks.npy", MODEL_FILE)
"""Names of the files of a world."""

# Column of `Listeners` of each key in `users.json`, and its default.
_KEYS: dict[str, tuple[str, Any]] = {
    "user": ("user_ids", None),
    "interests": ("interests", None),
    "consume_bias": ("bias", None),
    "consume_sharpness": ("sharpness", None),
    "interest_neighbours": ("num_neighbours", NUM_NEIGHBOURS),
    "session_budget": ("budget", SESSION_BUDGET),
    "artist_discount_gamma": ("artist_discount", ARTIST_DISCOUNT),
}

# Types of columns of `Listeners`; the others are int64.
_KINDS = dict.fromkeys(("bias", "sharpness", "artist_discount"), np.float64)


def write_world(world: World, folder: Path) -> None:
    """Write the files of a world. Row r of `tracks.npy` is the embedding of line r of `tracks.json`.

    Args:
        world: the world.
        folder: created if missing; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    catalog, listeners = world.catalog, world.listeners
    write_catalog(catalog, folder / "tracks.json", world.attributes)
    write_whole(folder / "tracks.npy", lambda path: np.save(path, world.embeddings, allow_pickle=False))
    write_top_tracks(catalog.track_ids[world.top_tracks], folder / "top_tracks.json")
    columns = {key: getattr(listeners, name).tolist() for key, (name, _) in _KEYS.items()}
    columns["interests"] = [catalog.track_ids[rows[rows >= 0]].tolist() for rows in listeners.interests]
    lines = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    write_lines(folder / "users.json", lines)
    if world.model:
        write_record(asdict(world.model), folder / MODEL_FILE)


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
            catalog.artist_of, artist_fame=standardised(np.log1p(of_artists)), rng=np.random.default_rng(seed)
        )
    top_file, attributes = folder / "top_tracks.json", read_columns(folder / "tracks.json", NAMES, catalog)
    top_tracks = read_top_tracks(top_file, catalog) if top_file.exists() else most_played(loved)
    return World(
        catalog=catalog,
        top_tracks=top_tracks,
        embeddings=embeddings,
        listeners=listeners,
        attributes=attributes,
        model=_read_model(folder / MODEL_FILE),
    )


def _read_model(path: Path) -> TasteModel | None:
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
        return TasteModel(name=str(record["name"]), lists=str(record["lists"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"cannot read {path}, which names the model of the tastes of this world: {error}") from None


@settings()
def _check_listener(
    *,
    user: Any,
    interests: Any,
    consume_bias: Annotated[float, Setting("affinity at which half of a track is played", least=-1e6, most=1e6)],  # noqa: ARG001
    consume_sharpness: Annotated[float, Setting("slope of the share around the bias", least=0, most=1e6)],  # noqa: ARG001
    interest_neighbours: Annotated[int, Setting("tracks that begin a session", least=1, most=1000)],  # noqa: ARG001
    session_budget: Annotated[int, Setting("units of boredom of a session", least=1, most=1_000_000)],  # noqa: ARG001
    artist_discount_gamma: Annotated[float, Setting("factor for a repeated artist", least=0, most=1)],  # noqa: ARG001
) -> None:
    if not isinstance(interests, list) or not interests or any(map(id_problem, interests)):
        raise InputError(f"interests must be a list of at least one track id, got {interests!r}")
    if problem := id_problem(user):
        raise InputError(f"user {problem}, got {user!r}")


def _read_listeners(path: Path, catalog: Catalog) -> Listeners:
    lines: dict[str, dict[str, Any]] = {}
    for where, record in read_lines(path):
        lines[where] = {key: record.get(key, default) for key, (_, default) in _KEYS.items()}
        try:
            _check_listener(**lines[where])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    if not lines:
        raise InputError(f"{path} is empty; a world needs at least one listener")
    users = [line["user"] for line in lines.values()]
    refuse_mixed(users, str(path))
    frame, places = pd.DataFrame(list(lines.values())), list(lines)
    if (again := frame["user"].duplicated()).any():
        where = places[int(again.argmax())]
        raise InputError(f"{where}: user {lines[where]['user']} occurs twice; give each user one line")
    if (many := frame["interest_neighbours"] > len(catalog)).any():
        where = places[int(many.argmax())]
        given = lines[where]["interest_neighbours"]
        raise InputError(f"{where}: interest_neighbours must be at most {len(catalog)}, as many as tracks, got {given}")
    interests = _interest_rows(frame.pop("interests").tolist(), places, catalog, path.parent / "tracks.json")
    del frame["user"]
    columns = {n: frame[key].to_numpy(_KINDS.get(n, np.int64)) for key, (n, _) in _KEYS.items() if key in frame}
    return Listeners(user_ids=ids_of(users), interests=interests, **columns)


def _interest_rows(
    interests: list[list[Id]], lines: list[str], catalog: Catalog, catalog_path: Path
) -> Int64[np.ndarray, "U I"]:
    lengths = np.array(list(map(len, interests)))
    is_given = np.arange(lengths.max()) < lengths[:, None]
    rows = np.full(is_given.shape, -1)
    rows[is_given] = catalog.rows_of(list(chain.from_iterable(interests)))
    if (unknown := is_given & (rows < 0)).any():
        user, place = np.argwhere(unknown)[0]
        raise InputError(
            f"{lines[user]}: interest {interests[user][place]} is not a track of {catalog_path}; use ids of this file"
        )
    return rows


_LARGEST = 1e6  # largest absolute value in an embedding: products of larger numbers would exceed the range of a float


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
