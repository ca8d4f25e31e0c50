"""A night: from=<run> learns the plays since a run, is tested on them before, and changes nothing where it may not."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import OmegaConf

from segue.attributes import Values
from segue.callbacks.assembly import Refitted
from segue.callbacks.guard import intervals_of, judged
from segue.callbacks.ranking_metrics import measured
from segue.catalog import Catalog
from segue.datamodules.learned import Learned, chosen_sessions, joined, sample, with_new_tracks
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.reading.table import NothingNew
from segue.datamodules.shards.shard_vocabulary import example_of, write_vocabulary
from segue.errors import InputError
from segue.models.fitted import FittedModel
from segue.models.growing import Grown
from segue.models.restoring import read_checkpoint
from segue.runs.folder import is_unfinished_night
from segue.runs.recommendations import Recommendations
from segue.statistics.control_chart import limits
from segue.training import night as night_module
from segue.training.night import Night, _source_of
from segue.training.train import read_data
from tests.conftest import ROOT, event, write_lines, write_tracks
from tests.contracts.building import composed
from tests.datamodules.sharding import read_shards, shards_of
from tests.e2e.forks import KILLS, killed_command
from tests.e2e.running import run_verb
from tests.e2e.test_resume import kill_at
from tests.e2e.test_train import metrics_of, train

DAYS, NUM_TRACKS, NUM_NEW = 4, 60, 3
TIME_0 = 1_700_000_000_000
COMMON = ("trainer.accelerator=cpu", "logger=none", "callbacks.plots=null", "datamodule=botify")
HEAD = (
    *("recipe=playlists", "datamodule.pairing=consecutive", "datamodule.batch_size=128"),
    *("model.dim=16", "optimizer.lr=0.02", "trainer.max_epochs=5"),
)


def write_day(folder: Path, day: int, *, num_tracks: int = NUM_TRACKS, first_id: int = 100, loved: float = 0.7) -> Path:
    """Listeners who love the next track on a ring."""
    rng, lines, clock = np.random.default_rng(day), [], TIME_0 + day * 86_400_000
    for session in range(60):
        track = int(rng.integers(num_tracks))
        for step in range(8):
            clock += 1000
            is_next = step > 0 and rng.random() < loved
            track = (track + 1) % num_tracks if is_next else int(rng.integers(num_tracks))
            message = "last" if step == 7 else "next"
            lines.append(event(session % 50, clock, first_id + track, 1.0 if is_next or not step else 0.1, message))
    write_lines(folder / "logs" / f"day-{day}" / "data.json", lines)
    return folder


def logs_of(folder: Path, num_days: int = DAYS) -> Path:
    write_tracks(folder, (row // 3 for row in range(NUM_TRACKS + NUM_NEW)))
    for day in range(num_days):
        write_day(folder, day)
    return folder


def night(cwd: Path, run: str, into: str, *more: str, code: int = 0, logs: str = "logs") -> Any:
    words = (f"from={run}", f"datamodule.path={logs}", "logger=none", f"hydra.run.dir={into}")
    return train(cwd, *words, *more, code=code)


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "night.json").read_text())
    return record


def lists(run: Path) -> bytes:
    return (run / "recommendations.jsonl").read_bytes()


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of four days: `rules` and `convex`; and of five days, the last with new tracks: `rules-night`,
    `convex-night`, `rules-whole`, `convex-whole`."""
    cwd = tmp_path_factory.mktemp("cwd")
    logs_of(cwd / "logs")
    train(cwd, *COMMON, "datamodule.path=logs", "model=rules", "hydra.run.dir=rules")
    train(cwd, *COMMON, *HEAD, "datamodule.path=logs", "model=convex", "hydra.run.dir=convex")
    write_day(cwd / "logs", DAYS, num_tracks=NUM_TRACKS + NUM_NEW)
    for model, more in {"rules": (), "convex": HEAD}.items():
        night(cwd, model, f"{model}-night")
        train(cwd, *COMMON, *more, "datamodule.path=logs", f"model={model}", f"hydra.run.dir={model}-whole")
    return cwd


def test_counts_are_those_of_training_from_the_beginning(nights: Path) -> None:
    assert lists(nights / "rules-night") == lists(nights / "rules-whole") != lists(nights / "rules")
    two = [FittedModel.read(nights / name, "rules").plays.tolist() for name in ("rules-night", "rules-whole")]
    assert two[0] == two[1]


def data_of_day(cwd: Path, day: int, model: FittedModel, name: str, **more: Any) -> Any:
    """A day as test data of a model, with the settings of its run, and the settings of its metrics."""
    logs = cwd / name
    write_tracks(logs, (row // 3 for row in range(NUM_TRACKS + NUM_NEW)))
    words = HEAD if name.startswith("convex") else ()
    data, settings = read_data.call(["datamodule=botify", f"datamodule.path={write_day(logs, day, **more)}", *words])
    return data.as_test_of(model.catalog, model.plays), settings


def test_a_head_comes_near_to_training_from_the_beginning(nights: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("convex", "convex-night", "convex-whole"):
        model = FittedModel.read(nights / name, "convex")
        data, settings = data_of_day(tmp_path, DAYS + 1, model, name, num_tracks=NUM_TRACKS + NUM_NEW)
        found[name] = measured(model.ranker, data, "test", settings)[0]
    ndcg = {name: means["ndcg_at_10"] for name, means in found.items()}
    tolerated = found["convex-whole"]["ndcg_at_10_half_width"]  # the two are not distinguishable in one day
    assert abs(ndcg["convex-night"] - ndcg["convex-whole"]) < tolerated
    learned, catalog = Recommendations.read_with_catalog(nights / "convex-night" / "recommendations.jsonl")
    first, second = catalog.rows_of([100 + NUM_TRACKS, 101 + NUM_TRACKS])
    assert second in learned.rows[first, :10]  # a new track after a new track


def test_the_metrics_of_a_night_are_of_the_model_that_was_served(nights: Path, tmp_path: Path) -> None:
    for name in ("rules", "convex"):
        model = FittedModel.read(nights / name, name)
        data, settings = data_of_day(tmp_path, DAYS, model, name, num_tracks=NUM_TRACKS + NUM_NEW)
        means, _ = measured(model.ranker, data, "test", settings)
        of_night = metrics_of(nights / f"{name}-night")
        for metric in ("recall_at_10", "ndcg_at_10", "ndcg_at_10_half_width", "num_every_target_queries"):
            assert of_night[f"test/{metric}"] == pytest.approx(means[metric], abs=1e-6), (name, metric)
        assert record_of(nights / f"{name}-night")["metrics"]["ndcg_at_10"]["mean"] == of_night["test/ndcg_at_10"]
        learned = FittedModel.read(nights / f"{name}-night", name)  # which would be better
        assert measured(learned.ranker, data, "test", settings)[0]["ndcg_at_10"] > means["ndcg_at_10"]


def test_a_night_says_what_it_has_learned(nights: Path) -> None:
    record = record_of(nights / "convex-night")
    assert (record["sessions"], record["plays"], record["new_tracks"], record["new_artists"]) == (60, 480, 0, 0)
    assert record["since"] == json.loads((nights / "convex" / "refit.json").read_text())["until"]
    assert record["until"] == json.loads((nights / "convex-night" / "refit.json").read_text())["until"]
    assert record["until"] == "2023-11-18 22:21:20"
    assert record["from"] == str(nights / "convex")
    assert (record["verdict"], record["is_exported"], len(record["nights"])) == ("as before", True, 1)
    shares = record["metrics"]["mean_time_per_session"]
    assert shares["lower"] < shares["mean"] == metrics_of(nights / "convex-night")["night/mean_time_per_session"]
    assert {"start", "data", "training", "test", "lists"} <= record["seconds"].keys()
    refit = json.loads((nights / "convex-night" / "refit.json").read_text())
    whole = json.loads((nights / "convex-whole" / "refit.json").read_text())
    assert (refit["sessions"], refit["pairs"]) == (whole["sessions"], whole["pairs"]) == (300, 300 * 7)


def test_the_lists_of_the_tested_model_are_those_of_the_run_before(nights: Path) -> None:
    """They are not written a second time, which would double the time of a night."""
    assert not (nights / "convex-night" / "evaluated").exists()
    assert (nights / "convex" / "evaluated").exists()
    with pytest.raises(InputError, match=r"convex-night is a night, which tests the model .* name that one, .*convex$"):
        FittedModel.read(nights / "convex-night", "convex", evaluated=True)


def test_what_was_learned_stays_in_its_rows(nights: Path) -> None:
    """An optimizer that has no state takes larger steps."""
    before, after = (
        read_checkpoint(nights / name / "checkpoints/refitted.ckpt") for name in ("convex", "convex-night")
    )
    table = "scorer.parts.track.weight"
    cosines = torch.cosine_similarity(*(one["state_dict"][table][:NUM_TRACKS] for one in (before, after)))
    assert cosines.min() > 0.5
    steps = [max(one["step"] for one in of["optimizer_states"][0]["state"].values()) for of in (before, after)]
    assert steps[1] > steps[0]


def test_the_same_night_twice_changes_nothing(nights: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (nights / "rules-night").rglob("*")}
    done = night(nights, "rules-night", "again")
    assert "nothing new since 2023-11-18 22:21:20" in done.stdout
    assert not (nights / "again").exists()
    assert {path: path.stat().st_mtime_ns for path in (nights / "rules-night").rglob("*")} == before
    write_day(nights / "lonely", 9)
    one = event(1, 1_700_900_000_000, 100, 1.0, "last")
    write_lines(nights / "lonely" / "logs" / "day-9" / "data.json", [one])  # a play makes no pair
    write_tracks(nights / "lonely", range(NUM_TRACKS))
    assert "nothing new" in night(nights, "rules-night", "again", logs="lonely").stdout
    write_lines(nights / "lonely" / "logs" / "day-9" / "data.json", [])
    assert "nothing new" in night(nights, "rules-night", "again", logs="lonely").stdout
    assert not (nights / "again").exists()


def test_a_fall_exports_nothing_and_ends_with_3(nights: Path, tmp_path: Path) -> None:
    shutil.copytree(nights / "logs", tmp_path / "logs")
    shutil.copytree(nights / "rules", tmp_path / "rules")
    (tmp_path / "logs" / "logs" / f"day-{DAYS}" / "data.json").unlink()
    write_day(tmp_path / "logs", DAYS, loved=0.0)  # nobody follows the ring any more
    lines = (tmp_path / "logs" / "logs" / f"day-{DAYS}" / "data.json").read_text().replace('"time": 0.1', '"time": 1.0')
    (tmp_path / "logs" / "logs" / f"day-{DAYS}" / "data.json").write_text(lines)
    done = night(tmp_path, "rules", "fallen", code=3)
    assert "fall, not exported: recall_at_10, ndcg_at_10 fell" in done.stdout
    left = {path.name for path in (tmp_path / "fallen").iterdir()}
    assert not left & {"recommendations.jsonl", "learned", "refit.json"}
    record = record_of(tmp_path / "fallen")
    assert (record["verdict"], record["is_exported"]) == ("fall", False)
    assert metrics_of(tmp_path / "fallen")["test/ndcg_at_10"] == record["metrics"]["ndcg_at_10"]["mean"]
    assert "night that was not exported; begin from the run before it" in line(night(tmp_path, "fallen", "x", code=2))
    night(tmp_path, "rules", "fallen", "guard=none", logs="a-typo", code=2)
    assert record_of(tmp_path / "fallen") == record
    night(tmp_path, "rules", "fallen", "guard=none")
    assert record_of(tmp_path / "fallen")["is_exported"]
    assert (tmp_path / "fallen" / "recommendations.jsonl").exists()


def test_a_night_in_which_nobody_liked_anything_is_learned(nights: Path, tmp_path: Path) -> None:
    shutil.copytree(nights / "convex", tmp_path / "convex")
    write_day(tmp_path / "logs", DAYS)
    write_tracks(tmp_path / "logs", (row // 3 for row in range(NUM_TRACKS + NUM_NEW)))
    file = tmp_path / "logs" / "logs" / f"day-{DAYS}" / "data.json"
    file.write_text(file.read_text().replace('"time": 1.0', '"time": 0.2'))
    done = night(tmp_path, "convex", "night")
    record = record_of(tmp_path / "night")
    assert (list(record["metrics"]), record["verdict"]) == (["mean_time_per_session"], "as before")
    assert done.stdout.rstrip().endswith(f"recommendations={tmp_path / 'night'}")


def line(done: Any) -> str:
    return " ".join(done.stderr.split())


def test_plays_before_the_last_night_are_counted_named_and_left_out(nights: Path, tmp_path: Path) -> None:
    shutil.copytree(nights / "logs", tmp_path / "logs")
    shutil.copytree(nights / "rules", tmp_path / "rules")
    shutil.copytree(nights / "rules", tmp_path / "learned-here")
    late = write_day(tmp_path / "logs", 1, loved=0.2)  # a file of another name, of a day that was learned
    (late / "logs" / "day-1").rename(late / "logs" / "late")
    done = night(tmp_path, "rules", "night")
    assert "480 plays are not after that, and are left out (logs/logs/late/data.json)" in " ".join(done.stdout.split())
    assert record_of(tmp_path / "night")["late_plays"] == {"logs/logs/late/data.json": 480}
    assert lists(tmp_path / "night") == lists(nights / "rules-night")


def data_in(path: Path, *words: str, source: str = "botify") -> PairDataModule:
    """Data that are not read yet."""
    config = composed(f"datamodule={source}", f"datamodule.path={path}", f"run_dir={path.parent}", *words)
    data: PairDataModule = instantiate(config.datamodule, _convert_="all")
    return data


def learned_in(path: Path, *words: str, source: str = "botify") -> Learned:
    data = data_in(path, *words, source=source)
    data.setup()
    data.as_training().remember(path.parent / "learned", is_whole=True)
    return Learned.read(path.parent / "learned", "run")


def test_files_are_known_again_after_a_rotation(tmp_path: Path) -> None:
    logs = logs_of(tmp_path / "logs", 3) / "logs"
    log = logs / "server" / "data.json"
    log.parent.mkdir()
    days = [(logs / f"day-{day}" / "data.json").rename(tmp_path / f"{day}") for day in range(3)]
    days[0].rename(log.with_name("data.json.1"))
    half = days[1].read_text().splitlines(keepends=True)[:240]
    log.write_text("".join(half))
    learned = learned_in(tmp_path / "logs")
    log.with_name("data.json.1").rename(log.with_name("data.json.2"))
    days[1].rename(log.with_name("data.json.1"))  # it has grown before it was renamed
    days[2].rename(log)
    data = data_in(tmp_path / "logs")
    new = data.read_new(learned)
    assert {file.name for file in data._files.sizes} == {"data.json", "data.json.1"}
    assert (new.num_plays, new.num_late) == (240 + 480, {})
    new.whole.remember(tmp_path / "learned", is_whole=True)
    later = Learned.read(tmp_path / "learned", "night")
    assert learned.files.keys() < later.files.keys()
    with pytest.raises(NothingNew):
        data_in(tmp_path / "logs").read_new(later)


def test_a_night_whose_listeners_all_said_no_has_nothing_new(tmp_path: Path) -> None:
    logs = logs_of(tmp_path / "logs", 2)
    learned = learned_in(logs)
    write_day(logs, 2)
    file = logs / "logs" / "day-2" / "data.json"
    write_lines(file, [json.loads(line) | {"remember": False} for line in file.read_text().splitlines()])
    with pytest.raises(NothingNew):
        data_in(logs).read_new(learned)


def test_late_plays_of_known_files_are_counted(tmp_path: Path) -> None:
    logs = logs_of(tmp_path / "logs", 2)
    learned = learned_in(logs)
    file = logs / "logs" / "day-1" / "data.json"
    late, now = ([json.dumps(event(1, ms + step, 100 + step)) for step in range(2)] for ms in (TIME_0, TIME_0 + 10**9))
    lines = file.read_text().splitlines()
    write_lines(file, [*lines, *late])
    with pytest.raises(NothingNew) as nothing:
        data_in(logs).read_new(learned)
    assert learned.late(nothing.value.num_learned) == {str(file): 2}
    write_lines(file, [*lines, *late, *now])
    assert data_in(logs).read_new(learned).num_late == {str(file): 2}


def test_a_play_of_the_future_hides_no_play_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = logs_of(tmp_path / "logs", 2)
    now_s = (TIME_0 + 3 * 86_400_000) / 1000
    monkeypatch.setattr("segue.datamodules.pair_datamodule.time.time", lambda: now_s)
    file = logs / "logs" / "day-1" / "data.json"
    stray = [json.dumps(event(1, int(now_s * 1000) + 3_600_000 + step, 100 + step)) for step in range(2)]
    write_lines(file, [*file.read_text().splitlines(), *stray])  # by a clock that is an hour ahead
    learned = learned_in(logs)
    assert learned.until_ms == now_s * 1000
    past = learned_in(logs_of(tmp_path / "past" / "logs", 2))
    now_s += 1800
    with pytest.raises(NothingNew) as nothing:
        data_in(logs).read_new(past)
    assert nothing.value.num_later == {str(file): 2}
    write_day(logs, 2)
    before = data_in(logs).read_new(past)
    assert (before.num_plays, before.num_late, before.num_later) == (480, {}, {str(file): 2})
    assert before.until_ms < now_s * 1000
    before.whole.remember(tmp_path / "learned", is_whole=True)
    night = Learned.read(tmp_path / "learned", "night")
    assert not any(name == str(file) for name in night.files.values())  # it is read again
    now_s += 7200
    after = data_in(logs).read_new(night)
    assert (after.num_plays, after.num_later) == (2, {})


def test_plays_of_the_future_that_a_run_has_learned_are_not_new_when_their_time_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = logs_of(tmp_path / "logs", 2)
    now_s = (TIME_0 + 3 * 86_400_000) / 1000
    monkeypatch.setattr("segue.datamodules.pair_datamodule.time.time", lambda: now_s)
    file, soon = logs / "logs" / "day-1" / "data.json", int(now_s * 1000) + 3_600_000
    lines = file.read_text().splitlines()
    strays = [json.dumps(event(1, soon + step, 100 + step)) for step in range(2)]
    write_lines(file, [*lines, *strays])  # later on the day of reading
    learned = learned_in(logs)
    now_s += 7200
    more = [json.dumps(event(2, soon - 60_000 + step, 100 + step)) for step in range(3)]
    write_lines(file, [*lines, *strays, ""])  # it has grown
    with pytest.raises(NothingNew):
        data_in(logs).read_new(learned)
    write_lines(file, [*lines, *strays, *more])
    new = data_in(logs).read_new(learned)
    assert (new.num_plays, new.num_late) == (3, {})


def test_a_night_names_plays_of_the_future(nights: Path, tmp_path: Path) -> None:
    shutil.copytree(nights / "logs", tmp_path / "logs")
    shutil.copytree(nights / "rules", tmp_path / "rules")
    file = Path("logs/logs") / f"day-{DAYS}" / "data.json"
    (tmp_path / file).write_text((tmp_path / file).read_text() + json.dumps(event(1, 4_000_000_000_000, 100)) + "\n")
    said = " ".join(night(tmp_path, "rules", "night").stdout.split())
    assert f"future 1 plays are later than now, and are left out until then ({file})" in said
    assert record_of(tmp_path / "night")["future_plays"] == {str(file): 1}
    assert lists(tmp_path / "night") == lists(nights / "rules-night")
    said = " ".join(night(tmp_path, "night", "again").stdout.split())
    assert "nothing new since 2023-11-18 22:21:20" in said
    assert f"future 1 plays are later than now, and are left out until then ({file})" in said


def test_files_in_an_archive_and_beside_plays_of_the_future_are_not_late(tmp_path: Path) -> None:
    logs = logs_of(tmp_path / "logs", 2)
    future = logs / "logs" / "day-1" / "data.json"
    future.write_text(future.read_text() + json.dumps(event(1, 4_000_000_000_000, 100, 1.0)) + "\n")
    learned = learned_in(logs)
    write_day(logs, 2)
    data = data_in(logs)
    new = data.read_new(learned)
    assert (new.num_plays, new.num_late) == (480, {})
    shutil.make_archive(str(tmp_path / "all"), "zip", logs)
    learned = learned_in(tmp_path / "all.zip")
    write_day(logs, 3)
    shutil.make_archive(str(tmp_path / "all"), "zip", logs)
    new = data_in(tmp_path / "all.zip").read_new(learned)
    assert (new.num_plays, new.num_late) == (480, {})


def test_the_tested_model_has_learned_what_is_too_old_to_be_learned_again(tmp_path: Path) -> None:
    learned = learned_in(logs_of(tmp_path / "logs", 2))
    write_day(tmp_path / "logs", 9)
    new = data_in(tmp_path / "logs").read_new(learned, keep_days=1.0)
    assert new.evaluated.vocabulary.plays.tolist() == learned.plays.tolist()
    assert len(new.evaluated.pairs["train"]) == 2 * 60 * 7
    assert new.evaluated.vocabulary.mean_played_ratio is not None
    assert len(new.whole.pairs["train"]) == 60 * 7


def test_a_head_learns_the_new_sessions_beside_those_that_are_not_too_old(tmp_path: Path) -> None:
    learned = learned_in(logs_of(tmp_path / "logs", 3))
    write_day(tmp_path / "logs", 3)
    new = data_in(tmp_path / "logs").read_new(learned, keep_days=1.5)
    once, shown = (new.replayed(1, times=times).pairs["train"] for times in (1, 3))
    assert len(once) == (60 + 30) * 7
    sessions, counts = np.unique(shown.session, return_counts=True)
    assert dict(zip(sessions.tolist(), counts.tolist(), strict=True)) == {
        **dict.fromkeys(range(60), 7),  # all that are not too old, of which there are less than 90
        **dict.fromkeys(range(60, 120), 3 * 7),
    }
    others = [set(new.replayed(seed, times=1).pairs["train"].session.tolist()) for seed in (1, 2)]
    assert others[0] != others[1]


@pytest.mark.parametrize(("recipe", "times"), [("playlists", 3), ("shares", 1)])
def test_a_loss_that_compares_tracks_is_shown_new_sessions_more_often(
    recipe: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = learned_in(logs_of(tmp_path / "logs", 2))
    new = data_in(write_day(tmp_path / "logs", 2)).read_new(learned)
    config = composed("datamodule=botify", "model=convex", f"recipe={recipe}")
    build, words, trainings = instantiate(config.ranker, _convert_="all"), new.evaluated.vocabulary, list[Any]()
    grown = Grown(build, {"state_dict": build(vocabulary=words).state_dict()}, words, words, "run")

    def refit(_: Any, data: Any, *__: Any, **___: Any) -> Refitted:
        trainings.append(data.pairs["train"])
        return Refitted(module=grown.module, data=data, num_epochs=1)

    monkeypatch.setattr(night_module, "refit", refit)
    night = Night(folder=tmp_path, new=new, grown=grown, decided={}, nights=(), first={}, is_guarded=False)
    assert night.learn(config, build).data is new.whole
    [shown] = trainings
    assert np.bincount(shown.session)[-60:].tolist() == [times * 7] * 60


def rows_of(path: Path, num: int, *, first_id: int = 0, first_title: int = 0, day: int = 0) -> Path:
    """Sessions of six plays of a source without a catalogue, whose artists have three tracks each."""
    lines = [
        f"{session % 9},{1_700_000_000 + 86_400 * day + 600 * session + 10 * step},{first_id + track},"
        f"t{first_title + track},Artist {track // 3}"
        for session in range(num)
        for step in range(6)
        for track in [(session * 7 + step) % 20]
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["user,timestamp,track,title,artist", *lines]) + "\n")
    return path.parent


def test_a_night_of_new_tracks_alone_is_known_by_its_artists(tmp_path: Path) -> None:
    logs = rows_of(tmp_path / "logs" / "0.csv", 60)
    learned = learned_in(logs, source="table")
    rows_of(logs / "1.csv", 30, first_id=500, first_title=500, day=1)
    assert data_in(logs, source="table").read_new(learned).num_tracks == 20
    rows_of(logs / "1.csv", 30, first_id=500, day=1)  # known titles with other ids
    with pytest.raises(InputError, match=r"none of the 20 tracks in .* or wait for plays of known tracks"):
        data_in(logs, source="table").read_new(learned)


def test_columns_and_units_are_those_of_the_run(tmp_path: Path) -> None:
    file = rows_of(tmp_path / "logs" / "0.csv", 60) / "0.csv"
    head, *lines = file.read_text().splitlines()
    file.write_text("\n".join([f"{head},part", *(f"{line},{row % 101}" for row, line in enumerate(lines))]) + "\n")
    words = ("datamodule.columns.played_ratio=part",)
    learned = learned_in(tmp_path / "logs", *words, source="table")
    night = rows_of(tmp_path / "logs" / "1.csv", 30, day=1) / "1.csv"
    head, *lines = night.read_text().splitlines()
    night.write_text("\n".join([f"{head},part", *(f"{line},1" for line in lines)]) + "\n")  # or all of each track
    new = data_in(tmp_path / "logs", *words, source="table").read_new(learned)
    assert new.shares.max() == pytest.approx(0.06)


def test_logs_of_another_source_are_refused(tmp_path: Path) -> None:
    logs = rows_of(tmp_path / "logs" / "0.csv", 60)
    no_clock = ("datamodule.split=order", "datamodule.columns.timestamp=null", "datamodule.columns.session=user")
    learned = learned_in(logs, *no_clock, source="table")
    data = data_in(logs, "datamodule.columns.timestamp=timestamp", source="table")
    with pytest.raises(InputError, match="has timestamps, and the plays that the run has learned have none; give the"):
        data.read_new(learned)
    learned = learned_in(logs, source="table")
    of_night = rows_of(tmp_path / "night" / "1.csv", 30, day=1)
    head, *lines = (of_night / "1.csv").read_text().splitlines()
    (of_night / "1.csv").write_text("\n".join([f"{head},skipped", *(f"{line},true" for line in lines)]) + "\n")
    data = data_in(of_night, "datamodule.columns.skipped=skipped", source="table")
    with pytest.raises(InputError, match=r"from=: shares of .* give logs with the columns of the run"):
        data.read_new(learned)


def test_what_needs_a_clock_is_refused_without_one(tmp_path: Path) -> None:
    file = rows_of(tmp_path / "logs" / "0.csv", 60) / "0.csv"
    words = ("datamodule.split=order", "datamodule.columns.timestamp=null", "datamodule.columns.session=user")
    learned = learned_in(file, *words, source="table")
    with pytest.raises(InputError, match="keep_days= beside from= needs timestamps"):
        data_in(file, *words, source="table").read_new(learned, 3.0)


def test_two_nights_at_once_are_refused(nights: Path) -> None:
    with FileLock(nights / "rules" / ".night.lock"):
        assert "another night begins from it now" in line(night(nights, "rules", "second", code=2))
    assert not (nights / "second").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("model.dim=8",),
            "model.dim=8 has no place beside from=rules, which keeps the recipe and the source of its run",
        ),
        (("datamodule=table",), "datamodule=table has no place beside from=rules"),
        (("-m",), "from=rules goes on with one run; leave out -m"),
        (("guard=maybe",), "guard must be chart or none, got 'maybe'"),
        (("keep_days=0",), "keep_days must be a number above 0 or null, got 0"),
        (("from=nowhere",), "error: from=nowhere: there is no MLflow store"),
    ],
)
def test_words_that_do_not_fit_are_refused(words: Sequence[str], message: str, nights: Path) -> None:
    assert message in line(night(nights, "rules", "refused", *words, code=2))
    assert not (nights / "refused").exists()


def test_a_night_needs_logs(nights: Path) -> None:
    assert "from=rules needs datamodule.path=<all logs so far>" in line(train(nights, "from=rules", code=2))
    said = line(train(nights, *COMMON, "datamodule.path=logs", "guard=maybe", code=2))
    assert "guard=maybe is of a night and needs from=<run>" in said


def test_runs_that_cannot_go_on_are_refused(nights: Path, tmp_path: Path) -> None:
    for name in ("damaged", "old", "unknown"):
        shutil.copytree(nights / "rules", tmp_path / name)
    shutil.copytree(nights / "logs", tmp_path / "logs")
    (tmp_path / "damaged" / "learned" / "plays.parquet").write_bytes(b"half")
    assert "cannot read what it has learned" in line(night(tmp_path, "damaged", "x", code=2))
    (tmp_path / "damaged" / "run.json").write_text("{")
    assert "run.json is damaged" in line(night(tmp_path, "damaged", "x", code=2))
    shutil.rmtree(tmp_path / "old" / "learned")
    said = line(night(tmp_path, "old", "x", code=2))
    assert "it is of an older version, or lacks checkpoints; train a new run" in said
    (tmp_path / "old" / "refit.json").unlink()
    assert f"python train.py resume={tmp_path / 'old'} refit=all does so" in line(night(tmp_path, "old", "x", code=2))
    others = tmp_path / "others"
    write_lines(others / "tracks.json", [{"artist": "A", "title": str(row), "track": 9000 + row} for row in range(60)])
    write_day(others, DAYS, first_id=9000)
    assert "none of the 60 tracks" in line(night(tmp_path, "unknown", "x", logs="others", code=2))
    assert not (tmp_path / "x").exists()
    config = tmp_path / "unknown" / "config.yaml"
    config.write_text(config.read_text().replace("window: 10", "window: 9"))
    assert "model.window was 9 in this run, and is 10" in line(night(tmp_path, "unknown", "x", code=2))


@pytest.fixture(scope="module")
def of_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the shards of four days, `rules` and `convex`, and the raw logs of five days."""
    cwd = tmp_path_factory.mktemp("shards")
    logs_of(cwd / "logs")
    words = "datamodule=botify", "datamodule.path=logs", "datamodule.max_rejected=0.5", "hydra.run.dir=pairs"
    run_verb("prepare.py", cwd, *words)
    common = (*COMMON[:3], "datamodule=shards", "datamodule.path=pairs")
    train(cwd, *common, "model=rules", "hydra.run.dir=rules")
    train(cwd, *common, "model=convex", "model.dim=8", "trainer.max_epochs=1", "hydra.run.dir=convex")
    write_day(cwd / "logs", DAYS, num_tracks=NUM_TRACKS + NUM_NEW)
    shutil.rmtree(cwd / "pairs")  # nights do not read them
    return cwd


def test_a_run_of_shards_learns_the_new_files_of_its_source(nights: Path, of_shards: Path) -> None:
    night(of_shards, "rules", "rules-night")
    assert lists(of_shards / "rules-night") == lists(nights / "rules-night")
    done = night(of_shards, "convex", "convex-night")
    assert "new          60 sessions, 480 plays, 0 tracks since 2023-11-17 22:21:20" in done.stdout
    record, learned = record_of(of_shards / "convex-night"), Learned.read(of_shards / "convex-night/learned", "run")
    assert (record["late_plays"], record["future_plays"], learned.num_sessions) == ({}, {}, 300)
    assert json.loads((of_shards / "convex-night" / "refit.json").read_text())["sessions"] == 300
    assert "nothing new" in night(of_shards, "convex-night", "again").stdout
    assert not (of_shards / "again").exists()
    known = Learned.read(of_shards / "convex" / "learned", "run")
    assert {Path(path).parent.name for path in known.files.values()} == {f"day-{day}" for day in range(DAYS)}


def test_a_night_of_shards_leaves_out_listeners_and_reads_as_its_source_did(of_shards: Path) -> None:
    (of_shards / "removed.txt").write_text("4\n")
    night(of_shards, "rules", "removed", "datamodule.policies.without=removed.txt")
    assert record_of(of_shards / "removed")["sessions"] < 60
    night(of_shards, "removed", "again")  # says that nothing is new
    learned = Learned.read(of_shards / "rules" / "learned", "run")
    words = "datamodule=shards", "datamodule.path=logs", "model=gru4rec", "recipe=playlists"
    data = _source_of(composed(*words), learned, "run")
    assert (data._whole_sessions, data._rejections.most) == (True, 0.5)


def test_a_head_keeps_a_sample_of_its_shards(of_shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("segue.datamodules.learned.MOST_KEPT", 30)
    shards_of(data_in(of_shards / "logs"), tmp_path / "pairs", source={"policies": {"until": "now"}})
    data = read_shards(tmp_path / "pairs")
    data.setup()
    data.as_training().remember(tmp_path / "learned", is_whole=False)
    learned = Learned.read(tmp_path / "learned", "run")
    assert (len(learned.sessions), learned.num_sessions, learned.is_whole) == (30, 300, False)
    assert learned.plays.sum() == 300 * 8


def test_settings_are_tried_with_the_attributes_that_the_run_of_shards_knows(tmp_path: Path) -> None:
    catalog = Catalog.from_columns([1, 2], ["a", "b"], ["x", "y"], source="shards")
    catalog = replace(catalog, attributes={"tags": Values.from_lists([["a"], []], names=["a"])})
    (tmp_path / "learned").mkdir()
    write_vocabulary(catalog, np.zeros(2, bool), tmp_path / "learned")
    raw = OmegaConf.create({"cache": None, "path": str(tmp_path / "raw")})
    assert list(example_of(raw, tmp_path / "learned").catalog.attributes) == ["tags"]
    assert not example_of(raw).catalog.attributes


@pytest.mark.parametrize(("has_clock", "lacks"), [(True, "durations"), (False, "timestamps")])
def test_shards_without_durations_or_times_are_refused(
    *, has_clock: bool, lacks: str, of_shards: Path, tmp_path: Path
) -> None:
    shutil.copytree(of_shards / "rules", tmp_path / "rules")
    path = tmp_path / "rules" / "learned" / "learned.json"
    record = json.loads(path.read_text())
    reading = record["reading"] | ({"share": "longest"} if has_clock else {})
    path.write_text(json.dumps(record | {"has_clock": has_clock, "reading": reading}))
    said = line(night(of_shards, str(tmp_path / "rules"), "refused", code=2))
    assert f"was trained from shards of a source without {lacks}" in said
    assert not (of_shards / "refused").exists()


RUN = "import runpy; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"


def test_a_night_that_is_killed_in_any_phase_is_whole_or_absent(nights: Path, tmp_path: Path) -> None:
    shutil.copytree(nights / "logs", tmp_path / "logs")
    shutil.copytree(nights / "rules", tmp_path / "before")
    words = ("from=before", "datamodule.path=logs", "logger=none", "hydra.run.dir=night")
    files = {path: path.read_bytes() for path in (tmp_path / "before").rglob("*") if path.is_file()}
    for phase, kills in KILLS.items():
        for moment, file in kills:  # each begins the night again that was killed before
            command = killed_command(moment, file, RUN, str(ROOT / "train.py"), *words)
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == -signal.SIGKILL, (file, done.stdout, done.stderr)
            assert not (tmp_path / "night" / "night.json").exists(), file
            assert {path: path.read_bytes() for path in files} == files, file
            assert is_unfinished_night(tmp_path / "night") == (phase != "reading"), file
    night(tmp_path, "before", "night")
    assert lists(tmp_path / "night") == lists(nights / "rules-night")
    assert not is_unfinished_night(tmp_path / "night")


def test_a_head_that_is_killed_while_it_trains_is_begun_again(nights: Path, tmp_path: Path) -> None:
    shutil.copytree(nights / "logs", tmp_path / "logs")
    shutil.copytree(nights / "convex", tmp_path / "convex")
    words = ("from=convex", "datamodule.path=logs", "logger=none", "hydra.run.dir=night")
    kill_at(tmp_path, "night 1/", *words)
    assert "not exported; begin from the run before it" in line(night(tmp_path, "night", "next", code=2))
    assert "such a run is started again" in line(train(tmp_path, "resume=night", code=2))
    (tmp_path / "night" / "left").write_text("of the night that was killed")
    night(tmp_path, "convex", "night")
    assert lists(tmp_path / "night") == lists(nights / "convex-night")
    assert not (tmp_path / "night" / "left").exists()


def test_a_source_without_a_clock_goes_on_after_the_sessions_that_were_learned(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for session in range(300):
        track = int(rng.integers(40))
        for _ in range(6):
            rows.append(f"{session},{track},Artist {track // 3}")
            track = (track + 1) % 40 if rng.random() < 0.8 else int(rng.integers(40))
    for num in (240, 300):
        (tmp_path / f"{num}.csv").write_text("\n".join(["session,track,artist", *rows[: 6 * num]]) + "\n")
    words = ("datamodule=table", "datamodule.split=order", "model=rules", "callbacks.export.k=10", *COMMON[:3])
    for num in (240, 300):
        train(tmp_path, *words, f"datamodule.path={num}.csv", f"hydra.run.dir=run-{num}")
    night(tmp_path, "run-240", "night", logs="300.csv")
    assert lists(tmp_path / "night") == lists(tmp_path / "run-300")
    assert record_of(tmp_path / "night")["sessions"] == 60
    assert "nothing new" in night(tmp_path, "night", "x", logs="300.csv").stdout


def test_older_sessions_than_keep_days_are_left_out(nights: Path, tmp_path: Path) -> None:
    shutil.copytree(nights / "logs", tmp_path / "logs")
    shutil.copytree(nights / "rules", tmp_path / "rules")
    night(tmp_path, "rules", "night", "keep_days=1.5")
    learned = Learned.read(tmp_path / "night" / "learned", "night")
    assert len(learned.sessions) == 60 + 60
    for day in range(DAYS - 1):
        shutil.rmtree(tmp_path / "logs" / "logs" / f"day-{day}")
    train(tmp_path, *COMMON, "datamodule.path=logs", "model=rules", "hydra.run.dir=two-days")
    assert lists(tmp_path / "night") == lists(tmp_path / "two-days")


def test_a_sample_does_not_depend_on_when_sessions_were_learned(nights: Path) -> None:
    whole = Learned.read(nights / "rules-whole" / "learned", "whole").sessions
    first, second = (chosen_sessions(whole, (np.arange(len(whole)) < 180) == is_first) for is_first in (True, False))
    kept = chosen_sessions(first, sample(first, 50))
    later = joined(kept, second)
    at_once, later = (chosen_sessions(one, sample(one, 50)) for one in (whole, later))
    assert len(at_once) == 50
    assert at_once.timestamp.tolist() == later.timestamp.tolist()
    assert at_once.listens.track.tolist() == later.listens.track.tolist()
    assert 20 < (sample(whole, 50).nonzero()[0] < 180).sum() < 40  # 30 of 50 are expected


def test_limits_are_those_of_shewhart_s_chart_of_individual_values() -> None:
    values = [10.0, 12.0, 11.0, 9.0, 13.0]  # moving ranges 2, 1, 2, 4
    assert limits(values) == pytest.approx((11 - 2.66 * 9 / 4, 11 + 2.66 * 9 / 4))
    assert limits(values[:4]) is None


def one(mean: float, half: float = 0.01) -> dict[str, dict[str, float]]:
    return {"ndcg_at_10": {"mean": mean, "lower": mean - half, "upper": mean + half}}


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(0.22, "fall"), (0.24, "as before"), (0.30, "as before"), (0.36, "as before"), (0.39, "better")],
)
def test_without_enough_nights_the_first_test_decides(now: float, verdict: str) -> None:
    assert judged(one(now), [one(0.3)] * 4, one(0.30))["verdict"] == verdict


def test_with_enough_nights_their_chart_decides() -> None:
    before = [one(value) for value in (0.30, 0.31, 0.30, 0.31, 0.30)]
    assert judged(one(0.27, 0.005), before, one(0.1)) == {
        "limits": {"ndcg_at_10": {"lower": pytest.approx(0.2774), "upper": pytest.approx(0.3306), "of": "nights"}},
        "verdict": "fall",
        "fallen": ["ndcg_at_10"],
    }
    assert judged(one(0.28), before, one(0.9))["verdict"] == "as before"
    assert judged(one(0.0, 0.3), before, one(0.9))["verdict"] == "as before"  # a small night


def test_a_night_of_few_sessions_is_neither_judged_nor_in_the_chart() -> None:
    metrics = {"test/num_sessions": 2.0, "test/ndcg_at_10": 0.0, "test/ndcg_at_10_half_width": 0.0}
    small = intervals_of(metrics, np.zeros(2))
    before = [one(value) for value in (0.30, 0.31, 0.30, 0.31, 0.30)]
    assert judged(small, before, one(0.3))["verdict"] == judged(small, [], one(0.3))["verdict"] == "as before"
    read: Any = {"ndcg_at_10": {"mean": 0.0, "lower": None, "upper": None}}
    for few in (small, read):
        assert judged(one(0.27, 0.005), [*before, few], one(0.1))["verdict"] == "fall"


def test_tracks_and_artists_get_rows_after_the_old_ones_however_many() -> None:
    old = Catalog.from_columns([5, 3], ["a", "b"], ["Ann", None], source="old")
    new = Catalog.from_columns([9, 3, 7, 8], ["c", "b", "d", "e"], ["Bob", None, "Ann", None], source="new")
    catalog, rows = with_new_tracks(old, new)
    assert catalog.track_ids.tolist() == [5, 3, 9, 7, 8]
    assert rows.tolist() == [2, 1, 3, 4]
    assert catalog.artists[catalog.artist_of].tolist() == ["Ann", "", "Bob", "Ann", ""]
    assert catalog.artist_of.tolist() == [0, 1, 2, 0, 3]
    num = 1_000_000
    many = Catalog.from_columns(range(num), [""] * num, [f"{row // 2}" for row in range(num)], source="many")
    catalog, rows = with_new_tracks(old, many)
    assert len(catalog) == num
    assert np.array_equal(catalog.track_ids[rows], many.track_ids)


def test_a_catalogue_without_a_common_id_has_one_line(nights: Path, tmp_path: Path) -> None:
    model = FittedModel.read(nights / "rules", "rules")
    write_tracks(tmp_path, range(60))
    data, _ = read_data.call(["datamodule=botify", f"datamodule.path={logs_of(tmp_path / 'logs')}"])
    other = Catalog.from_columns([1, 2], ["a", "b"], ["x", "y"], source="other")
    with pytest.raises(InputError, match=r"none of the 63 tracks in .* is among the 2 of the run"):
        data.as_test_of(other, np.ones(2, np.int64))
    few = Catalog.from_columns([100, 101], ["a", "b"], ["x", "y"], source="few")
    test = data.as_test_of(few, np.ones(2, np.int64))
    played = np.isin(data.catalog.track_ids[data.sessions.listens.track], [100, 101])
    assert test.dropped["unknown"] == (~played).sum()
    assert len(model.catalog) == NUM_TRACKS + NUM_NEW
