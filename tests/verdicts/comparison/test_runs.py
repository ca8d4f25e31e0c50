"""Which runs are compared, and under which names; the runs of the store were not trained."""

import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import LoggedModelOutput

from segue.errors import InputError
from segue.runs.tracking.store import open_store, parent_run
from segue.verdicts.comparison.runs import Found, find, register, setup_names


def client_of(uri: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(uri)


def make(uri: str, experiment: str, *, status: str = "FINISHED", params: Any = None, **tags: Any) -> str:
    client = client_of(uri)
    named = {"setup": "convex", "setup_digest": "c0", "data_digest": "d0", **tags}
    run = client.create_run(open_store(uri, experiment), tags=named).info.run_id
    for name, value in (params or {}).items():
        client.log_param(run, name, value)
    client.set_terminated(run, status)
    return str(run)


def names_of(uri: str, experiment: str) -> dict[str, str]:
    found = [Found.of_mlflow(run, uri) for run in find(uri, experiment, parent=None, filter_string="").runs]
    return dict(zip([one.run_id for one in found], setup_names(found), strict=True))


def ids(runs: list[Any]) -> set[str]:
    return {run.info.run_id for run in runs}


def test_the_last_sweep_is_taken_and_another_one_by_its_folder_or_id(uri: str, tmp_path: Path) -> None:
    parents, children = [], []
    for name in ("one", "two"):
        with parent_run(uri, "sweeps", name, tmp_path / name, resume=False, tags={}) as parent:
            children.append(make(uri, "sweeps", **{"mlflow.parentRunId": parent}))
        parents.append(parent)
    alone = make(uri, "sweeps")
    linked = make(uri, "sweeps", **{f"sweep.{parents[0]}": "true"})
    assert ids(find(uri, "sweeps", parent=None, filter_string="").runs) == {children[1]}
    for given in (parents[0], f"run:{parents[0][:8]}", str(tmp_path / "one")):
        matching = find(uri, "sweeps", parent=given, filter_string="")
        assert ids(matching.runs) == {children[0], linked}  # `linked` was skipped by resume=true
        assert matching.parent is not None
    with pytest.raises(InputError, match=f"parent=run:{alone} is no sweep of experiment 'sweeps'"):
        find(uri, "sweeps", parent=f"run:{alone}", filter_string="")
    with pytest.raises(InputError, match=r"no finished runs in .*'sweeps' .* filter=params.seed = '9', 0 others"):
        find(uri, "sweeps", parent=None, filter_string="params.seed = '9'")
    everything = find(uri, "sweeps", parent=None, filter_string="attributes.status = 'FINISHED'")
    assert ids(everything.runs) == {*children, alone, linked}
    assert everything.parent is None


def test_runs_that_cannot_be_compared_are_left_out_and_counted(uri: str) -> None:
    make(uri, "mixed", data_digest="d1")
    make(uri, "mixed", status="FAILED")
    make(uri, "mixed", pruned="true")
    newest = make(uri, "mixed", interrupted="true")
    matching = find(uri, "mixed", parent=None, filter_string="")
    assert ids(matching.runs) == {newest}
    assert matching.notes == [
        "left out: 2 runs that are not finished or were pruned",
        "interrupted with Ctrl-C, compared as they are: 1 runs",
        "left out: 1 runs trained on other data than the newest run (data d0); parent= or filter= choose other runs",
    ]


def test_set_ups_with_one_name_get_the_parameters_in_which_they_differ(uri: str) -> None:
    first = make(uri, "names", setup_digest="a0", params={"optimizer.lr": 0.001, "seed": 1, "x.y": 3})
    again = make(uri, "names", setup_digest="a0", params={"optimizer.lr": 0.001, "seed": 2, "x.y": 3})
    other = make(uri, "names", setup_digest="b0", params={"optimizer.lr": 0.01, "seed": 1, "x.y": 3})
    alone = make(uri, "names", setup_digest="c0", setup="track")
    names = names_of(uri, "names")
    assert names == {first: "convex lr=0.001", again: "convex lr=0.001", other: "convex lr=0.01", alone: "track"}


def test_set_ups_that_differ_in_many_parameters_have_different_names(uri: str) -> None:
    keys = "pqrst"
    one = make(uri, "many", setup_digest="aaaa1", params=dict.fromkeys(keys, 1.00001))
    two = make(uri, "many", setup_digest="bbbb1", params={**dict.fromkeys(keys, 1.00001), "q": 1.00002})
    three = make(uri, "many", setup_digest="cccc1", setup="convex q=1")
    names = names_of(uri, "many")
    assert names == {one: "convex q=1 aaaa", two: "convex q=1 bbbb", three: "convex q=1 cccc"}


def test_the_newest_model_of_a_run_is_registered(uri: str) -> None:
    client, run_id = client_of(uri), make(uri, "models")
    experiment = client.get_run(run_id).info.experiment_id
    models = []
    for _ in range(4):
        models.append(client.create_logged_model(experiment, name="model", source_run_id=run_id).model_id)
        client.log_outputs(run_id, [LoggedModelOutput(models[-1], 0)])
        time.sleep(0.002)
    [run] = find(uri, "models", parent=None, filter_string="").runs
    version = register(run, uri, name="newest", alias="champion")
    assert client.get_model_version("newest", version).source == f"models:/{models[-1]}"
    with pytest.raises(InputError, match=r"refuses: .*alias"):
        register(run, uri, name="newest", alias="latest")
    assert str(client.get_model_version_by_alias("newest", "champion").version) == version


def test_a_refit_without_a_model_gives_the_alias_to_no_other(uri: str) -> None:
    client, run_id = client_of(uri), make(uri, "refitted", exported="refitted")
    experiment, tags = client.get_run(run_id).info.experiment_id, {"segue.model": "evaluated"}
    tested = client.create_logged_model(experiment, name="model", source_run_id=run_id, tags=tags)
    client.log_outputs(run_id, [LoggedModelOutput(tested.model_id, 0)])
    with pytest.raises(InputError, match=r"has no refitted model to register; resume it with callbacks.lineage.model"):
        register(client.get_run(run_id), uri, name="half", alias="champion")
    assert not client.search_model_versions("name = 'half'")
