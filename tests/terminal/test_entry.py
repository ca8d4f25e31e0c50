"""The entry of a verb, from a shell."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT


def run(verb: str, *words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / verb), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **env},
    )
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


def test_a_misspelt_key_is_one_line() -> None:
    assert run("simulate.py", "dyas=1", code=2).stderr.startswith("error: ")


def test_a_service_refuses_a_used_folder_with_the_setting_that_its_documentation_has(tmp_path: Path) -> None:
    (tmp_path / "serve.json").touch()
    done = run("serve.py", "recommendations=popular", f"run_dir={tmp_path}", code=2)
    assert done.stderr.endswith("holds a run already; choose another folder with run_dir=<folder>\n")
