"""`abtest.py` as a user runs it."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.running import run_verb
from tests.e2e.test_simulate import SMALL, simulate
from tests.e2e.test_train import BARE, train

REPORT = {"abtest.json", "abtest.md", "abtest.png"}

abtest = partial(run_verb, "abtest.py")


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days in a small world: `before`, and `after` with its own experiment and both days' logs."""
    cwd = tmp_path_factory.mktemp("traffic")
    simulate(cwd, *SMALL, "arms={C: random, T1: random}", "experiment=BEFORE", "hydra.run.dir=before")
    simulate(cwd, *SMALL, "arms={C: random, T1: oracle}", "after=before", "experiment=AFTER", "hydra.run.dir=after")
    return cwd


def test_the_verdict_is_printed_and_written_as_json_markdown_and_picture(traffic: Path) -> None:
    done = abtest(traffic, "logs=after", "experiment=AFTER", "pre=before", "hydra.run.dir=verdict")
    run = traffic / "verdict"
    assert {path.name for path in run.iterdir()} == REPORT
    record = json.loads((run / "abtest.json").read_text())
    assert record["effects"][0]["metric"] == "mean_time_per_session"
    assert {"treatment", "control_mean", "treatment_mean", "effect_percent", "lower_percent", "p_value"} <= set(
        record["effects"][0]
    )
    arms = json.loads((traffic / "after" / "simulation.json").read_text())["arms"]
    for mean, arm in (("control_mean", "C"), ("treatment_mean", "T1")):
        assert record["effects"][0][mean] == pytest.approx(arms[arm]["mean_time_per_session"])
    days = [traffic / name / "logs/day-1/data.json" for name in ("before", "after")]
    assert days[0].samefile(days[1])
    assert record["verdicts"]["T1"].startswith("better than C")
    assert record["guards"]["lines_of_other_experiments"] > 0
    assert "command" in record["provenance"]
    text = (run / "abtest.md").read_text()
    assert "better than C" in text
    assert not re.search(r"\bnan\b", text)
    assert "better than C" in done.stdout
    assert "What could be wrong" in done.stdout
    assert "- T1, CUPED: " in done.stdout
    *_, results, folder, following = done.stdout.splitlines()
    assert results == "results      abtest.md, abtest.png, abtest.json"
    assert folder == f"run folder   {run}"
    assert following == "next         python train.py datamodule=botify datamodule.path=after"
    assert (run / "abtest.png").stat().st_size > 10_000


def test_a_plan_has_the_users_and_days_of_a_test(traffic: Path) -> None:
    done = abtest(traffic, "plan=30", "logs=before", "hydra.run.dir=plan")
    assert {path.name for path in (traffic / "plan").iterdir()} == {"plan.md", "plan.json"}
    plan = json.loads((traffic / "plan" / "plan.json").read_text())
    [needed] = [one["users"] for one in plan["needs"] if one["effect_percent"] == 30]
    sentence = "To detect an effect of 30 % on mean time per session with probability 0.8 (alpha 0.05), the test needs "
    assert f"{sentence}{needed:,} users in 2 arms" in " ".join(done.stdout.split())


def test_a_name_with_markup_characters_is_printed_unchanged(tmp_path: Path) -> None:
    odd = "a[/x]$b|:c:"
    simulate(tmp_path, *SMALL, f"experiment='{odd}'", "hydra.run.dir=run")
    done = abtest(tmp_path, "logs=run", "hydra.run.dir=verdict")
    assert odd in done.stdout


def test_the_result_of_two_runs_is_attached_to_them_in_mlflow(tmp_path: Path) -> None:
    import mlflow

    simulate(tmp_path, *SMALL, "sessions=1000", "hydra.run.dir=logs")
    ids = {}
    for model in ("track", "artist"):
        train(
            tmp_path, f"model={model}", "datamodule=botify", "datamodule.path=logs", "trainer.max_epochs=1",
            "callbacks.export.k=10", f"hydra.run.dir={model}", *BARE,
        )  # fmt: skip
        ids[model] = json.loads((tmp_path / model / "metrics.json").read_text())["mlflow_run_id"]
    folder, short = tmp_path / "track", f"run:{ids['artist'][:8]}"
    done = abtest(tmp_path, *SMALL, f"control={folder}", f"treatment={short}", "hydra.run.dir=verdict")
    record = json.loads((tmp_path / "verdict" / "abtest.json").read_text())
    assert "next         python compare.py" in done.stdout
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for model, role in (("track", "control"), ("artist", "treatment")):
        data = client.get_run(ids[model]).data
        effect = data.metrics.get("ab/mean_time_per_session_effect_percent")
        assert effect == (record["effects"][0]["effect_percent"] if role == "treatment" else None)
        lower = data.metrics.get("ab/mean_time_per_session_lower_percent")
        assert lower == (record["effects"][0]["relative_lower_percent"] if role == "treatment" else None)
        assert data.metrics[f"ab/mean_time_per_session_{role}_mean"] == record["effects"][0][f"{role}_mean"]
        assert data.tags["ab_role"] == role
        assert {Path(file.path).name for file in client.list_artifacts(ids[model], "abtest")} == REPORT
    mixed = "arms={C: random, T1: random, T2: sticky_artist, T3: popular}"
    simulate(tmp_path, *SMALL, mixed, "sessions=3000", "hydra.run.dir=mixed")
    done = abtest(tmp_path, "logs=mixed/logs", f"candidate={short}", "hydra.run.dir=estimate")
    assert done.stdout.splitlines()[-1] == "next         python compare.py"
    assert "sessions of the log are worth" in done.stdout
    estimate = json.loads((tmp_path / "estimate" / "estimate.json").read_text())
    data = client.get_run(ids["artist"]).data
    assert data.metrics["estimate/first_step_dr"] == estimate["offline/first_step_dr"]
    assert (data.tags["estimate_logs"], data.tags["estimate_pick"]) == (str(tmp_path / "mixed" / "logs"), "uniform")
    attached = {Path(file.path).name for file in client.list_artifacts(ids["artist"], "estimate")}
    assert attached == {"estimate.json", "estimate.md"}
    assert "estimate/first_step_dr" not in client.get_run(ids["track"]).data.metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either logs=<folder>, or both control= and treatment= to simulate them first"),
        (["plan=5"], "plan=5 needs the log of other recommenders: logs=<folder>"),
        (["candidate=popular", "logs=before", "pre=x"], "candidate=popular has no use for pre=; leave it out"),
        (["logs=before", "experiment=NONE"], "experiment=NONE is not in logs=before; it has BEFORE"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_run_folder(traffic: Path, words: list[str], message: str) -> None:
    done = abtest(traffic, *words, "hydra.run.dir=wrong", code=2)
    [line] = done.stderr.splitlines()
    assert message in line
    assert not (traffic / "wrong").exists()
