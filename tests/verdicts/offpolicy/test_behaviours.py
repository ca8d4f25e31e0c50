"""What the arms of a log recommended, read from its releases."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.catalog import key_of
from segue.errors import InputError
from segue.runs.catalog_files import write_catalog
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE
from segue.serving.known_tracks import change_of, with_kept
from segue.serving.recommender import Recommender
from segue.serving.session_memory import Played
from segue.simulation.policies import LastTenLists, Lists, Oracle, Popular, Random, SessionLists, StickyArtist
from segue.simulation.world import World
from segue.verdicts.offpolicy.behaviours import Behaviour, Candidate, LogFolder, candidate_of
from segue.verdicts.offpolicy.decisions import read_decisions
from segue.verdicts.offpolicy.estimates import OffPolicyLog
from tests.conftest import make_catalog, make_vectors
from tests.odd_ids import with_texts
from tests.serving.conftest import arm, lists_of, lists_of_users, make_release
from tests.verdicts.offpolicy.played import first_decisions, lists, neighbours, opened, settings, simulate


def text(arm: str, experiment: str = "TEST") -> str:
    return json.dumps({experiment: arm})


def test_a_release_of_the_simulator_describes_its_arms(world: World, tmp_path: Path) -> None:
    file = neighbours(world, tmp_path / "r.jsonl")
    arms = {
        "C": Random(world=world),
        "T1": StickyArtist(world=world),
        "T2": Popular(num_tracks=9, world=world),
        "T3": lists(world, file, "weighted", 2),
        "T4": Oracle(world=world),
    }
    simulate(world, tmp_path / "run", arms, sessions=40)
    folder = LogFolder.open(tmp_path / "run" / "logs")
    [release] = folder.releases
    found = {name: folder.behaviour(text(name), release) for name in arms}
    assert [behaviour and behaviour.picker.policy for behaviour in found.values()] == [
        "random", "sticky_artist", "popular", "lists", None,
    ]  # fmt: skip
    assert found["T2"] is not None
    assert found["T2"].picker.popular.tolist() == world.top_tracks[:9].tolist()
    assert found["T3"] is not None
    assert (found["T3"].picker.pick, found["T3"].picker.artist_gap) == ("weighted", 2)
    assert found["T3"].picker.sources == ("list", "random")
    assert (found["T3"].lists == Recommendations.read(file, world.catalog).rows).all()
    assert folder.behaviour(text("C"), "") is None
    assert folder.behaviour(text("C", "OTHER"), release) is None
    neighbours(world, file, step=3)
    assert folder.behaviour(text("T3"), release) is None, "the file is another one now"
    file.unlink()
    assert folder.behaviour(text("T3"), release) is None


@pytest.mark.parametrize("arms", [("C", "T1"), ("C",)])
def test_the_control_of_2026_has_the_propensities_of_its_log(
    world: World, tmp_path: Path, arms: tuple[str, ...]
) -> None:
    """They depend on plays of earlier sessions. As a candidate it has the value that its own arm has."""
    file = neighbours(world, tmp_path / "r.jsonl", num=3)
    policies = {"C": LastTenLists(path=str(file), world=world), "T1": Random(world=world)}
    simulate(world, tmp_path / "run", {arm: policies[arm] for arm in arms}, sessions=700, days=2)
    folder, log = opened(tmp_path / "run")
    [release] = folder.releases
    behaviour = folder.behaviour(text("C"), release)
    assert behaviour is not None
    assert behaviour.last_ten is not None
    assert (log.different, log.arms_left_out) == (0, [])
    candidate = candidate_of({"recommender": str(file), "context": "last_ten"}, locate=Path)
    found = log.estimate(folder.candidate(candidate), settings(max_without_support=1.0))
    is_control = [json.loads(experiments)["TEST"] == "C" for experiments, _ in log.decisions.settings]
    own = log.decisions.where(np.array(is_control)[log.decisions.setting])
    truth = own.shares[own.first + 1].mean()
    assert found.first_step_snips.lower < truth < found.first_step_snips.upper
    if len(arms) == 1:
        assert found.first_step_snips.value == pytest.approx(truth), "all weights are 1"
        assert found.session_mean_weight == pytest.approx(1)


def test_a_ring_is_in_the_order_of_the_log_and_of_one_user(world: World, tmp_path: Path) -> None:
    simulate(world, tmp_path / "run", {"C": Random(world=world)}, sessions=300)
    folder, log = opened(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/logs/day-1/data.json").read_text().splitlines()]
    some = log.decisions
    for step in (1, 3):
        longer = some.where(some.lengths > step)
        rings = longer.last_plays(step)
        for number in range(0, len(longer), 17):
            own = [line for line in lines if line["user"] == longer.users[number]]
            start = next(place for place, line in enumerate(own) if line["timestamp"] == longer.started_ms[number])
            expected = own[: start + step][::-1][:10]
            rows = folder.catalog.rows_of([line["track"] for line in expected]).tolist()
            assert rings.rows[number].tolist() == rows + [-1] * (10 - len(rows))
            assert rings.shares[number, : len(rows)].tolist() == [line["time"] for line in expected]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"context": "last_ten", "pick": "ranked"}, "candidate: context=last_ten is a whole rule, and pick does not"),
        ({"fallback": "all"}, "candidate: fallback must be one of artist, random, got 'all'"),
    ],
)
def test_a_candidate_of_2026_has_no_other_settings(tmp_path: Path, own: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        candidate_of({"recommender": str(tmp_path / "r.jsonl"), **own}, locate=Path)


def test_the_fallback_of_a_candidate_is_that_of_the_log_unless_chosen(world: World, tmp_path: Path) -> None:
    file = neighbours(world, tmp_path / "r.jsonl")
    simulate(world, tmp_path / "run", {"C": Random(world=world)}, sessions=40)
    folder = LogFolder.open(tmp_path / "run" / "logs")
    fallbacks = [folder.candidate(Candidate(name="lists", file=file, fallback=one)).picker.fallback
                 for one in (None, "artist", "random")]  # fmt: skip
    assert fallbacks == ["random", "artist", "random"]


def test_what_an_arm_explored_is_known_from_the_log(world: World, tmp_path: Path) -> None:
    """In the log of the simulator and in a release of the service: the same new tracks, and the same probabilities."""
    rows = (np.arange(len(world.catalog))[:, None] + np.arange(1, 5)) % len(world.catalog)
    plays = np.where(np.arange(len(world.catalog)) % 7 == 2, 1, 8)
    given = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32), plays=plays)
    given.write(tmp_path / "r.jsonl", world.catalog, format="botify")
    how: dict[str, Any] = {"exploration": 0.2, "exploration_plays": 2}
    policy = Lists(path=str(tmp_path / "r.jsonl"), pick="uniform", artist_gap=0, **how, world=world)
    simulate(world, tmp_path / "run", {"C": policy}, sessions=40)
    folder = LogFolder.open(tmp_path / "run" / "logs")
    [release] = folder.releases
    simulated = folder.behaviour(text("C"), release)
    served = folder_of(tmp_path / "served", world, given, how)
    candidate = folder.candidate(Candidate(name="lists", file=tmp_path / "r.jsonl", **how))
    for found in (simulated, served, candidate):
        assert found is not None
        assert (found.picker.exploration, found.picker.new.tolist()) == (0.2, np.flatnonzero(plays == 1).tolist())
        choices = found.choices(first_decisions([0, 0, 0], [0, 3, 9]), 1)
        asked = choices.of(np.tile(np.arange(len(world.catalog)), (3, 1)))
        assert asked.sum(1) == pytest.approx(1)
        assert asked[0, 2] == pytest.approx(0.8 / 4 + 0.2)  # the only new one of the list 1, 2, 3, 4
        assert asked[1, 2] == pytest.approx(0.2 / (plays == 1).sum())  # 4, 5, 6, 7 are not new: any new track


def test_a_candidate_that_explores_needs_to_know_what_is_new(world: World, tmp_path: Path) -> None:
    file = neighbours(world, tmp_path / "recommendations.jsonl")
    simulate(world, tmp_path / "run", {"C": Random(world=world)}, sessions=40)
    folder = LogFolder.open(tmp_path / "run" / "logs")
    with pytest.raises(InputError, match="exploration needs to know which tracks are new"):
        folder.candidate(Candidate(name="lists", file=file, exploration=0.1))


def folder_of(folder: Path, world: World, lists: Recommendations, how: dict[str, Any]) -> Behaviour | None:
    """What a release of the service says of its arm."""
    store = folder / "store" / "one"
    store.mkdir(parents=True)
    make_release(store, catalog=world.catalog, arms={"C": arm("lists", **how)}, lists={"C": lists})
    write_catalog(world.catalog, folder / "tracks.json")
    (folder / "logs").mkdir()
    found = LogFolder.open(folder / "logs")
    [release] = found.releases
    return found.behaviour(text("C"), release)


def test_what_the_session_answers_is_computed_again_from_a_log(world: World, tmp_path: Path) -> None:
    """At every step: with one arm, all weights of a candidate that does the same are 1."""
    file = neighbours(world, tmp_path / "recommendations.jsonl", num=20)
    make_vectors(len(world.catalog)).write(tmp_path / FILE, world.catalog)
    how: dict[str, Any] = {"pick": "weighted", "artist_gap": 1, "num_lists": 2}
    simulate(world, tmp_path / "run", {"C": SessionLists(path=str(file), **how, world=world)}, sessions=300)
    folder, log = opened(tmp_path / "run")
    assert (log.is_mixture, log.different) == (True, 0)
    candidate = folder.candidate(candidate_of({"recommender": str(file), **how}, locate=Path))
    found = log.estimate(candidate, settings())
    assert found.session_mean_weight == pytest.approx(1)
    own = log.decisions
    assert found.first_step_snips.value == pytest.approx(own.shares[own.first + 1].mean())
    make_vectors(len(world.catalog), skipped=0.5).write(tmp_path / FILE, world.catalog)
    [release] = folder.releases
    assert folder.behaviour(text("C"), release) is None, "the vectors are others now"


def test_the_logs_of_a_continued_run_have_the_releases_of_all_days(world: World, tmp_path: Path) -> None:
    simulate(world, tmp_path / "one", {"C": Random(world=world)}, sessions=20)
    simulate(world, tmp_path / "two", {"C": StickyArtist(world=world)}, sessions=20, after=tmp_path / "one")
    folder = LogFolder.open(tmp_path / "two" / "logs")
    found = {
        behaviour.picker.policy for version in folder.releases if (behaviour := folder.behaviour(text("C"), version))
    }
    assert found == {"random", "sticky_artist"}


@pytest.mark.parametrize(("has_texts", "has_kept"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_release_of_the_service_describes_its_arms(tmp_path: Path, has_texts: bool, has_kept: bool) -> None:
    """Tracks of the store are in an order of its own, and those of the file in another one, perhaps with others."""
    catalog = make_catalog([0, 1, 0, 2, 1, 0])
    catalog = with_texts(catalog) if has_texts else catalog
    of_tracks, of_users = lists_of([[1, 2], [3], [], [5, 0, 1], [2], [4]]), lists_of_users({5: [3, 1], 8: [0]})
    arms = {"C": arm("lists", "weighted", 1), "T1": arm("user_lists"), "T2": arm("popular"), "T3": arm("sticky_artist")}
    session = {"T4": arm("lists", "weighted", context="session", num_lists=2)}
    store = tmp_path / "run" / "store"
    release = make_release(
        store / "new",
        catalog=catalog,
        arms=arms | session,
        lists={"C": of_tracks, "T1": of_users, "T4": of_tracks},
        vectors={"T4": make_vectors(6)},
        top_tracks=[2, 2, 4],
    )
    lines_of = [release.version]
    if has_kept:
        catalog, older = (make_catalog(artists) for artists in ([0, 1, 0, 2, 1, 0, 0, 1], [0, 1, 0, 2, 1, 0, 0]))
        catalog, older = (with_texts(one) if has_texts else one for one in (catalog, older))
        before = make_release(tmp_path / "before", catalog=older, arms={"C": arm("random")})
        (store / "kept").mkdir()
        release = with_kept(change_of(before, release), before, release, store / "kept")
        assert len(release.kept) == 1
        shutil.rmtree(store / "new")
        lines_of.append(release.version)
    release.folder.rename(store / release.version)
    (tmp_path / "run" / "logs").mkdir()
    write_catalog(catalog, tmp_path / "sorted.json")
    shuffled = (tmp_path / "sorted.json").read_text(encoding="utf-8").splitlines()[::-1]
    (tmp_path / "run" / "tracks.json").write_text("\n".join(shuffled) + "\n", encoding="utf-8")
    folder = LogFolder.open(tmp_path / "run" / "logs")
    ours = Recommender(release, np.random.default_rng(0))
    for name in arms | session:
        behaviour, *others = [folder.behaviour(text(name), version) for version in lines_of]
        assert behaviour is not None
        assert None not in others
        for user, row in ((5, 0), (8, 3), (7, 2)):
            id_of = catalog.track_ids.item(row)
            [place], key = folder.catalog.rows_of([id_of]), key_of(id_of)
            choices = behaviour.choices(first_decisions([user], [place]), 1)
            for _ in range(20):
                answer = ours.follow(name, user, release.row_of(key), Played([key], []))
                picked = folder.catalog.rows_of([release.id_of(answer.row)])
                assert choices.of(picked[None])[0, 0] == pytest.approx(answer.propensity)
            assert choices.of(np.arange(len(catalog))[None]).sum() == pytest.approx(1)
    assert folder.behaviour(text("T9"), release.version) is None
    assert folder.popular.tolist() == folder.catalog.rows_of(catalog.track_ids[[2, 4]]).tolist()
    of_tracks_file = tmp_path / "recommendations.jsonl"
    rows = np.full((len(catalog), 3), -1, np.int64)
    rows[0] = 1, 2, -1
    Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32)).write(
        of_tracks_file, folder.catalog, format="botify"
    )
    candidate = folder.candidate(Candidate(name="lists", pick="ranked", file=of_tracks_file))
    assert candidate.picker.fallback == "artist", "as in the service"


def test_a_release_may_have_tracks_that_the_catalogue_does_not_have(tmp_path: Path) -> None:
    """Such as one that was loaded before a training that left a track out; the lists of the others stay theirs."""
    catalog = with_texts(make_catalog([0, 1, 0, 2]))
    release = make_release(
        tmp_path / "store" / "one",
        catalog=catalog,
        arms={"C": arm("lists")},
        lists={"C": lists_of([[1, 2], [3], [0], [0, 1]])},
    )
    (tmp_path / "logs").mkdir()
    write_catalog(catalog, tmp_path / "tracks.json")
    lines = (tmp_path / "tracks.json").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "tracks.json").write_text("".join(line for line in lines if '"Title 1"' not in line), encoding="utf-8")
    folder = LogFolder.open(tmp_path / "logs")
    behaviour = folder.behaviour(text("C"), release.version)
    assert behaviour is not None
    rows = folder.catalog.rows_of(catalog.track_ids)
    assert rows.tolist().count(-1) == 1
    assert {row: set(behaviour.lists[row].tolist()) - {-1} for row in rows.tolist() if row >= 0} == {
        rows[0]: {rows[2]}, rows[2]: {rows[0]}, rows[3]: {rows[0]},
    }  # fmt: skip


def test_a_catalogue_of_another_run_is_refused_with_a_line(world: World, tmp_path: Path) -> None:
    """Other ids, and the same ids for other songs: no list of this run is read as one of those."""
    simulate(world, tmp_path / "run", {"C": Random(world=world)}, sessions=40)
    file = neighbours(world, tmp_path / "recommendations.jsonl")
    songs = replace(world.catalog, titles=np.roll(world.catalog.titles, 1))
    others = {"other ids": with_texts(world.catalog), "other songs": songs}
    messages = {"other ids": "line 1: track 0 is not in the catalogue of 400 tracks", "other songs": "track 0 is .* in"}
    for name, catalog in others.items():
        write_catalog(catalog, tmp_path / f"{name}.json")
        folder = LogFolder.open(tmp_path / "run" / "logs", tmp_path / f"{name}.json")
        with pytest.raises(InputError, match=f"{messages[name]}.*; use the catalogue that these recommendations were"):
            folder.candidate(Candidate(name="lists", file=file))
    decisions = read_decisions(folder.logs, with_texts(world.catalog), max_rejected=0.0, session_gap_minutes=30)
    with pytest.raises(InputError, match=r"none of 40 sessions can be used: 40 sessions with a track that is not in"):
        OffPolicyLog(decisions, folder)


def test_popular_is_no_candidate_without_the_most_played_tracks(world: World, tmp_path: Path) -> None:
    """It would be `random` under another name."""
    simulate(world, tmp_path / "run", {"C": Random(world=world)}, sessions=20)
    (tmp_path / "run" / "top_tracks.json").unlink()
    folder = LogFolder.open(tmp_path / "run" / "logs")
    with pytest.raises(InputError, match=r"candidate=popular: logs=.* have no top_tracks.json beside the catalogue"):
        folder.candidate(Candidate(name="popular"))
    assert folder.candidate(Candidate(name="random")).picker.sources == ("random",)


def test_logs_without_a_catalogue_are_refused(world: World, tmp_path: Path) -> None:
    simulate(world, tmp_path / "run", {"C": Random(world=world)}, sessions=20)
    shutil.move(tmp_path / "run" / "logs", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"no tracks.json in it or beside it; name the catalogue, tracks=<file>"):
        LogFolder.open(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"logs=.*: no such folder; name a folder with data.json files"):
        LogFolder.open(tmp_path / "nowhere")
    found = LogFolder.open(tmp_path / "elsewhere", tmp_path / "run" / "tracks.json")
    assert len(found.catalog) == len(world.catalog)
    assert found.popular.tolist() == world.top_tracks.tolist()
