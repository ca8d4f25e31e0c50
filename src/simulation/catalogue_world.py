"""A world for the catalogue of a run: its tracks, artists and plays, and listeners with the tastes of a model.

N tracks, A artists, V width of the vectors of the model, D width of the true embeddings, C components.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.special import ndtri
from scipy.stats import rankdata

from segue.catalog import Catalog, most_played
from segue.errors import InputError
from segue.runs.catalog_files import read_catalog
from segue.runs.recommendations import Recommendations, file_digest
from segue.runs.recommender_names import FILES, parse_name
from segue.runs.session_vectors import FILE, SessionVectors
from segue.settings import Setting, settings
from segue.simulation.world import NumInterests, NumListeners, Seed, Taste, TasteModel, World, population

_LEAST_TRACKS = 100


@settings("world")
def of_catalogue(
    *,
    tracks: Annotated[str | None, Setting("run:<id>, a run folder, or a tracks.json with a model")] = None,
    model: Annotated[str | None, Setting("run whose vectors are the tastes; null: that of tracks")] = None,
    seed: Seed = 0,
    num_listeners: NumListeners,
    num_interests: NumInterests = 3,
    model_share: Annotated[
        float, Setting("share of the model in the variance of tastes; the rest is drawn", least=0, most=1)
    ],
    taste: Taste,
    locate: Callable[[str], Path],
) -> World:
    """Generate listeners for the tracks of a run. Tracks, artists, popularity and ids are those of the run.

    The world is that of `generate` with other numbers: the styles and the vectors of artists and tracks are a mixture
    of the principal components of a model's vectors and of drawn numbers, and popularity is that of training.

    Args:
        locate: finds the `recommendations.jsonl` of `run:…` or `model:…`.

    Raises:
        InputError: a setting is out of range, a run has no vectors or no plays, or the model is of other tracks.
    """
    if tracks is None:
        raise InputError(f"world=catalogue needs the run whose tracks it has: world.tracks= takes {FILES}")
    if tracks.endswith(".json"):
        if model is None:
            raise InputError(
                f"world.tracks={tracks} says nothing of tastes; name a run of these tracks with world.model=run:<id>"
            )
        file, catalog = _lists_file("model", model, locate), read_catalog(Path(tracks))
        vectors, plays = _vectors(model, file, catalog), Recommendations.read(file, catalog).plays
    else:
        of_tracks = _lists_file("tracks", tracks, locate)
        catalog, plays = _sorted_catalogue(of_tracks)
        file = _lists_file("model", model, locate) if model else of_tracks
        vectors = _vectors(model or tracks, file, catalog)
    if plays is None or not plays.any():
        raise InputError(f"world.tracks={tracks}: the run has no plays of its tracks; train it again")
    if len(catalog) < _LEAST_TRACKS:
        raise InputError(f"world.tracks={tracks} has {len(catalog)} tracks, and a world needs {_LEAST_TRACKS} or more")
    taste_rng, listeners_rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
    popularity = np.bincount(catalog.artist_of, plays) / np.bincount(catalog.artist_of)
    fame = np.asarray(ndtri((rankdata(popularity) - 0.5) / len(popularity)))  # generated fame is normal too
    return World(
        catalog=catalog,
        top_tracks=most_played(plays),
        embeddings=_embeddings(vectors, catalog, fame, taste, model_share, taste_rng),
        listeners=population(num_listeners, num_interests, plays / plays.sum(), listeners_rng),
        model=TasteModel(name=model or tracks, lists=file_digest(file)),
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


def _vectors(name: str, file: Path, catalog: Catalog) -> Float64[np.ndarray, "N V"]:
    """The item vector of each track, without the columns that are no part of it, such as a bias."""
    path = file.with_name(FILE)
    if not path.is_file():
        raise InputError(
            f"{name} has no {FILE} and therefore no tastes; name the run of a head, such as model=convex, with "
            "world.model=run:<id>"
        )
    vectors = SessionVectors.read(path, catalog)
    return vectors.items[:, : vectors.ends[-1]].astype(np.float64)


def _embeddings(
    vectors: Float64[np.ndarray, "N V"],
    catalog: Catalog,
    fame: Float64[np.ndarray, "A"],
    taste: Taste,
    share: float,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "N D"]:
    """True embeddings: the style and the vector of an artist are components of the mean of its tracks, and the vector
    of a track those of its difference from that mean."""
    lengths = np.linalg.norm(vectors, axis=1)
    is_known, artist_of = lengths > 0, catalog.artist_of
    units = vectors / np.where(is_known, lengths, 1)[:, None]
    num_known = np.bincount(artist_of, is_known, minlength=catalog.num_artists)
    means = np.zeros((catalog.num_artists, vectors.shape[1]))
    np.add.at(means, artist_of, units)
    means /= np.maximum(num_known, 1)[:, None]
    differs = is_known & (num_known[artist_of] > 1)
    of_artists = _mixed(means, num_known > 0, taste.style_dim + taste.own_dim, share, rng)
    of_tracks = _mixed(units - means[artist_of], differs, taste.own_dim, share, rng)
    styles, artists = np.split(of_artists, [taste.style_dim], axis=1)
    return taste.combine(artist_of, styles=styles, artists=artists, tracks=of_tracks, artist_fame=fame, rng=rng)


def _mixed(
    vectors: Float64[np.ndarray, "n V"],
    is_known: Bool[np.ndarray, "n"],
    num: int,
    share: float,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "n C"]:
    """Normal numbers, of whose variance a share is the first principal components of vectors.

    It is 0 where a vector is not known, and where there are no more components.
    """
    mixed = rng.normal(size=(len(vectors), num))
    if not is_known.any():
        return mixed
    known = vectors[is_known]
    known = known - known.mean(0)
    variances, axes = np.linalg.eigh(known.T @ known)
    axes = axes[:, ::-1][:, variances[::-1] > 1e-9 * variances.max()][:, :num]
    axes *= np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])  # the sign of an axis is arbitrary
    components = known @ axes
    some = np.ix_(np.flatnonzero(is_known), np.arange(axes.shape[1]))
    mixed[some] = (1 - share) ** 0.5 * mixed[some] + share**0.5 * components / components.std(0)
    return mixed
