"""Worlds that are generated from a seed, and worlds that are read from files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.simulation.names import artist_names
from segue.simulation.world import World, tracks_of_artists
from segue.simulation.world_files import read_world, write_world
from tests.conftest import TASTE, make_world
from tests.odd_ids import ODD_IDS


def test_the_same_seed_gives_the_same_world(world: World) -> None:
    assert make_world().digest() == world.digest() != make_world(seed=1).digest()


def test_tracks_per_artist_are_distributed_as_in_the_catalogue_of_2023() -> None:
    artist_of = tracks_of_artists(50_000, np.random.default_rng(0))
    sizes = np.bincount(artist_of)
    assert len(artist_of) == 50_000
    assert len(sizes) == 11_464
    assert np.quantile(sizes, [0.5, 0.75, 0.9, 0.95, 0.99]).tolist() == [1, 3, 11, 21, 41]
    assert sizes.max() == 80


def test_listeners_are_distributed_as_in_the_service_of_2023() -> None:
    people = make_world(seed=3, num_tracks=1000, num_listeners=20_000).listeners
    assert people.bias.min() >= 0
    assert people.bias.max() <= 10
    assert people.bias.mean() == pytest.approx(5, abs=4 * 2.89 / 20_000**0.5)
    assert people.sharpness.min() >= 0.5
    assert people.sharpness.max() <= 2
    assert (people.sharpness > 1).mean() == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5)
    blunt = 1 / people.sharpness[people.sharpness < 1]
    assert blunt.mean() == pytest.approx(1.5, abs=0.02)
    assert people.interests.shape == (20_000, 3)


def test_the_length_of_an_embedding_is_that_of_its_artist_and_grows_with_fame() -> None:
    taste = replace(TASTE, length=4.0, length_by_fame=0.2)
    fame = np.array([-1.0, 0.0, 2.0])
    artist_of = np.repeat([0, 1, 2], 5)
    embeddings = taste.embed(artist_of, artist_fame=fame, rng=np.random.default_rng(0))
    expected = 4 * np.exp(0.2 * fame)[artist_of]
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(expected, rel=1e-5)


def test_lengths_of_artists_have_the_given_spread() -> None:
    taste = replace(TASTE, length=4.0, length_by_fame=0.0, length_spread=0.3)
    artist_of = np.repeat(np.arange(3000), 2)
    log_lengths = np.log(
        np.linalg.norm(taste.embed(artist_of, artist_fame=np.zeros(3000), rng=np.random.default_rng(0)), axis=1)
    )
    assert log_lengths[::2] == pytest.approx(log_lengths[1::2], abs=1e-5)
    assert log_lengths.mean() == pytest.approx(np.log(4), abs=0.02)
    assert log_lengths.std() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(("style", "track"), [(0.4, 0.3), (0.0, 0.1), (0.7, 0.3)])
def test_the_cosine_within_an_artist_is_the_share_that_its_tracks_have_in_common(style: float, track: float) -> None:
    taste = replace(TASTE, style=style, track=track, mainstream=0, style_dim=60, own_dim=60)
    artist_of = np.repeat(np.arange(300), 2)
    unit = taste.embed(artist_of, artist_fame=np.zeros(300), rng=np.random.default_rng(1)) / taste.length
    assert (unit[::2] * unit[1::2]).sum(1).mean() == pytest.approx(1 - track, abs=0.02)
    assert (unit[:-4:2] * unit[4::2]).sum(1).mean() == pytest.approx(0, abs=0.03)


def test_two_artists_next_to_each_other_by_fame_have_opposite_styles() -> None:
    taste = replace(TASTE, mainstream=0, style=0.6, track=0.4)  # artists have no vector of their own
    fame = np.array([0.5, -1.0, 2.0, 1.0, -3.0])
    styles = taste.embed(np.arange(5), artist_fame=fame, rng=np.random.default_rng(3))[:, :3]
    styles /= np.linalg.norm(styles, axis=1, keepdims=True)
    assert styles[2] @ styles[3] == pytest.approx(-1, abs=1e-5)
    assert styles[0] @ styles[1] == pytest.approx(-1, abs=1e-5)
    assert abs(styles[4] @ styles[1]) < 0.99


def test_popular_artists_have_similar_styles() -> None:
    taste = replace(TASTE, mainstream=1.0, style=0.9, track=0.05)
    fame = np.repeat([-2.0, 2.0], 400)
    styles = taste.embed(np.arange(800), artist_fame=fame, rng=np.random.default_rng(2))[:, 0]
    assert (styles[400:] > 0).mean() > 0.95
    assert (styles[:400] < 0).mean() > 0.95


def test_an_embedding_has_the_columns_of_style_and_own_vector() -> None:
    embeddings = TASTE.embed(np.zeros(4, np.int64), artist_fame=np.zeros(1), rng=np.random.default_rng(3))
    assert embeddings.shape == (4, 9)
    assert (embeddings[:, :3] / np.linalg.norm(embeddings[:, :3], axis=1, keepdims=True)).std(0).max() < 1e-6


def test_shares_of_a_taste_that_are_more_than_one_whole_are_rejected() -> None:
    with pytest.raises(InputError, match=r"taste.style=0.8 and world.taste.track=0.3 are shares of one whole"):
        replace(TASTE, style=0.8)


def test_names_of_artists_are_distinct(world: World) -> None:
    names = artist_names(20_000, np.random.default_rng(0))
    assert len(set(names)) == 20_000
    assert all(name[0].isupper() for name in names)
    assert len(set(world.catalog.artists.tolist())) == world.catalog.num_artists


def test_a_world_is_unchanged_after_writing_and_reading(world: World, tmp_path: Path) -> None:
    write_world(world, tmp_path)
    back = read_world(path=str(tmp_path), seed=9, taste=TASTE)
    assert back.digest() == world.digest()
    assert back.catalog.titles.tolist() == world.catalog.titles.tolist()


def test_listeners_may_have_texts_as_ids(world: World, tmp_path: Path) -> None:
    users = np.array([*ODD_IDS, *map(str, range(len(ODD_IDS), len(world.listeners)))], object)
    ours = replace(world, listeners=replace(world.listeners, user_ids=users))
    write_world(ours, tmp_path)
    back = read_world(path=str(tmp_path), seed=9, taste=TASTE)
    assert back.listeners.user_ids.tolist() == users.tolist()
    assert back.digest() == ours.digest() != world.digest()
    twice = json.dumps({**USER, "user": int(users[-1]), "interests": world.catalog.track_ids[:1].tolist()})
    with (tmp_path / "users.json").open("a", encoding="utf-8") as file:
        file.write(twice + "\n")
    with pytest.raises(InputError, match=f"user {users[-1]} occurs twice"):
        read_world(path=str(tmp_path), seed=9, taste=TASTE)


def test_rows_are_sorted_by_id_for_any_order_of_the_lines(world: World, tmp_path: Path) -> None:
    write_world(world, tmp_path)
    path = tmp_path / "tracks.json"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    back = read_world(path=str(tmp_path), seed=9, taste=TASTE)
    assert back.catalog.track_ids.tolist() == world.catalog.track_ids.tolist()
    assert (back.embeddings == world.embeddings).all()


def test_missing_embeddings_are_generated_from_the_seed(world: World, tmp_path: Path) -> None:
    write_world(world, tmp_path)
    (tmp_path / "tracks.npy").unlink()
    (tmp_path / "top_tracks.json").unlink()
    first, repeated, other = (read_world(path=str(tmp_path), seed=seed, taste=TASTE) for seed in (1, 1, 2))
    assert (first.embeddings == repeated.embeddings).all()
    assert not (first.embeddings == other.embeddings).all()
    loved = np.bincount(world.listeners.interests.ravel(), minlength=400)
    assert (np.diff(loved[first.top_tracks]) <= 0).all()


def test_the_files_of_the_service_of_2023_are_a_world(real_data: Path) -> None:
    folder = real_data / "botify-2023"
    world = read_world(path=str(folder), seed=0, taste=TASTE)
    assert len(world.catalog) == 50_000
    assert len(world.listeners) == 10_000
    first = json.loads((folder / "users.json").read_text().split("\n", 1)[0])
    assert world.catalog.track_ids[world.listeners.interests[0]].tolist() == first["interests"]
    assert world.listeners.bias[0] == first["consume_bias"]
    top = json.loads((folder / "top_tracks.json").read_text())
    assert world.catalog.track_ids[world.top_tracks].tolist() == top


USER = {"user": 0, "interests": [1], "consume_bias": 1.0, "consume_sharpness": 1.0}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("users.json", json.dumps({**USER, "interests": [1, 999]}), "json, line 1: interest 999 is not a track of"),
        ("users.json", json.dumps({**USER, "user": "a\0"}), "line 1: user.*has a NUL"),
        ("users.json", json.dumps({**USER, "session_budget": 0}), "line 1: session_budget: Input should be greater"),
        ("users.json", f"{json.dumps(USER)}\n{json.dumps(USER)}", "line 2: user 0 occurs twice; give each user"),
        ("users.json", "", "users.json is empty; a world needs at least one listener"),
        ("users.json", "[1]", "line 1 is damaged: not JSON"),
        ("tracks.json", '{"artist": "A", "title": "T", "track": 1.5}', 'tracks.json, line 1: .*; "track" must be a'),
        ("tracks.json", "", "tracks.json is empty"),
        ("top_tracks.json", "[1, 999]", "track 999 is not in the catalogue of the same folder"),
        ("top_tracks.json", "{}", "must hold one JSON array of track ids"),
    ],
)
def test_a_damaged_file_is_rejected_with_its_name_and_line(
    world: World, tmp_path: Path, name: str, text: str, message: str
) -> None:
    write_world(world, tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_world(path=str(tmp_path), seed=0, taste=TASTE)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), r"for each of the 400 tracks, .* it has the shape \(3, 4\)"),
        (np.zeros(400), "must have a row of one or more numbers for each of"),
        (np.full((400, 2), np.nan), "finite and at most 1e\\+06"),
        (np.full((400, 2), "a"), "cannot read .* as an array of numbers"),
        (np.full((400, 2), None), "cannot read .* as an array of numbers"),
    ],
)
def test_embeddings_of_another_shape_or_type_are_rejected(
    world: World, tmp_path: Path, array: Any, message: str
) -> None:
    write_world(world, tmp_path)
    np.save(tmp_path / "tracks.npy", array)
    with pytest.raises(InputError, match=message):
        read_world(path=str(tmp_path), seed=0, taste=TASTE)
