"""A world for the catalogue of a run: its tracks, artists and plays, and listeners with the tastes of a model.

N tracks, D width of the vectors of the model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float32, Float64, Int64

from segue.catalog import Catalog, most_played
from segue.errors import InputError
from segue.runs.recommendations import Recommendations, file_digest
from segue.runs.recommender_names import FILES, parse_name
from segue.runs.session_vectors import FILE, SessionVectors
from segue.settings import Setting, settings
from segue.simulation.world import NumInterests, NumListeners, Seed, TasteModel, World, population

_LEAST_TRACKS = 100
_LENGTH = 4.4  # of the true embeddings, as in generated worlds


@settings("world")
def of_catalogue(
    *,
    tracks: Annotated[str | None, Setting("run:<id> or a run folder")] = None,
    model: Annotated[str | None, Setting("run whose vectors are the tastes; null: that of tracks")] = None,
    seed: Seed = 0,
    num_listeners: NumListeners,
    num_interests: NumInterests = 3,
    locate: Callable[[str], Path],
) -> World:
    """Generate listeners for the tracks of a run. Tracks, artists, popularity and ids are those of the run.

    Args:
        locate: finds the `recommendations.jsonl` of `run:…` or `model:…`.

    Raises:
        InputError: a setting is out of range, a run has no vectors or no plays, or the model is of other tracks.
    """
    if tracks is None:
        raise InputError(f"world=catalogue needs the run whose tracks it has: world.tracks= takes {FILES}")
    catalog, plays = _sorted_catalogue(_lists_file("tracks", tracks, locate))
    if plays is None or not plays.any():
        raise InputError(f"world.tracks={tracks}: the run has no plays of its tracks; train it again")
    if len(catalog) < _LEAST_TRACKS:
        raise InputError(f"world.tracks={tracks} has {len(catalog)} tracks, and a world needs {_LEAST_TRACKS} or more")
    name = model or tracks
    file = _lists_file("model", name, locate)
    return World(
        catalog=catalog,
        top_tracks=most_played(plays),
        embeddings=_embeddings(name, file.with_name(FILE), catalog),
        listeners=population(num_listeners, num_interests, plays / plays.sum(), np.random.default_rng(seed)),
        model=TasteModel(name=name, lists=file_digest(file)),
    )


def _lists_file(setting: str, name: str, locate: Callable[[str], Path]) -> Path:
    named = parse_name(name)
    if named.kind == "stored":
        return locate(named.name)
    if named.kind != "path":
        raise InputError(f"world.{setting}={name} does not name a run; it takes {FILES}")
    return Path(named.name)


def _sorted_catalogue(file: Path) -> tuple[Catalog, Int64[np.ndarray, "N"] | None]:
    """The catalogue of a run sorted by id, as the files of a world are, and its plays."""
    lists, catalog = Recommendations.read_with_catalog(file)
    order = np.argsort(catalog.track_ids, kind="stable")
    artists = [name or None for name in catalog.artists[catalog.artist_of[order]].tolist()]
    ids, titles = catalog.track_ids[order].tolist(), catalog.titles[order].tolist()
    plays = None if lists.plays is None else lists.plays[order]
    return Catalog.from_columns(ids, titles, artists, source=str(file)), plays


def _embeddings(name: str, path: Path, catalog: Catalog) -> Float32[np.ndarray, "N D"]:
    """The directions of the item vectors, seen from their mean, all of one length; a track without a vector has none.

    The columns that are no part of a vector, such as a bias, are left out.
    """
    if not path.is_file():
        raise InputError(
            f"{name} has no {FILE} and therefore no tastes; name the run of a head, such as model=convex, with "
            "world.model=run:<id>"
        )
    vectors = SessionVectors.read(path, catalog)
    directions = _units(vectors.items[:, : vectors.ends[-1]].astype(np.float64))
    is_known = directions.any(1)
    directions[is_known] -= directions[is_known].mean(0)
    return (_LENGTH * _units(directions)).astype(np.float32)


def _units(vectors: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N D"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))
