"""What is known of generated tracks besides their artist: genres and an audio vector, from which models can learn.

N tracks, D width of the true embeddings, S dimensions of the style, G genres.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Float64

from segue.settings import Setting, settings

NAMES = ("genre", "audio")
"""Keys of `tracks.json` that a world may have beside `artist`, `title` and `track`."""

SHARPNESS = 10.0
"""The mixture of genres of a track is the softmax of this number times the cosines with the genres."""

LEAST_SHARE = 0.2
"""Genres with a smaller share of the mixture are not written, except the largest."""

NOISE = 1.0
"""Standard deviation of the noise in both, in those of what it is added to: half of the variance is noise."""


@settings("world.attributes")
@dataclass(frozen=True, kw_only=True)
class TrackAttributes:
    """What the catalogue of a generated world says of its tracks: a part of the true embeddings, with noise.

    A *genre* is a random direction in the space of styles. The mixture of genres of a track is
    `softmax(SHARPNESS · cos(style + noise, genre))`; `genre` in `tracks.json` has the names of those with a share of at
    least LEAST_SHARE, largest first. An *audio vector* is a random projection of the direction of the true embedding,
    scaled to standard deviation 1, plus noise. The noise is drawn for each track; tracks of one artist therefore differ
    in both.
    """

    genres: Annotated[int, Setting("number of genres (G); 0: tracks have none", least=0, most=1000)] = 0
    audio: Annotated[int, Setting("numbers of an audio vector; 0: tracks have none", least=0, most=1000)] = 0

    def describe(
        self, embeddings: Float[np.ndarray, "N D"], *, style_dim: int, seed: np.random.SeedSequence
    ) -> dict[str, list[Any]]:
        """Draw the attributes of all tracks.

        Args:
            style_dim: number of their first columns that are the style (S), at least 1.
            seed: of the random numbers; each attribute has its own, therefore it does not depend on the other.

        Returns:
            By name, a JSON value for each track: a list of names of genres, a list of numbers.
        """
        genre_rng, audio_rng = map(np.random.default_rng, seed.spawn(2))
        found = dict[str, list[Any]]()
        if self.genres:
            found["genre"] = _genres(units(embeddings[:, :style_dim]), self.genres, genre_rng)
        if self.audio:
            found["audio"] = _audio(units(embeddings), self.audio, audio_rng)
        return found


def _genres(styles: Float64[np.ndarray, "N S"], num: int, rng: np.random.Generator) -> list[list[str]]:
    genres = units(rng.normal(size=(num, styles.shape[1])))
    noise = rng.normal(scale=NOISE / styles.shape[1] ** 0.5, size=styles.shape)
    mixture = np.exp(SHARPNESS * (units(styles + noise) @ genres.T - 1))
    num_written = np.maximum((mixture >= LEAST_SHARE * mixture.sum(1, keepdims=True)).sum(1), 1).tolist()
    ranked = np.argsort(-mixture, axis=1, kind="stable").tolist()
    return [[f"genre {row + 1}" for row in rows[:most]] for rows, most in zip(ranked, num_written, strict=True)]


def _audio(directions: Float64[np.ndarray, "N D"], num: int, rng: np.random.Generator) -> list[list[float]]:
    vectors = directions @ rng.normal(size=(directions.shape[1], num))
    vectors = vectors / vectors.std(0) + rng.normal(scale=NOISE, size=vectors.shape)
    found: list[list[float]] = vectors.round(3).tolist()
    return found


def units(vectors: Float[np.ndarray, "n D"]) -> Float64[np.ndarray, "n D"]:
    """The directions of vectors: each has length 1, a vector of length 0 keeps it."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1e-12))
