"""The entry of a verb, from a shell."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT
from tests.e2e.forks import run_forked
from tests.e2e.running import PATIENCE_S


def run(verb: str, *words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = run_forked(ROOT / verb, *words, cwd=ROOT, env={**os.environ, **env}, timeout_s=PATIENCE_S)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_config_is_shown_with_the_values_that_will_be_used() -> None:
    done = run("train.py", "model=convex", "seed=7", "--cfg", "job", SEGUE_TOKEN="geheim")
    assert "${" not in done.stdout
    assert "geheim" not in done.stdout
    config = yaml.safe_load(done.stdout)
    assert config["datamodule"]["seed"] == 7
    assert config["callbacks"]["early_stopping"]["monitor"] == config["monitor"]["metric"]
    assert config["callbacks"]["export"]["path"] == f"{config['run_dir']}/recommendations.jsonl"
    assert config["run_dir"].startswith("outputs/train/")


def test_passwords_in_addresses_are_not_shown() -> None:
    store = run("serve.py", "store=redis", "--cfg", "job", SEGUE_REDIS_URL="redis://:geheim@host:6379/0").stdout
    assert yaml.safe_load(store)["store"]["url"] == "redis://***@host:6379/0"
    logger = run("train.py", "--cfg", "job", MLFLOW_TRACKING_URI="postgresql://user:geheim@host/db").stdout
    assert yaml.safe_load(logger)["logger"]["tracking_uri"] == "postgresql://***@host/db"


def test_a_part_of_the_config_is_shown_too() -> None:
    assert yaml.safe_load(run("train.py", "seed=7", "-c", "job", "-p", "datamodule").stdout)["seed"] == 7


def test_an_option_that_cannot_be_parsed_is_one_line() -> None:
    done = run("simulate.py", "arms={C:", "random}", code=2)
    [line] = done.stderr.splitlines()
    assert line.startswith("error: cannot read arms={C:; write name=value without spaces, and quote")


def test_a_run_that_fails_leaves_no_folder_that_was_created_for_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    done = run("serve.py", "recommendations=nothing", f"run_dir={tmp_path}/a/b/c", code=2)
    assert "nothing" in done.stderr
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a"]


def test_output_that_nobody_reads_is_no_bug() -> None:
    words = [sys.executable, str(ROOT / "train.py"), "--cfg", "job"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `head` does when it has seen enough
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 1


def test_a_service_refuses_a_used_folder_with_the_setting_that_its_documentation_has(tmp_path: Path) -> None:
    (tmp_path / "serve.json").touch()
    done = run("serve.py", "recommendations=popular", f"run_dir={tmp_path}", code=2)
    assert done.stderr.endswith("holds a run already; choose another folder with run_dir=<folder>\n")
