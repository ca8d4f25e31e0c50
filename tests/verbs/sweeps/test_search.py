"""A search without training: its space, its study, and its loop on a launcher that computes an objective."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule, Trainer

from segue.errors import InputError, JobFailed
from segue.verbs.sweeps.pruning import Pruning
from segue.verbs.sweeps.search import PRUNED, Search, best_so_far, draw, open_study, record_result, write_table
from segue.verbs.sweeps.search_space import Space
from tests.conftest import ROOT

USUAL = OmegaConf.load(ROOT / "conf/hydra/sweeper/optuna.yaml")
TEMPERATURE = "loss.temperature"
ALL = {"model.dim", "model.alpha", "model.dropout", "model.track_dropout", "optimizer.lr", "optimizer.weight_decay"}
OF_ORDER = {"context.encoder.dim", "context.encoder.rate"}
Objective = Callable[[dict[str, str]], float]


def parsed(*words: str) -> Any:
    return OverridesParser.create().parse_overrides(list(words))


COUNTING = ("rules", "als")


def make_space(*given: str, **chosen: str) -> Space:
    def settled(key: str, tried: Mapping[str, str]) -> str | None:
        """As configs are: baselines have no loss and no optimizer, `als` has a width, softmax a temperature."""
        have = {"model": "convex", "loss": "bce", "datamodule": "botify", **chosen, **tried}
        absent = {"model.dim": have["model"] == "rules", TEMPERATURE: have["loss"] != "softmax"}
        absent |= dict.fromkeys(OF_ORDER, have["model"] != "gru4rec")
        if have["model"] in COUNTING:
            absent |= {f"optimizer.{name}": True for name in ("lr", "weight_decay")} | {TEMPERATURE: True, "loss": True}
            absent |= {f"model.{name}": True for name in ("alpha", "dropout", "track_dropout")}
        if have["model"] == "contextual":
            absent |= {"model.alpha": True, "model.track_dropout": True}
        return None if absent.get(key) else have.get(key, "usual")

    return Space(
        given=parsed(*given),
        usual=parsed(*(f"{key}={text}" for key, text in USUAL.space.items())),
        unused=OmegaConf.to_container(USUAL.unused),  # type: ignore[arg-type]
        settled=settled,
    )


def names(space: Space) -> set[str]:
    return {dimension.name for dimension in space.dimensions}


# The space


def test_without_overrides_the_default_space_is_searched() -> None:
    space = make_space()
    assert names(space) == ALL
    assert space.fixed == []


def test_an_override_takes_its_key_out_of_the_space() -> None:
    space = make_space("model.dim=64", "trainer.max_epochs=3")
    assert names(space) == ALL - {"model.dim"}
    assert space.fixed == ["model.dim=64", "trainer.max_epochs=3"]


def test_an_encoder_is_searched_if_the_model_reads_the_order() -> None:
    assert names(make_space("model=gru4rec", model="gru4rec")) == ALL | OF_ORDER


def test_a_sweep_replaces_or_adds_a_dimension() -> None:
    space = make_space("model.dim=8,16", "loss.logq=interval(0,1)", "+model.extra=range(1,9,2)")
    dimensions = {dimension.name: dimension for dimension in space.dimensions}
    assert dimensions.keys() == ALL | {"loss.logq", "model.extra"}
    assert dimensions["model.dim"].choices == ("8", "16")
    assert (dimensions["loss.logq"].low, dimensions["loss.logq"].high) == (0, 1)
    assert (dimensions["model.extra"].low, dimensions["model.extra"].high, dimensions["model.extra"].step) == (1, 7, 2)


def test_each_trial_has_a_key_only_if_its_condition_is_met() -> None:
    import optuna

    space, seen = make_space("model=convex,track", "loss=bce,softmax"), set()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        words = dict(word.split("=") for word in space.words(study.ask()))
        assert (TEMPERATURE in words) == (words["loss"] == "softmax")
        assert ("model.alpha" in words) == (words["model"] == "convex")
        assert 1e-4 <= float(words["optimizer.lr"]) <= 3e-2
        seen.add((words["model"], words["loss"]))
    assert len(seen) == 4


def test_a_baseline_is_searched_over_its_own_keys() -> None:
    assert names(make_space("model=rules", "model.window=range(1,9)", model="rules")) == {"model.window"}
    assert names(make_space("model=als", "model.dim=8,16", model="als")) == {"model.dim"}
    with pytest.raises(InputError, match="nothing is left to search"):
        make_space("model=rules", model="rules")


def test_a_key_that_no_trial_would_have_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^model.alpha=interval\(0,1\) would never be used with model=track; leave it out"
    ):
        make_space("model=track", "model.alpha=interval(0,1)", model="track")


BAD = [
    (["seed=1,2,3"], "most favourable seed; fix the seed"),
    (["optimizer.lr=tag(log,interval(0,1))"], "a logarithmic scale needs an interval above 0"),
    (["optimizer.lr=interval(1,0)"], "an interval needs two numbers, the smaller one first"),
    (["model.dim=tag(log,choice(1,2))"], "choices have no logarithmic scale"),
    (["model.dim=tag(log,range(1,9,2))"], "a range with a step has no logarithmic scale"),
    (["model.dim=tag(wide,choice(1,2))"], "the only tag of a search is log, got wide"),
    (["model.dim=range(5,1)"], "has no values"),
    (["model.alpha=interval(0,1)", "model=track,artist"], "never be used with model=artist, track"),
]


@pytest.mark.parametrize(("given", "line"), BAD, ids=lambda value: str(value)[:40])
def test_a_key_that_cannot_be_searched_is_refused(given: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line):
        make_space(*given)


# The loop

BATCH = ("hydra.sweeper.batch=1",)


class FakeLauncher:
    """A launcher that computes an objective of the overrides."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.batches = objective, list[list[int]]()
        self.jobs: list[dict[str, str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append([initial_job_idx + place for place in range(len(job_overrides))])
        return [self.run(dict(word.split("=", 1) for word in words)) for words in job_overrides]

    def run(self, words: dict[str, str]) -> JobReturn:
        self.jobs.append(words)
        try:
            return JobReturn(status=JobStatus.COMPLETED, _return_value=self.objective(words))
        except JobFailed as error:
            return JobReturn(status=JobStatus.FAILED, _return_value=error)


def bowl(words: dict[str, str]) -> float:
    """Best, 1, at lr=1e-3, dim=64, alpha=0.7."""
    lr, dim, alpha = float(words["optimizer.lr"]), int(words["model.dim"]), float(words["model.alpha"])
    return 1 - (math.log10(lr) + 3) ** 2 / 4 - (math.log2(dim) - 6) ** 2 / 10 - (alpha - 0.7) ** 2


SEARCHED = ("hydra/sweeper=optuna", "logger=none", "monitor.metric=val/ndcg_at_10", "monitor.mode=max")


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Search, FakeLauncher]]]:
    """Makes a search as Hydra would, on a launcher that pretends; its picture is left out, unless it is wanted."""

    def make(
        objective: Objective, *words: str, arguments: Sequence[str] = (), drawn: bool = False
    ) -> tuple[Search, FakeLauncher]:
        if not drawn:
            monkeypatch.setattr("segue.verbs.sweeps.search.draw", lambda *_: [])
        config = compose(
            "train", [*SEARCHED, f"hydra.sweep.dir={tmp_path}", *arguments, *BATCH, *words], return_hydra_config=True
        )
        settings: Any = OmegaConf.to_container(config.hydra.sweeper)
        settings = {name: value for name, value in settings.items() if not name.startswith("_")}
        settings["storage"] = f"sqlite:///{tmp_path}/optuna.db"
        sweeper, launcher = Search(**settings), FakeLauncher(objective)
        loader = GlobalHydra.instance().config_loader()
        sweeper.config, sweeper.cfg, sweeper.folder, sweeper.launcher = config, config, tmp_path, launcher  # type: ignore[assignment]  # the launcher is a stand-in
        sweeper.hydra_context = HydraContext(loader, callbacks=None)  # type: ignore[arg-type]  # a search calls none
        return sweeper, launcher

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield make


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "search.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_search_finds_better_trials_than_its_random_ones(
    search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeper, launcher = search(bowl, "hydra.sweeper.num_trials=16", "hydra.sweeper.batch=2", drawn=True)
    sweeper.sweep(["trainer.max_epochs=3"])
    values = [bowl(words) for words in launcher.jobs]
    assert len(values) == 16
    assert max(values[8:]) > max(values[:8])
    assert launcher.batches == [[number, number + 1] for number in range(0, 16, 2)]
    assert all(words["trainer.max_epochs"] == "3" for words in launcher.jobs)
    lines = table(tmp_path)
    assert [float(line["value"]) for line in lines] == values
    pictures = [tmp_path / f"search_{kind}.png" for kind in ("history", "importance", "parameters")]
    assert sorted(tmp_path.glob("search*.png")) == pictures
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    printed = capsys.readouterr().out
    best = launcher.jobs[values.index(max(values))]
    assert f"best         val/ndcg_at_10 {max(values):.4f} in trial {values.index(max(values))}" in printed
    [command] = [line for line in printed.splitlines() if line.startswith("next")]
    words = dict(word.split("=", 1) for word in command.split() if "=" in word)
    assert words == {key: value for key, value in best.items() if key not in ("trial", "swept")}
    assert words["trainer.max_epochs"] == "3"


def test_mode_min_minimises_the_objective(search: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sweeper, launcher = search(lambda words: -bowl(words), "hydra.sweeper.num_trials=2", arguments=["monitor.mode=min"])
    sweeper.sweep(["monitor.mode=min"])
    values = [-bowl(words) for words in launcher.jobs]
    assert f"{min(values):.4f} in trial {values.index(min(values))}" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_trials(search: Any) -> None:
    def jobs(seed: int) -> list[dict[str, str]]:
        sweeper, launcher = search(
            bowl, "hydra.sweeper.num_trials=2", "hydra.sweeper.random_trials=1", arguments=[f"seed={seed}"]
        )
        sweeper.sweep([])
        return [{key: value for key, value in words.items() if key != "trial"} for words in launcher.jobs]

    assert jobs(1) == jobs(1) != jobs(2)


def test_trials_that_fail_do_not_stop_a_search(search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fragile(words: dict[str, str]) -> float:
        if float(words["model.alpha"]) > 0.5:
            raise JobFailed("too much of the tracks")
        return bowl(words)

    sweeper, launcher = search(fragile, "hydra.sweeper.num_trials=9")
    sweeper.sweep([])
    failed = [line for line in table(tmp_path) if line["state"] == "fail"]
    assert len(launcher.jobs) == 9
    assert 0 < len(failed) < 9
    assert {line["why"] for line in failed} == {"too much of the tracks"}
    assert f"{len(failed)} failed (the first: too much" in capsys.readouterr().out


def test_a_search_stops_if_its_first_trials_all_fail(search: Any) -> None:
    def broken(words: dict[str, str]) -> float:  # noqa: ARG001
        raise JobFailed("cannot read /nowhere")

    sweeper, launcher = search(broken)
    with pytest.raises(InputError, match="the first 6 trials all failed: cannot read /nowhere"):
        sweeper.sweep([])
    assert len(launcher.jobs) == 6


def test_an_interrupted_search_resumes_with_its_unfinished_trials(
    search: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def until(words: dict[str, str]) -> float:
        if len(launcher.jobs) == 6:  # the second of a batch
            raise KeyboardInterrupt
        return bowl(words)

    settings = "hydra.sweeper.num_trials=10", "hydra.sweeper.batch=2"
    sweeper, launcher = search(until, *settings)
    with pytest.raises(KeyboardInterrupt):
        sweeper.sweep([])
    assert "4 trials are finished; the same command with resume=true continues" in capsys.readouterr().out
    before = [{key: value for key, value in words.items() if key != "trial"} for words in launcher.jobs]

    resumed, second = search(bowl, *settings, arguments=["resume=true"])
    resumed.sweep(["resume=true"])
    after = [{key: value for key, value in words.items() if key not in ("trial", "resume")} for words in second.jobs]
    assert len(after) == 6  # ten in all, and four were over
    assert after[:2] == before[4:6]  # both of the batch that was lost
    assert not any(words in before for words in after[2:])  # not the random numbers of the first call
    assert second.batches[0][0] >= 6  # folders that no earlier trial had
    assert "4 trials are finished; 6 to go" in capsys.readouterr().out


def test_another_command_does_not_resume_this_study(search: Any) -> None:
    search(bowl, "hydra.sweeper.num_trials=1")[0].sweep([])
    other, launcher = search(bowl, "hydra.sweeper.num_trials=1", arguments=["resume=true"])
    other.sweep(["resume=true", "trainer.max_epochs=3"])
    assert len(launcher.jobs) == 1


def test_losses_are_not_searched_with_val_loss(search: Any) -> None:
    sweeper, launcher = search(bowl, arguments=["monitor.metric=val/loss", "monitor.mode=min"])
    with pytest.raises(
        InputError, match=r"loss is searched with monitor.metric=val/loss, .*add monitor.metric=val/ndcg"
    ):
        sweeper.sweep(["loss=bce,mse"])
    assert launcher.jobs == []


def test_an_unknown_launcher_needs_a_batch_size(search: Any) -> None:
    sweeper, _ = search(bowl, "hydra.sweeper.batch=null", "hydra.launcher._target_=elsewhere.Other")
    with pytest.raises(InputError, match=r"search\.batch=null: Other does not report .*; set .*search\.batch=4"):
        sweeper.sweep([])


# The study


SETTINGS: dict[str, Any] = {"setup": {}, "mode": "max", "seed": 0, "random_trials": 2}


def test_two_processes_do_not_search_one_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    with (
        open_study(url=url, resume=False, **SETTINGS),
        pytest.raises(InputError, match=r"study 'search .*' is in use by another process"),
        open_study(url=url, resume=True, **SETTINGS),
    ):
        pass


def test_a_trial_worse_than_the_others_is_pruned_and_recorded_in_the_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"

    def train(number: int, values: Sequence[float]) -> Pruning:
        soon = {"prune_after_trials": 1, "prune_after_epochs": 1}
        callback = Pruning(storage=url, study=study.study_name, number=number, monitor="val/x", **soon)
        trainer, module = Mock(spec=Trainer), Mock(spec=LightningModule)
        trainer.sanity_checking = trainer.should_stop = False
        for epoch, value in enumerate(values):
            trainer.current_epoch, trainer.callback_metrics = epoch, {"val/x": value}
            callback.on_validation_end(trainer, module)
            if trainer.should_stop:
                break
        assert trainer.should_stop == callback.pruned
        return callback

    with open_study(url=url, resume=False, **SETTINGS) as study:
        trials = [study.ask() for _ in range(3)]
        for trial in trials:
            trial.suggest_float("x", 0, 1)
        assert not train(0, [0.1, 0.5, 0.6]).pruned
        record_result(study, trials[0], value=0.6)
        assert train(1, [0.0, 0.2, 0.9]).pruned  # never before epoch 2
        pruned = record_result(study, trials[1], value=math.nan)
        assert (pruned.state.name, pruned.value, pruned.user_attrs[PRUNED]) == ("PRUNED", 0.2, 2)
        assert not train(2, [0.2, 0.6, 0.7]).pruned
        record_result(study, trials[2], value=0.7)
        best = best_so_far(study)
        assert best is not None
        assert best.number == 2


# The report


@pytest.mark.parametrize(("num_trials", "same"), [(1, True), (14, False)])
def test_a_report_is_drawn_for_few_and_for_equal_trials(tmp_path: Path, num_trials: int, same: bool) -> None:
    space, url = make_space(), f"sqlite:///{tmp_path}/optuna.db"
    with open_study(url=url, resume=False, **SETTINGS) as study:
        for number in range(num_trials):
            trial = study.ask()
            words = dict(word.split("=") for word in space.words(trial))
            if number % 7 == 3:
                record_result(study, trial, value=None, why='a, "quoted" reason')
            else:
                record_result(study, trial, value=0.5 if same else bowl({"model.alpha": "0.5", **words}))
        write_table(study, tmp_path / "search.csv")
        drawn = draw(study, tmp_path, "val/x")
    assert len(table(tmp_path)) == num_trials
    assert {path.name for path in drawn} >= {"search_history.png", "search_parameters.png"}
    assert all(path.stat().st_size > 10_000 for path in drawn)
