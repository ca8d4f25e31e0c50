"""What tracks of generated worlds say of themselves: genres and audio."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segue.attributes import Values, Vectors
from segue.simulation.generated_attributes import LEAST_SHARE, NOISE, SHARPNESS, TrackAttributes
from segue.simulation.world import World
from segue.simulation.world_files import read_world, write_world
from tests.conftest import TASTE, make_world
from tests.datamodules.reading import read
from tests.simulation.test_mixed_logs import logs_of

ALL = TrackAttributes(genres=8, audio=12)


@pytest.fixture(scope="module")
def known() -> World:
    return make_world(attributes=ALL)


def test_attributes_change_nothing_else(world: World, known: World) -> None:
    assert world.digest() == known.digest() == make_world().digest()
    assert world.catalog.titles.tolist() == known.catalog.titles.tolist()
    assert world.top_tracks.tolist() == known.top_tracks.tolist()
    assert world.attributes == {}


def test_an_attribute_does_not_depend_on_the_other(known: World) -> None:
    for without, name in ((replace(ALL, genres=0), "audio"), (replace(ALL, audio=0), "genre")):
        assert make_world(attributes=without).attributes == {name: known.attributes[name]}


def test_genres_are_those_with_a_share_of_the_mixture() -> None:
    styles = np.array([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8]])
    rng = np.random.default_rng(np.random.SeedSequence(3).spawn(1)[0])
    given, seed = np.hstack([styles, np.ones((3, 1))]), np.random.SeedSequence(3)
    found = TrackAttributes(genres=8).describe(given, style_dim=2, seed=seed)["genre"]
    genres, noise = rng.normal(size=(8, 2)), rng.normal(scale=NOISE / 2**0.5, size=(3, 2))
    styles = styles / np.linalg.norm(styles, axis=1, keepdims=True) + noise
    for style, names in zip(styles, found, strict=True):
        cosines = [genre @ style / np.linalg.norm(genre) / np.linalg.norm(style) for genre in genres]
        shares = {f"genre {n + 1}": np.exp(SHARPNESS * cosine) for n, cosine in enumerate(cosines)}
        total = sum(shares.values())
        ranked = sorted(shares, key=lambda name: -shares[name])
        assert names == [name for name in ranked if shares[name] >= LEAST_SHARE * total] or names == ranked[:1]


def test_half_of_the_variance_of_an_audio_vector_is_noise() -> None:
    world = make_world(attributes=ALL, num_tracks=4000)
    audio = np.array(world.attributes["audio"])
    directions = world.embeddings / np.linalg.norm(world.embeddings, axis=1, keepdims=True)
    left = audio - directions @ np.linalg.lstsq(directions, audio)[0]
    assert left.var(0).mean() / audio.var(0).mean() == pytest.approx(0.5, abs=0.02)


def test_the_files_of_a_world_keep_its_attributes(known: World, tmp_path: Path) -> None:
    write_world(known, tmp_path)
    back = read_world(path=str(tmp_path), seed=9, taste=TASTE)
    assert back.attributes == known.attributes
    assert back.digest() == known.digest()
    lines = [json.loads(line) for line in (tmp_path / "tracks.json").read_text().splitlines()]
    assert list(lines[0]) == ["artist", "title", "track", "genre", "audio"]


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
