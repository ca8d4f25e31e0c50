"""From the names of recommenders to a release, or to an error that lists the choices."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from segue.errors import InputError
from segue.picking.arm import Arm
from segue.picking.listener_scores import FEATURES
from segue.runs.catalog_files import write_top_tracks
from segue.runs.profiles import FILE as PROFILES
from segue.runs.profiles import Profiles, entries_of_events
from segue.runs.session_vectors import FILE
from segue.serving.prepared_release import prepare_release
from segue.serving.release import Release, ReleaseContents
from tests.conftest import make_catalog, make_vectors, write_lines, write_tracks
from tests.serving.conftest import lists_of

ARTISTS = [0, 0, 1]


def no_world() -> Any:
    raise AssertionError("a world is built only if no arm has a file")


def small_world() -> Any:
    return SimpleNamespace(catalog=make_catalog([0, 1, 2, 3]), top_tracks=np.array([3, 1]))


USUAL: dict[str, Any] = {"artist_gap": 0, "context": None, "num_lists": 4, "fallback": "artist", "familiar": "learned"}
USUAL |= {"pick": "uniform", "exploration": 0.0}


def ready(arms: Any, *, experiment: str = "TEST", **changes: Any) -> ReleaseContents:
    others: dict[str, Any] = {
        "max_tracks": 128,
        "tracks": None,
        "world": no_world,
        "locate": lambda name: Path(f"/nowhere/{name}"),
    }
    others |= {key: changes.pop(key) for key in [*changes] if key in others}
    return prepare_release(arms, experiment=experiment, defaults=USUAL | changes, **others)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Recommendations after tracks 100, 101 and 102."""
    path = tmp_path / "lists" / "recommendations.jsonl"
    path.parent.mkdir()
    lists = lists_of([[1, 2], [2], []], [[0.5, 0.25], [0.125, np.nan], [np.nan] * 2])
    lists.write(path, make_catalog(ARTISTS), format="botify")
    return str(path)


def test_words_take_the_catalogue_of_the_world() -> None:
    prepared = ready({"C": "random", "T1": "popular", "T2": "sticky_artist"}, world=small_world)
    assert prepared.arms == {
        name: Arm(recommender=word, policy=word, pick="uniform")
        for name, word in (("C", "random"), ("T1", "popular"), ("T2", "sticky_artist"))
    }
    assert list(prepared.arms) == ["C", "T1", "T2"]
    assert (len(prepared.catalog), prepared.top_tracks.tolist(), prepared.lists) == (4, [3, 1], {})


def test_an_arm_can_have_its_own_pick_and_gap(file: str) -> None:
    arms = OmegaConf.create({"T1": {"recommender": file, "pick": "ranked", "artist_gap": 3}, "C": file})
    prepared = ready(arms, pick="weighted", artist_gap=1)
    assert [(name, arm.pick, arm.artist_gap) for name, arm in prepared.arms.items()] == [
        ("C", "weighted", 1),
        ("T1", "ranked", 3),
    ]
    assert sorted(prepared.lists) == ["C", "T1"]
    assert prepared.lists["C"].rows.tolist() == prepared.lists["T1"].rows.tolist()


def test_more_tracks_of_a_session_than_are_remembered_are_refused(file: str) -> None:
    assert ready({"C": file}, artist_gap=5, max_tracks=5).arms["C"].artist_gap == 5
    message = r"at the last 6 tracks of a session .artist_gap=6, context=last., and 5 are remembered; set sessions"
    for arms in ({"C": file}, {"C": {"recommender": file, "artist_gap": 6}}):
        with pytest.raises(InputError, match=message):
            ready(arms, artist_gap=6, max_tracks=5)
    make_vectors(3).write(Path(file).with_name(FILE), make_catalog(ARTISTS))
    with pytest.raises(InputError, match=r"the last 4 tracks .*artist_gap=0, context=session., and 3 are remembered"):
        ready({"C": file}, max_tracks=3)


def test_an_arm_is_served_with_the_session_if_its_run_was_trained_so(file: str) -> None:
    make_vectors(3).write(Path(file).with_name(FILE), make_catalog(ARTISTS))
    arms = {"C": file, "T1": {"recommender": file, "context": "last"}, "T2": {"recommender": file, "num_lists": 2}}
    prepared = ready(arms | {"T3": "random"}, max_tracks=4)
    assert [(arm.context, arm.num_lists) for arm in prepared.arms.values()] == [
        ("session", 4), ("last", 1), ("session", 2), ("last", 1),
    ]  # fmt: skip
    assert sorted(prepared.vectors) == ["C", "T2"]
    prepared = ready({"C": file, "T1": {"recommender": file, "context": "session"}}, context="last")
    assert list(prepared.vectors) == ["T1"]


def test_a_run_of_listeners_brings_their_profiles_unless_the_arm_leaves_them_out(file: str) -> None:
    weights = np.zeros(len(FEATURES), np.float32)
    listeners = make_vectors(3, context="listener", listener=weights)
    listeners.write(Path(file).with_name(FILE), make_catalog(ARTISTS))
    assert list(ready({"C": file}).profiles) == [], "a run of which they were removed"
    (profiles := Path(file).with_name(PROFILES)).write_bytes(b"no zip")
    assert ready({"C": {"recommender": file, "context": "session"}}).arms["C"].describe().count("context=session") == 1
    with pytest.raises(InputError, match=r"profiles\.npz is damaged"):
        ready({"C": file})
    one = np.ones(1, np.int64)
    Profiles.of(*entries_of_events(7 * one, one, np.ones(1, np.float32), one)).write(profiles)
    both = ready({"C": file, "T1": {"recommender": file, "familiar": 0.5}})
    assert [given.listeners.tolist() for given in both.profiles.values()] == [[7]], "of two arms they count once"


def test_words_and_lists_of_users_have_no_session(file: str) -> None:
    (arm,) = ready({"C": "random"}, world=small_world, context="session", exploration=0.1).arms.values()
    assert (arm.context, arm.exploration) == ("last", 0)
    with pytest.raises(InputError, match="context applies to lists, and random has a rule of its own"):
        ready({"C": {"recommender": "random", "context": "session"}})
    make_vectors(3).write(Path(file).with_name(FILE), make_catalog(ARTISTS))
    users = Path(file).with_name("users.json")
    write_lines(users, [{"user": 7, "tracks": [100, 102]}])
    given = {"C": file, "T1": str(users)}
    assert [arm.context for arm in ready(given).arms.values()] == ["session", "last"]
    with pytest.raises(InputError, match=r"arms.T1: context=session needs lists of tracks, and .* has lists of users"):
        ready({**given, "T1": {"recommender": str(users), "context": "session"}})


def test_a_run_or_model_is_located(file: str) -> None:
    asked: list[str] = []

    def locate(name: str) -> Path:
        asked.append(name)
        return Path(file)

    prepared = ready({"C": "run:abc", "T1": "model:segue@champion"}, locate=locate)
    assert asked == ["run:abc", "model:segue@champion"]
    assert [arm.recommender for arm in prepared.arms.values()] == asked
    assert sorted(prepared.lists) == ["C", "T1"]


def test_top_tracks_are_read_from_the_folder_of_the_recommendations(file: str) -> None:
    write_top_tracks(np.array([102, 100]), Path(file).with_name("top_tracks.json"))
    assert ready({"C": file, "T1": "popular"}).top_tracks.tolist() == [2, 0]


def test_tracks_sets_the_catalogue(file: str, tmp_path: Path) -> None:
    write_tracks(tmp_path / "world", [*ARTISTS, 2, 2])
    write_top_tracks(np.array([104]), tmp_path / "world" / "top_tracks.json")
    write_top_tracks(np.array([100]), Path(file).with_name("top_tracks.json"))
    tracks = tmp_path / "world" / "tracks.json"
    prepared = ready({"C": file, "T1": "popular"}, tracks=tracks)
    assert len(prepared.catalog) == 5
    assert prepared.lists["C"].rows.tolist() == [[1, 2], [2, -1], [-1, -1], [-1, -1], [-1, -1]]
    assert prepared.top_tracks.tolist() == [4], "those beside tracks= count"
    assert len(ready({"C": "random"}, tracks=tracks).catalog) == 5


@pytest.fixture
def of_users(tmp_path: Path) -> str:
    path = tmp_path / "users.json"
    write_lines(path, [{"user": 9, "tracks": [102, 100]}, {"user": 7, "tracks": [101]}])
    return str(path)


def test_lists_of_users_take_the_catalogue_of_another_arm_or_of_tracks(
    file: str, of_users: str, tmp_path: Path
) -> None:
    prepared = ready({"C": of_users, "T1": file, "T2": {"recommender": of_users, "pick": "ranked"}})
    assert [(arm.policy, arm.pick) for arm in prepared.arms.values()] == [
        ("user_lists", "uniform"),
        ("lists", "uniform"),
        ("user_lists", "ranked"),
    ]
    assert prepared.catalog.titles.tolist() == ["Title 0", "Title 1", "Title 2"]
    write_tracks(tmp_path / "world", ARTISTS)
    for given in (prepared, ready({"C": of_users}, tracks=tmp_path / "world" / "tracks.json")):
        users = given.lists["C"].users
        assert users is not None
        assert (users.tolist(), given.lists["C"].rows.tolist()) == ([7, 9], [[1, -1], [2, 0]])
    (tmp_path / "release").mkdir()
    prepared.write(tmp_path / "release", provenance={})
    release = Release(tmp_path / "release")
    assert [one.tolist() for one in release.user_lists["C"]] == [[7, 9], [[1, -1], [2, 0]]]
    assert release.recommended("C", 0) == [], "a page about a track has no list of a user"
    assert release.recommended_ids(0) == [101, 102], "those of the first arm with lists of tracks"


def test_lists_of_users_alone_need_a_catalogue(of_users: str) -> None:
    with pytest.raises(
        InputError, match=r"users.json has lists of users and therefore no catalogue; name the catalogue"
    ):
        ready({"C": "random", "T1": of_users})


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ("random", r"arms must give each arm a recommender, such as arms=\{C: random, T1: popular\}, got 'random'"),
        ({}, "arms is empty"),
        ({"C": "rnadom"}, "recommendations: 'rnadom' is not a recommender; choose one of popular, random, sticky"),
        ({"C": 5}, "recommendations must name a recommender, got 5; such as run:<id>"),
        ({"C": {"recommender": "popular", "num_tracks": 7}}, "recommendations has no key 'num_tracks'; the keys are"),
        ({"C": "random", "T1": "http://localhost:5001"}, "arms.T1: 'http://localhost:5001' is not a recommender; choo"),
        ({"C": "missing/r.jsonl"}, "cannot read recommendations from missing/r.jsonl: No such file"),
    ],
)
def test_an_arm_that_cannot_be_served_is_refused(arms: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ready(arms, world=small_world)


def test_popular_needs_top_tracks(file: str, tmp_path: Path) -> None:
    message = "popular needs a top_tracks.json beside the recommendations or tracks=; there is none"
    with pytest.raises(InputError, match=message):
        ready({"C": file, "T1": "popular"})
    write_tracks(tmp_path, ARTISTS)
    with pytest.raises(InputError, match=message):
        ready({"C": "popular"}, tracks=tmp_path / "tracks.json")


def test_an_experiment_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="experiment must have a name, got an empty one"):
        ready({"C": "random"}, experiment="", world=small_world)


def test_lists_of_another_catalogue_are_refused(file: str, tmp_path: Path) -> None:
    write_tracks(tmp_path / "small", [0])
    with pytest.raises(
        InputError, match=r"recommendations.jsonl, line 1: track 101 is not in the catalogue of 1 tracks"
    ):
        ready({"C": file}, tracks=tmp_path / "small" / "tracks.json")
    other = tmp_path / "other" / "recommendations.jsonl"
    other.parent.mkdir()
    lists_of([[1], [0], [3], [2]]).write(other, make_catalog([0, 0, 1, 1]), format="botify")
    with pytest.raises(
        InputError, match=r"other/recommendations.jsonl, line 3: track 103 is not in the catalogue of 3"
    ):
        ready({"C": file, "T1": str(other)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "as JSON"),
        ("[999]", "top_tracks.json: track 999 is not in the catalogue of the same folder"),
        ("[1.5]", "must hold one JSON array"),
    ],
)
def test_damaged_top_tracks_are_refused(file: str, text: str, message: str) -> None:
    Path(file).with_name("top_tracks.json").write_text(text)
    with pytest.raises(InputError, match=message):
        ready({"C": file})


def test_an_arm_can_explore_and_its_release_says_so(file: str, tmp_path: Path) -> None:
    arms = {"C": file, "T1": {"recommender": file, "exploration": 0.1}, "T2": "random"}
    prepared = ready(OmegaConf.create(arms), exploration=0.05)
    assert [arm.exploration for arm in prepared.arms.values()] == [0.05, 0.1, 0]
    (tmp_path / "release").mkdir()
    prepared.write(tmp_path / "release", provenance={})
    release = Release(tmp_path / "release")
    assert release.arms == prepared.arms
