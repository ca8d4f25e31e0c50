"""Which runs are compared, and under which names: on a store that nothing was trained into."""

import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import LoggedModelOutput

from src.comparison.runs import find, read, register, setup_names
from src.errors import InputError
from src.tracking.store import end_parent, open_store, start_parent


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    open_store(uri, "segue")
    return uri


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


def ids(runs: list[Any]) -> set[str]:
    return {run.info.run_id for run in runs}


def test_the_last_sweep_is_taken_and_another_one_by_its_folder_or_id(uri: str, tmp_path: Path) -> None:
    parents, children = [], []
    for name in ("one", "two"):
        parent = start_parent(uri, "sweeps", name, tmp_path / name, resume=False, tags={})
        children.append(make(uri, "sweeps", **{"mlflow.parentRunId": parent}))
        end_parent(uri, parent, failed=False)
        parents.append(parent)
    alone = make(uri, "sweeps")
    linked = make(uri, "sweeps", **{f"sweep.{parents[0]}": "true"})
    assert ids(find(uri, "sweeps", parent=None, filter_string="").runs) == {children[1]}
    for given in (parents[0], f"run:{parents[0][:8]}", str(tmp_path / "one")):
        found = find(uri, "sweeps", parent=given, filter_string="")
        assert ids(found.runs) == {children[0], linked}  # `linked` was skipped by resume=true
        assert found.parent is not None
    everything = find(uri, "sweeps", parent=None, filter_string="attributes.status = 'FINISHED'")
    assert ids(everything.runs) == {*children, alone, linked}
    assert everything.parent is None


def test_a_filter_that_no_run_fits_is_named_with_what_there_is(uri: str) -> None:
    make(uri, "filtered", params={"seed": 1})
    make(uri, "filtered", params={"seed": 2}, status="FAILED")
    for seed, fitting in ((3, 0), (2, 1)):
        given = f"params.seed = '{seed}'"
        with pytest.raises(InputError, match=rf"'filtered' .* fits filter={given}; of its 2 runs {fitting} do"):
            find(uri, "filtered", parent=None, filter_string=given)


def test_what_cannot_be_compared_is_left_out_and_counted(uri: str) -> None:
    make(uri, "mixed", data_digest="d1")
    make(uri, "mixed", status="FAILED")
    make(uri, "mixed", pruned="true")
    newest = make(uri, "mixed", interrupted="true")
    found = find(uri, "mixed", parent=None, filter_string="")
    assert ids(found.runs) == {newest}
    assert found.notes == [
        "2 runs are not finished, or were pruned, and are left out.",
        "1 runs were ended by hand (Ctrl-C) and are compared as they are.",
        "1 runs learned from other data than the newest (d0) and are left out; parent= or filter= choose others.",
    ]


def test_set_ups_of_one_name_are_told_apart_by_what_they_differ_in(uri: str) -> None:
    first = make(uri, "names", setup_digest="a0", params={"optimizer.lr": 0.001, "seed": 1, "x.y": 3})
    again = make(uri, "names", setup_digest="a0", params={"optimizer.lr": 0.001, "seed": 2, "x.y": 3})
    other = make(uri, "names", setup_digest="b0", params={"optimizer.lr": 0.01, "seed": 1, "x.y": 3})
    alone = make(uri, "names", setup_digest="c0", setup="track")
    names = setup_names(find(uri, "names", parent=None, filter_string="").runs)
    assert names == {first: "convex lr=0.001", again: "convex lr=0.001", other: "convex lr=0.01", alone: "track"}


def test_set_ups_that_differ_in_a_lot_still_have_two_names(uri: str) -> None:
    keys = "pqrst"
    one = make(uri, "many", setup_digest="aaaa1", params=dict.fromkeys(keys, 1.00001))
    two = make(uri, "many", setup_digest="bbbb1", params={**dict.fromkeys(keys, 1.00001), "q": 1.00002})
    three = make(uri, "many", setup_digest="cccc1", setup="convex q=1")
    names = setup_names(find(uri, "many", parent=None, filter_string="").runs)
    assert names == {one: "convex q=1 aaaa", two: "convex q=1 bbbb", three: "convex q=1 cccc"}


def test_curves_are_by_epoch_and_end_before_the_value_of_the_best_one(uri: str) -> None:
    client, run = client_of(uri), make(uri, "curves", params={"seed": 7})
    for step, value in enumerate([3.0, 1.0, 2.0]):
        client.log_metric(run, "val/loss", value, step=step)
    client.log_metric(run, "val/loss", 3.0, step=0)  # once more, after a kill
    client.log_metric(run, "val/loss", 1.0, step=3)
    client.log_metric(run, "fit_seconds", 9.0, step=3)
    [made] = read(find(uri, "curves", parent=None, filter_string="").runs, uri, select="val/loss")
    assert made.history == {"val/loss": [(0, 3.0), (1, 1.0), (2, 2.0)]}
    assert made.metrics["val/loss"] == 1.0
    assert made.seed == 7
    assert made.queries is None


def test_the_newest_model_of_a_run_is_registered(uri: str) -> None:
    client, run_id = client_of(uri), make(uri, "models")
    experiment = client.get_run(run_id).info.experiment_id
    made = []
    for _ in range(4):
        made.append(client.create_logged_model(experiment, name="model", source_run_id=run_id).model_id)
        client.log_outputs(run_id, [LoggedModelOutput(made[-1], 0)])
        time.sleep(0.002)
    [run] = find(uri, "models", parent=None, filter_string="").runs
    version = register(run, uri, name="newest", alias="champion")
    assert client.get_model_version("newest", version).source == f"models:/{made[-1]}"
    with pytest.raises(InputError, match=r"refuses: .*alias"):
        register(run, uri, name="newest", alias="latest")
    assert len(client.search_model_versions("name = 'newest'")) == 1


@pytest.mark.parametrize(
    ("name", "alias", "message"),
    [
        ("fresh", "latest", r"refuses: .*'latest' alias name .* is reserved"),
        ("fresh", "v1", r"refuses: .*'v1' is reserved"),
        ("fresh", "no spaces", r"refuses: Invalid alias name: 'no spaces'"),
        ("fresh", "", r"refuses: Registered model alias name cannot be empty"),
        ("a/b", "champion", r"refuses: Invalid model name 'a/b'"),
    ],
)
def test_a_name_or_alias_that_is_refused_leaves_nothing_behind(uri: str, name: str, alias: str, message: str) -> None:
    client, run_id = client_of(uri), make(uri, "refused")
    model = client.create_logged_model(client.get_run(run_id).info.experiment_id, name="model", source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    before = [one.name for one in client.search_registered_models()]
    with pytest.raises(InputError, match=message):
        register(client.get_run(run_id), uri, name=name, alias=alias)
    assert [one.name for one in client.search_registered_models()] == before
    assert not client.search_model_versions("name = 'fresh'")


def test_a_run_without_a_model_cannot_be_registered(uri: str) -> None:
    make(uri, "bare")
    [run] = find(uri, "bare", parent=None, filter_string="").runs
    with pytest.raises(InputError, match=r"has no model to register; train it with callbacks.lineage.model=true"):
        register(run, uri, name="segue", alias="champion")
