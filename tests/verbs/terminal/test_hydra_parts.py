"""What an upgrade of Hydra may take away: each failure says in plain words what is gone."""

import copy
import os
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from segue.runs.provenance import command_line
from segue.verbs.compare import compare
from segue.verbs.sweeps.jobs import Sweep
from segue.verbs.sweeps.search import Search
from segue.verbs.terminal import hydra_parts
from tests.verbs.terminal.test_entry import run


def gone(what: str) -> str:
    return f"Hydra {hydra.__version__} no longer offers {what}; see src/verbs/terminal/hydra_parts.py"


@pytest.fixture
def _no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests find Hydra's registers as they were."""
    monkeypatch.setattr(Plugins.instance(), "class_name_to_class", dict(Plugins.instance().class_name_to_class))
    monkeypatch.setattr(Sweep, "full_errors", False)
    monkeypatch.setattr(Search, "full_errors", False)
    monkeypatch.setattr(ConfigStore.instance(), "__dict__", dict(vars(ConfigStore.instance())))


@pytest.mark.usefixtures("_no_trace")
def test_the_store_of_configs_is_not_copied_for_every_group() -> None:
    store = ConfigStore.instance()
    hydra_parts.share_config_store()
    assert copy.deepcopy({"store": store})["store"] is store, gone("a ConfigStore that can be shared")
    first, second = (store.load("hydra/config.yaml").node for _ in range(2))
    assert first is not second, gone("a copy of each config that it loads, which makes sharing its store safe")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-m", "metrics=a,b", "--cfg", "job"], "a multirun (-m) has many configs; leave out -m to print one"),
        (["hydra.mode=MULTIRUN", "metrics=a,b"], hydra_parts._NO_MODE),
        (["--experimental-rerun", "job.pickle"], "--experimental-rerun reads a pickle; resume=<run> continues a run"),
    ],
)
def test_what_a_verb_does_not_take_of_hydra_is_one_line(words: list[str], why: str) -> None:
    assert run("compare.py", *words, code=2).stderr == f"error: {why}\n"


def test_a_config_file_that_chooses_many_runs_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    done = run("train.py", "--config-dir", str(tmp_path), "experiment=mine", code=2)
    assert done.stderr == f"error: {file}: {hydra_parts._NO_MODE}\n"


@pytest.mark.usefixtures("_no_trace")
def test_a_call_with_words_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("segue.verbs.terminal.entry.keep_objects", lambda: None)
    for name in ("HYDRA_FULL_ERROR", "GOMP_SPINCOUNT", "A_TOKEN"):
        monkeypatch.setenv(name, "0")
    words = "experiment=A", "--cfg", "job", "-p", "experiment_name"
    compare(words)
    assert capsys.readouterr().out == run("compare.py", *words).stdout == "A\n"
    assert (os.environ["A_TOKEN"], command_line()) == ("0", sys.argv)
    with pytest.raises(SystemExit, match="2"):
        compare(["nonsense=1"])
    assert capsys.readouterr().err.startswith("error: nonsense=1: the config has no nonsense")


def test_the_data_may_add_a_choice(tmp_path: Path) -> None:
    (tmp_path / "plays.csv").write_text("playlist,title\n1,a\n1,b\n")
    done = run("train.py", "datamodule=table", f"datamodule.path={tmp_path}/plays.csv", "loss.logq=0.5", "--cfg", "all")
    config = yaml.safe_load(done.stdout)
    assert (config["recipe"]["name"], config["loss"]["logq"]) == ("playlists", 0.5), gone(
        "a loader that can be replaced"
    )
    assert config["hydra"]["runtime"]["choices"]["datamodule"] == "table_playlists"
    assert "datamodule=table" in config["hydra"]["overrides"]["task"]
    assert not [word for word in config["hydra"]["overrides"]["task"] if "table_playlists" in word]


def test_a_config_file_is_read_once_for_as_long_as_it_stays_as_it_is(tmp_path: Path) -> None:
    source, file = hydra_parts.FileConfigSource("main", str(tmp_path)), tmp_path / "one.yaml"
    file.write_text("a: 1")
    first = source.load_config("one").config
    first["a"] = 5
    assert source.load_config("one").config == {"a": 1}
    file.write_text("a: 23")
    assert source.load_config("one").config == {"a": 23}


def test_files_of_two_working_folders_are_not_taken_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list[Any]()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.yaml").write_text(f"name: {name}")
        os.utime(tmp_path / name / "one.yaml", (0, 0))
        monkeypatch.chdir(tmp_path / name)
        found.append(hydra_parts.FileConfigSource("main", "file://.").load_config("one").config)
    assert found == [{"name": "a"}, {"name": "b"}]
