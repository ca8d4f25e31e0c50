"""What tracks of generated worlds say of themselves: genres, audio and release dates, and the world of a day."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.attributes import Values, Vectors
from segue.errors import InputError
from segue.simulation.generated_attributes import LEAST_SHARE, SHARPNESS, TrackAttributes
from segue.simulation.world import World, generate, is_released, released_by
from segue.simulation.world_files import read_world, write_world
from tests.conftest import TASTE
from tests.datamodules.reading import read
from tests.simulation.test_mixed_logs import logs_of

ALL = TrackAttributes(genres=8, audio=12, noise=1.0, releases=10, release_days=5, first_day="2026-01-05")


def world_with(attributes: TrackAttributes | None, num_tracks: int = 400) -> World:
    return generate(
        seed=0, num_tracks=num_tracks, num_listeners=60, num_interests=3, artist_popularity=0.9, track_popularity=0.9,
        taste=TASTE, attributes=attributes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def known() -> World:
    return world_with(ALL)


def test_attributes_change_nothing_else(world: World, known: World) -> None:
    assert world.digest() == known.digest() == world_with(None).digest()
    assert world.catalog.titles.tolist() == known.catalog.titles.tolist()
    assert world.top_tracks.tolist() == known.top_tracks.tolist()
    assert world.attributes == {}


def test_an_attribute_does_not_depend_on_the_others(known: World) -> None:
    for without in (replace(ALL, genres=0), replace(ALL, audio=0), replace(ALL, releases=0)):
        fewer = world_with(without).attributes
        assert len(fewer) == 2
        assert fewer == {name: known.attributes[name] for name in fewer}


def test_genres_are_those_with_a_share_of_the_mixture() -> None:
    seed = np.random.SeedSequence(3)
    styles = np.array([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8]])
    genres = np.random.default_rng(np.random.SeedSequence(3).spawn(3)[0]).normal(size=(8, 2))
    attributes = replace(ALL, noise=0.0, releases=0, audio=0)
    found = attributes.describe(np.hstack([styles, np.ones((3, 1))]), style_dim=2, seed=seed)["genre"]
    for style, names in zip(styles, found, strict=True):
        cosines = [genre @ style / np.linalg.norm(genre) / np.linalg.norm(style) for genre in genres]
        shares = {f"genre {n + 1}": np.exp(SHARPNESS * cosine) for n, cosine in enumerate(cosines)}
        total = sum(shares.values())
        ranked = sorted(shares, key=lambda name: -shares[name])
        assert names == [name for name in ranked if shares[name] >= LEAST_SHARE * total] or names == ranked[:1]


@pytest.mark.parametrize(("noise", "told"), [(0.0, 1.0), (1.0, 0.5), (3.0, 0.1)])
def test_the_noise_leaves_its_share_of_the_variance_of_an_audio_vector(noise: float, told: float) -> None:
    world = world_with(replace(ALL, noise=noise), num_tracks=4000)
    audio = np.array(world.attributes["audio"])
    directions = world.embeddings / np.linalg.norm(world.embeddings, axis=1, keepdims=True)
    left = audio - directions @ np.linalg.lstsq(directions, audio)[0]
    assert 1 - left.var(0).mean() / audio.var(0).mean() == pytest.approx(told, abs=0.02)


def test_attributes_tell_something_of_the_affinity_and_not_all(known: World) -> None:
    affinity = known.embeddings @ known.embeddings.T
    other_artist = known.catalog.artist_of[:, None] != known.catalog.artist_of
    first = np.array([names[0] for names in known.attributes["genre"]])
    same_genre = other_artist & (first[:, None] == first)
    audio = np.array(known.attributes["audio"])
    audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    told = np.corrcoef((audio @ audio.T)[other_artist], affinity[other_artist])[0, 1]
    assert affinity[same_genre].mean() > affinity[other_artist & ~same_genre].mean() + 0.3
    assert 0.2 < told < 0.8
    clear = world_with(replace(ALL, noise=0.0)).attributes["genre"]
    of_artist = {(artist, *names) for artist, names in zip(known.catalog.artist_of.tolist(), clear, strict=True)}
    assert len(of_artist) == known.catalog.num_artists  # without noise a genre is that of the artist


def test_as_many_tracks_are_released_on_each_day(known: World) -> None:
    dates = known.attributes["released"]
    counts = Counter(day for day in dates if day >= "2026-01-05")
    assert counts == {f"2026-01-{day:02d}": 10 for day in range(6, 11)}
    assert min(dates) >= "2016-01-01"
    assert is_released(known, "2026-01-07").sum() == 400 - 30


def test_the_world_of_a_day_has_what_is_released_and_the_most_alike_interests(known: World) -> None:
    whole, day = known, released_by(known, "2026-01-07")
    out = [row for row in range(400) if known.attributes["released"][row] <= "2026-01-07"]
    assert day.catalog.track_ids.tolist() == whole.catalog.track_ids[out].tolist()
    assert (day.embeddings == whole.embeddings[out]).all()
    assert (
        day.catalog.artists[day.catalog.artist_of].tolist()
        == whole.catalog.artists[whole.catalog.artist_of[out]].tolist()
    )
    assert np.bincount(day.catalog.artist_of).min() > 0
    top = whole.catalog.track_ids[whole.top_tracks].tolist()
    assert day.catalog.track_ids[day.top_tracks].tolist() == [track for track in top if track in set(out)]
    assert day.attributes["audio"] == [whole.attributes["audio"][row] for row in out]
    for now, then in zip(day.listeners.interests.ravel(), whole.listeners.interests.ravel(), strict=True):
        expected = then if then in out else max(out, key=lambda row: whole.embeddings[row] @ whole.embeddings[then])
        assert day.catalog.track_ids[now] == expected
    assert (released_by(known, "2026-01-10").embeddings == whole.embeddings).all()


def test_a_world_without_dates_has_no_day(world: World) -> None:
    with pytest.raises(InputError, match=r"have no release dates; give it some with world\.attributes\.releases="):
        released_by(world, "2026-01-05")


def test_the_files_of_a_world_keep_its_attributes(known: World, tmp_path: Path) -> None:
    write_world(known, tmp_path)
    back = read_world(path=str(tmp_path), seed=9, taste=TASTE)
    assert back.attributes == known.attributes
    assert back.digest() == known.digest()
    lines = [json.loads(line) for line in (tmp_path / "tracks.json").read_text().splitlines()]
    assert list(lines[0]) == ["artist", "title", "track", "genre", "audio", "released"]


def test_logs_are_the_same_and_the_data_have_the_attributes(world: World, known: World, tmp_path: Path) -> None:
    plain, told = logs_of(world)(tmp_path / "logs"), logs_of(known)(tmp_path / "logs")
    assert plain != told
    log = Path("logs", "day-1", "data.json")
    assert (plain / log).read_bytes() == (told / log).read_bytes()
    optional = {"genre": {"kind": "values", "required": False}, "audio": {"kind": "vector", "required": False}}
    changes = {"attributes": optional}
    assert read("botify", plain, changes=changes).catalog.attributes == {}
    found = read("botify", told, changes=changes).catalog.attributes
    genre, audio = found["genre"], found["audio"]
    assert isinstance(genre, Values)
    assert isinstance(audio, Vectors)
    assert genre.lists() == known.attributes["genre"]
    np.testing.assert_array_equal(audio.take(np.arange(400)), np.array(known.attributes["audio"], np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genres": -1}, "world.attributes.genres must be a whole number of at least 0"),
        ({"audio": -1}, "world.attributes.audio must be a whole number of at least 0"),
        ({"noise": -1}, "world.attributes.noise must be a number of at least 0"),
        ({"releases": -1}, "world.attributes.releases must be a whole number of at least 0"),
        ({"release_days": 0}, "world.attributes.release_days must be a whole number of at least 1"),
        ({"first_day": None}, "world.attributes.releases=10 counts from first_day, which must be a date such as"),
        ({"releases": 80}, "world.attributes.releases=80 on 5 days are all of the 400 tracks or more"),
    ],
)
def test_settings_out_of_range_are_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        world_with(replace(ALL, **change))
