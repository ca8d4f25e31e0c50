"""A world as files in the formats of botify (2023): `tracks.json`, `users.json`, `top_tracks.json`, `tracks.npy`.

N tracks, D width of the true embeddings, U listeners, I interests of a listener.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from segue.atomic import write_whole
from segue.catalog import Catalog, id_problem, ids_of, most_played
from segue.errors import InputError
from segue.runs.catalog_files import (
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

_LARGEST = 1e6  # largest absolute value in an embedding: products of larger numbers would exceed the range of a float


def _checked_id(value: int | str) -> int | str:
    if problem := id_problem(value):
        raise ValueError(problem)
    return value


_Id = Annotated[int | str, AfterValidator(_checked_id)]


class _Listener(BaseModel):
    """A line of `users.json`; the names are those of `Listeners`."""

    model_config = ConfigDict(strict=True)

    user: _Id
    interests: list[_Id] = Field(min_length=1)
    bias: float = Field(alias="consume_bias", ge=-_LARGEST, le=_LARGEST)
    sharpness: float = Field(alias="consume_sharpness", ge=0, le=_LARGEST)
    num_neighbours: int = Field(NUM_NEIGHBOURS, alias="interest_neighbours", ge=1, le=1000)
    budget: int = Field(SESSION_BUDGET, alias="session_budget", ge=1, le=1_000_000)
    artist_discount: float = Field(ARTIST_DISCOUNT, alias="artist_discount_gamma", ge=0, le=1)


_NUMBERS = {name: str(field.alias) for name, field in _Listener.model_fields.items() if field.alias}


def write_world(world: World, folder: Path) -> None:
    """Write the files of a world. Row r of `tracks.npy` is the embedding of line r of `tracks.json`.

    Args:
        world: the world.
        folder: created if missing; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    catalog, people = world.catalog, world.listeners
    write_catalog(catalog, folder / "tracks.json", world.attributes)
    write_whole(folder / "tracks.npy", lambda path: np.save(path, world.embeddings, allow_pickle=False))
    write_top_tracks(catalog.track_ids[world.top_tracks], folder / "top_tracks.json")
    interests = [catalog.track_ids[rows[rows >= 0]].tolist() for rows in people.interests]
    columns = {"user": people.user_ids.tolist(), "interests": interests}
    columns |= {key: getattr(people, name).tolist() for name, key in _NUMBERS.items()}
    lines = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    write_lines(folder / "users.json", lines)


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
        taste: parameters of generated embeddings; None if there is a `tracks.npy`.

    Raises:
        InputError: a file is missing or damaged, or a setting is out of range.
    """
    tracks, users, top, vectors = (Path(path) / name for name in WORLD_FILES)
    catalog = read_catalog(tracks)
    listeners = _read_listeners(users, catalog)
    loved = np.bincount(listeners.interests[listeners.interests >= 0], minlength=len(catalog))
    if taste is None or vectors.exists():
        embeddings = _read_embeddings(vectors, len(catalog))
    else:
        of_artists = np.bincount(catalog.artist_of, weights=loved, minlength=catalog.num_artists)
        fame = standardised(np.log1p(of_artists))
        embeddings = taste.embed(catalog.artist_of, artist_fame=fame, rng=np.random.default_rng(seed))
    return World(
        catalog=catalog,
        top_tracks=read_top_tracks(top, catalog) if top.exists() else most_played(loved),
        embeddings=embeddings,
        listeners=listeners,
        attributes=read_columns(tracks, NAMES, catalog),
    )


def _read_listeners(path: Path, catalog: Catalog) -> Listeners:
    people, interests = dict[str, _Listener](), list[Int64[np.ndarray, "I"]]()
    for where, record in read_lines(path):
        try:
            one = _Listener.model_validate(record)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise InputError(f"{where}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
        interests.append(catalog.rows_of(one.interests))
        if (interests[-1] < 0).any():
            unknown = one.interests[int(interests[-1].argmin())]
            raise InputError(f"{where}: interest {unknown} is not a track of {path.with_name('tracks.json')}")
        if one.num_neighbours > len(catalog):
            raise InputError(f"{where}: interest_neighbours must be at most {len(catalog)}, as many as tracks")
        if str(one.user) in people:  # 7 and "7" are one id
            raise InputError(f"{where}: user {one.user} occurs twice; give each user one line")
        people[str(one.user)] = one
    if not people:
        raise InputError(f"{path} is empty; a world needs at least one listener")
    rows = np.full((len(people), max(map(len, interests))), -1)
    for own, given in zip(rows, interests, strict=True):
        own[: len(given)] = given
    numbers = {name: np.array([getattr(one, name) for one in people.values()]) for name in _NUMBERS}
    return Listeners(user_ids=ids_of([*people]), interests=rows, **numbers)


def _read_embeddings(path: Path, num_tracks: int) -> Float32[np.ndarray, "N D"]:
    try:
        embeddings = np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise InputError(f"cannot read {path} as an array of numbers: {error}") from None
    is_small = np.abs(embeddings) <= _LARGEST  # and not NaN
    if embeddings.ndim != 2 or len(embeddings) != num_tracks or not embeddings.size or not is_small.all():
        raise InputError(
            f"{path} must have a row of one or more numbers for each of the {num_tracks} tracks, finite and at most "
            f"{_LARGEST:g}; it has the shape {embeddings.shape}"
        )
    return embeddings
