"""What a person reads last of a training."""

import io
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from segue.reports.result_table import Table
from segue.verbs.training.next_steps import BetterModel, FinishedRun, next_steps, training_report, what_is_better

ID = "3fa2c1d0" + "0" * 24
PAGE = "#/experiments/1/runs?viewStateShareKey=segue"
ARMS = {"C": "random", "T1": "random", "T2": {"recommender": "popular", "num_tracks": 50}}


EXAMPLES = Table(columns=["after"], rows=[["Two by Bob"]], align="l")


def below(*names: str, **more: float) -> dict[str, float]:
    """Metrics of a model that is below popular in some, and above it in another."""
    recalls = {f"test/{name}": 0.1 for name in names} | {f"test/{name}_popular_floor": 0.2 for name in names}
    above = {
        "test/recall_at_1": 0.3,
        "test/recall_at_1_popular_floor": 0.3,
        "test/mrr": 0.1,
        "test/mrr_popular_floor": 1.0,
    }
    return {**recalls, **above, **more}


def finished(**changes: Any) -> FinishedRun:
    config = {
        "run_dir": "runs/1",
        "run_name": "convex seed=1",
        "logger": {"tracking_uri": changes.pop("store", "sqlite:///mlflow.db")},
        "datamodule": {"path": "data", "prepare": {"arms": ARMS}},
    }
    usual: dict[str, Any] = {
        "config": OmegaConf.create(config),
        "choices": {"datamodule": "simulated", "world": "small", "recipe": "shares"},
        "overrides": [],
        "run_id": ID,
        "runs_page": PAGE,
        "metrics": {"epochs": 1},
        "examples": EXAMPLES,
        "seconds": {"training": 1.0},
        "is_job": False,
        "learned": "the oldest 80 % of the sessions",
        "refit": None,
    }
    return FinishedRun(**{**usual, **changes})


def reasons(run: FinishedRun) -> list[str]:
    return [str(line) for line in what_is_better(run)]


def lines(**changes: Any) -> list[str]:
    return next_steps(finished(**changes)).splitlines()


def test_a_run_is_named_by_its_short_id_and_so_it_is_in_the_commands() -> None:
    assert lines() == [
        "tested       trained on the oldest 80 % of the sessions",
        "exported     the tested model; with refit=all it is trained again on all sessions",
        f"run          run:3fa2c1d0, in full {ID}",
        "run folder   runs/1",
        "MLflow UI    mlflow ui --backend-store-uri sqlite:///mlflow.db",
        f"             http://127.0.0.1:5000/{PAGE}",
        "next         python train.py -m model=track,artist,mean,convex,contextual",
        """             python simulate.py 'arms={C: popular, T1: "run:3fa2c1d0"}' world=small""",
    ]


def test_it_says_which_model_was_tested_and_which_is_exported() -> None:
    refit = {"epochs": 5, "sessions": 12_345, "pairs": 1, "until": "2026-11-20 00:00:00"}
    assert lines(refit=refit, metrics={"epoch": 4, "epochs": 10})[:2] == [
        "tested       epoch 5 of 10, trained on the oldest 80 % of the sessions",
        "exported     refitted on all 12,345 sessions until 2026-11-20 00:00:00",
    ]
    assert lines(refit={**refit, "until": None})[1] == "exported     refitted on all 12,345 sessions"
    assert not any(line.startswith("exported") for line in lines(examples=None))
    assert "exported     the tested model" in lines(choices={**REAL, "recipe": "mixture"})


def test_without_mlflow_a_run_is_named_by_its_folder() -> None:
    *_, play = lines(run_id=None, runs_page=None)
    assert "run folder   runs/1" in lines(run_id=None, runs_page=None)
    assert play.endswith("""'arms={C: popular, T1: "runs/1"}' world=small""")


def test_commands_have_what_was_typed_but_the_model_and_the_place_of_the_run() -> None:
    typed = ["model=track", "datamodule=simulated", "datamodule.path='my data'", "world.num_tracks=300", "seed=3"]
    *_, sweep, play = lines(overrides=typed)
    words = """datamodule=simulated 'datamodule.path='"'"'my data'"'"'' world.num_tracks=300 seed=3"""
    assert sweep.endswith(f"contextual {words}")
    assert play.endswith(" world=small world.num_tracks=300")


def test_commands_name_a_store_that_they_would_not_find() -> None:
    *_, play = lines(store="sqlite:///my.db")
    assert play.strip().startswith("MLFLOW_TRACKING_URI=sqlite:///my.db python simulate.py")


def test_a_server_is_its_own_ui() -> None:
    assert f"MLflow UI    http://host:5000/{PAGE}" in lines(store="http://host:5000")


def test_recommendations_can_be_played_where_there_are_some_and_the_world_is_known() -> None:
    assert not any("simulate.py" in line for line in lines(examples=None))
    assert not any(
        "simulate.py" in line for line in lines(choices={"datamodule": "botify", "world": "small", "recipe": "shares"})
    )


def test_a_job_of_a_sweep_names_no_next_command() -> None:
    assert not any("python" in line for line in lines(is_job=True))


def test_a_model_that_is_above_popular_needs_no_reason() -> None:
    assert reasons(finished(metrics=below())) == []


def test_a_model_below_popular_in_a_simulated_world_gets_its_reason_and_a_command() -> None:
    why, *change = reasons(finished(metrics=below("recall_at_10", "recall_at_50")))
    assert why.startswith("The model is below popular in recall_at_10, recall_at_50. ")
    assert "The recommenders of these logs were random, popular;" in why
    assert change == [
        "To learn which track came next, and not how much of it was played:",
        f"{'':13}python train.py recipe=playlists",
    ]


def test_a_model_that_was_played_to_listeners_needs_no_command_for_it() -> None:
    why, *_ = reasons(finished(metrics=below("recall_at_10", **{"online/mean_time_per_session": 5.0})))
    assert why.endswith("The aim is a high mean time per session. The listening test above measures it.")


def test_a_model_below_popular_on_real_logs_gets_another_reason() -> None:
    why, *_ = reasons(
        finished(metrics=below("recall_at_50"), choices={"datamodule": "botify", "world": "small", "recipe": "shares"})
    )
    assert "Such a simple rule ranks the track that followed in these logs higher" in why
    assert "serve.py, abtest.py" in why


@pytest.mark.parametrize(
    ("source", "recipe", "typed", "command"),
    [
        (
            "table",
            "shares",
            ["datamodule=table", "datamodule.path=my plays.csv", "model=track", "loss=mse", "seed=2"],
            "python train.py datamodule=table 'datamodule.path=my plays.csv' model=track recipe=playlists",
        ),
        (
            "simulated",
            "published",
            ["experiment=published", "context=session"],
            "python train.py context=session recipe=playlists",
        ),
        (
            "table_playlists",
            "playlists",
            ["datamodule=table", "datamodule.path=a.csv", "model=gru4rec", "seed=2"],
            "python train.py -m search=optuna datamodule=table datamodule.path=a.csv model=gru4rec recipe=playlists",
        ),
        ("yes", "counting", ["datamodule=yes", "model=ease"], "python train.py datamodule=yes"),
    ],
)
def test_a_model_below_popular_gets_the_command_that_may_change_it(
    source: str, recipe: str, typed: list[str], command: str
) -> None:
    choices = {"datamodule": source, "world": "small", "recipe": recipe}
    _, _, change, *more = reasons(finished(metrics=below("recall_at_10"), choices=choices, overrides=typed))
    assert change.strip() == command
    if source == "simulated":  # its listeners judge
        assert more == []
    else:
        assert more[0] == "To use popular:"
        assert more[1].strip().startswith("python train.py datamodule=")
        assert more[1].endswith(" model=popular")


REAL = {"datamodule": "table", "world": "small", "recipe": "shares"}


def test_every_floor_above_the_model_is_named_and_the_best_one_can_be_trained() -> None:
    metrics = below("recall_at_10", "recall_at_50") | {
        "test/recall_at_10_newest_floor": 0.5,
        "test/recall_at_50_counts_floor": 0.3,
        "test/recall_at_10_position_0_own_floor": 0.9,  # of first tracks alone
    }
    why, *_, floor = reasons(finished(metrics=metrics, choices=REAL))
    assert "below popular in recall_at_10, recall_at_50; below newest in recall_at_10; below counts in recall_a" in why
    assert floor.strip() == "python train.py model=newest"
    *_, floor = reasons(finished(metrics={**metrics, "test/recall_at_50_counts_floor": 0.6}, choices=REAL))
    assert floor.strip() == "python train.py model=rules model.window=1"


def test_a_floor_within_the_interval_is_not_above_the_model() -> None:
    metrics = below("recall_at_10", **{"test/recall_at_10_half_width": 0.1})
    assert reasons(finished(metrics=metrics)) == []
    assert reasons(finished(metrics={**metrics, "test/recall_at_10_half_width": 0.09})) != []


def test_a_model_that_validates_better_is_the_last_word() -> None:
    better = BetterModel(words="model=rules context=session", ndcg=0.2, own=0.1)
    typed = ["datamodule=table", "datamodule.path=a.csv", "model=track"]
    why, command = reasons(finished(better=better, choices=REAL, overrides=typed))
    assert why == "On validation model=rules context=session is better: its ndcg@10 is 0.2000, this model has 0.1000:"
    assert command.strip() == "python train.py datamodule=table datamodule.path=a.csv model=rules context=session"


def test_the_next_command_keeps_the_recipe() -> None:
    typed = ["datamodule=table", "datamodule.path=a.csv", "recipe=playlists", "context=session"]
    assert lines(choices=REAL, overrides=typed)[-1].endswith(" recipe=playlists context=session")
    run = [
        "model=gru4rec",
        "model.dim=8",
        "context.encoder.dim=8",
        "hydra.run.dir=x",
        "trainer=ddp",
        "trainer.devices=2",
    ]
    own = ["counted=none", "trainer.max_epochs=3", "~callbacks.plots"]
    assert lines(choices=REAL, overrides=[*run, *own])[-1].endswith(
        f"contextual {' '.join(own)}".replace("~", "'~", 1) + "'"
    )
    counting = {**REAL, "recipe": "counting"}
    assert lines(choices=counting, overrides=[*typed[:2], "model=rules", "context=session"])[-1].endswith("path=a.csv")


@pytest.mark.parametrize("is_job", [False, True])
def test_tracks_and_times_are_shown_of_a_single_run_and_not_of_a_job(is_job: bool) -> None:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as printed:
        console.print(*training_report(finished(is_job=is_job, metrics={"test/mrr": 0.5, "epochs": 1})))
    assert "mrr" in printed.get()
    assert ("Two by Bob" in printed.get()) == (not is_job)
    assert printed.get().count("Where the time went") == (not is_job)
