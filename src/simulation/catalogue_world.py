"""A world for the catalogue of a run: its tracks, artists and plays, and listeners with the tastes of a model.

N tracks, D width of the vectors of the model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float32

from segue.catalog import Catalog, most_played
from segue.errors import InputError
from segue.runs.recommendations import Recommendations, file_digest
from segue.runs.recommender_names import FILES, parse_name
from segue.runs.session_vectors import FILE, SessionVectors
from segue.settings import Setting, settings
from segue.simulation.generated_attributes import units
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
    name = model or tracks
    lists, of_model = _lists_file("tracks", tracks, locate), _lists_file("model", name, locate)
    given, unsorted = Recommendations.read_with_catalog(lists)
    order = np.argsort(unsorted.track_ids, kind="stable")  # as the files of a world are
    if given.plays is None or not given.plays.any():
        raise InputError(f"world.tracks={tracks}: the run has no plays of its tracks; train it again")
    if len(order) < _LEAST_TRACKS:
        raise InputError(f"world.tracks={tracks} has {len(order)} tracks, and a world needs {_LEAST_TRACKS} or more")
    artists = [artist or None for artist in unsorted.artists[unsorted.artist_of[order]].tolist()]
    ids, titles, plays = unsorted.track_ids[order].tolist(), unsorted.titles[order].tolist(), given.plays[order]
    catalog = Catalog.from_columns(ids, titles, artists, source=str(lists))
    return World(
        catalog=catalog,
        top_tracks=most_played(plays),
        embeddings=_embeddings(name, of_model.with_name(FILE), catalog),
        listeners=population(num_listeners, num_interests, plays / plays.sum(), np.random.default_rng(seed)),
        model=TasteModel(name=name, lists=file_digest(of_model)),
    )


def _lists_file(setting: str, name: str, locate: Callable[[str], Path]) -> Path:
    named = parse_name(name)
    if named.kind not in ("stored", "path"):
        raise InputError(f"world.{setting}={name} does not name a run; it takes {FILES}")
    return locate(named.name) if named.kind == "stored" else Path(named.name)


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
    directions = units(vectors.items[:, : vectors.ends[-1]].astype(np.float64))
    is_known = directions.any(1)
    directions[is_known] -= directions[is_known].mean(0)
    return (_LENGTH * units(directions)).astype(np.float32)
