"""What is known of generated tracks besides their artist: genres, an audio vector, a release date.

N tracks, D width of the true embeddings, S dimensions of the style, G genres.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from segue.errors import InputError
from segue.settings import Setting, settings

NAMES = ("genre", "audio", "released")
"""Keys of `tracks.json` that a world may have beside `artist`, `title` and `track`."""

SHARPNESS = 10.0
"""The mixture of genres of a track is the softmax of this number times the cosines with the genres."""

LEAST_SHARE = 0.2
"""Genres with a smaller share of the mixture are not written, except the largest."""

_OLDEST_DAYS = 3650  # tracks that are older than the first day were released in this many days before it


@settings("world.attributes")
@dataclass(frozen=True, kw_only=True)
class TrackAttributes:
    """What the catalogue of a generated world says of its tracks: a part of the true embeddings, with noise.

    A *genre* is a random direction in the space of styles. The mixture of genres of a track is
    `softmax(SHARPNESS · cos(style + noise, genre))`; `genre` in `tracks.json` has the names of those with a share of at
    least LEAST_SHARE, largest first. An *audio vector* is a random projection of the direction of the true embedding,
    scaled to standard deviation 1, plus noise. The noise is drawn for each track; tracks of one artist therefore differ
    in both. The share of the variance that is no noise is `1 / (1 + noise²)`. Tracks that are not released on one of
    the days of `releases` were released in the ten years before the first day.

    Args:
        first_day: date of the first day, such as 2026-01-05; needed for releases only.

    Raises:
        InputError: a setting is out of range, or a date is none.
    """

    genres: Annotated[int, Setting("number of genres (G); 0: tracks have none", least=0, most=1000)] = 0
    audio: Annotated[int, Setting("numbers of an audio vector; 0: tracks have none", least=0, most=1000)] = 0
    noise: Annotated[float, Setting("in both: at 1 it is half of the variance, at 0 nothing", least=0, most=100)] = 1.0
    releases: Annotated[int, Setting("tracks released on each of some days; 0: no dates", least=0, most=5_000_000)] = 0
    release_days: Annotated[int, Setting("number of these days, from the second day on", least=1, most=1000)] = 7
    first_day: str | None

    def __post_init__(self) -> None:
        if self.releases:
            try:
                date.fromisoformat(str(self.first_day))
            except ValueError:
                raise InputError(
                    f"world.attributes.releases={self.releases} counts from first_day, which must be a date such as "
                    f"2026-01-05, got {self.first_day!r}"
                ) from None

    def describe(
        self, embeddings: Float[np.ndarray, "N D"], *, style_dim: int, seed: np.random.SeedSequence
    ) -> dict[str, list[Any]]:
        """Draw the attributes of all tracks.

        Args:
            style_dim: number of their first columns that are the style (S), at least 1.
            seed: of the random numbers; each attribute has its own, therefore it does not depend on the others.

        Returns:
            By name, a JSON value for each track: a list of names of genres, a list of numbers, a date.

        Raises:
            InputError: more tracks would be released than there are.
        """
        num_tracks = len(embeddings)
        if self.releases * self.release_days >= num_tracks:
            raise InputError(
                f"world.attributes.releases={self.releases} on {self.release_days} days are all of the {num_tracks:,} "
                "tracks or more; some must be there on the first day, use fewer or a larger world"
            )
        genre_rng, audio_rng, dates_rng = map(np.random.default_rng, seed.spawn(len(NAMES)))
        found = dict[str, list[Any]]()
        if self.genres:
            found["genre"] = self._genres(_units(embeddings[:, :style_dim]), genre_rng)
        if self.audio:
            found["audio"] = self._audio(_units(embeddings), audio_rng)
        if self.releases:
            found["released"] = self._dates(num_tracks, dates_rng)
        return found

    def _genres(self, styles: Float[np.ndarray, "N S"], rng: np.random.Generator) -> list[list[str]]:
        genres = _units(rng.normal(size=(self.genres, styles.shape[1])))
        noise = rng.normal(scale=self.noise / styles.shape[1] ** 0.5, size=styles.shape)
        mixture = np.exp(SHARPNESS * (_units(styles + noise) @ genres.T - 1))
        mixture /= mixture.sum(1, keepdims=True)
        order = np.argsort(-mixture, axis=1, kind="stable")
        num_written = np.maximum((mixture >= LEAST_SHARE).sum(1), 1)
        return [
            [f"genre {genre + 1}" for genre in ranked[:num]]
            for ranked, num in zip(order[:, : num_written.max()].tolist(), num_written.tolist(), strict=True)
        ]

    def _audio(self, directions: Float[np.ndarray, "N D"], rng: np.random.Generator) -> list[list[float]]:
        vectors = directions @ rng.normal(size=(directions.shape[1], self.audio))
        vectors /= vectors.std(0)
        vectors += rng.normal(scale=self.noise, size=vectors.shape)
        return [list(map(float, vector)) for vector in vectors.round(3).tolist()]

    def _dates(self, num_tracks: int, rng: np.random.Generator) -> list[str]:
        days = rng.integers(-_OLDEST_DAYS, 0, size=num_tracks)
        new = rng.permutation(num_tracks)[: self.releases * self.release_days]
        days[new] = 1 + np.arange(len(new)) // self.releases
        first = date.fromisoformat(str(self.first_day))
        return [(first + timedelta(days=day)).isoformat() for day in days.tolist()]


def _units(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1e-12))
