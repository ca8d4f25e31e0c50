"""The wheel: it holds the code and the configs, has the version of its tag, and its command works in any folder."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from segue.runs.provenance import VERBS, segue_version
from tests.conftest import ROOT

VERSION = "3.2.1"
"""That of the tag of the clone that the wheel is built in."""

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input"]
ALL_HELPS = """
import contextlib, sys
from segue.__main__ import main
from segue.runs.provenance import VERBS
for verb in VERBS:
    for option in (["--help"], ["--cfg", "job"]):
        sys.argv = ["segue", verb, *option]
        print("##", verb, *option)
        with contextlib.suppress(SystemExit):
            main()
"""
TRAIN_AND_COMPARE = """
import sys
from segue.__main__ import main
for line in ("train --config-dir mine experiment=mine hydra.run.dir=run", "compare hydra.run.dir=compared"):
    sys.argv = ["segue", *line.split()]
    main()
"""


@dataclass
class Installed:
    """What pip installed: the wheel, the folder with the package, and an empty folder to work in."""

    wheel: Path
    target: Path
    folder: Path

    def run(self, *command: str, code: int = 0) -> str:
        env = {**os.environ, "PYTHONPATH": str(self.target), "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def segue(self, *words: str, code: int = 0) -> str:
        return self.run(str(self.target / "bin" / "segue"), *words, code=code)


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True)


def sources(*paths: str) -> list[str]:
    """Files of the project that git tracks, or would track."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted(name for name in listed if os.path.lexists(ROOT / name) and name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("package")
    for name in sources("pyproject.toml", "README.md", "LICENSE", "segue", "src", "conf"):
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name, follow_symlinks=False)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["tag", f"v{VERSION}"]):
        git(folder / "clone", *words)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), "./clone"]
    subprocess.run([*PIP, *build], cwd=folder, check=True)
    [wheel] = folder.glob("*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", str(folder / "target"), str(wheel)]
    subprocess.run([*PIP, *install], cwd=folder, check=True)
    (folder / "empty").mkdir()
    return Installed(wheel, folder / "target", folder / "empty")


def test_the_wheel_holds_what_git_tracks_of_the_code_and_the_configs(installed: Installed) -> None:
    assert installed.wheel.name == f"segue-{VERSION}-py3-none-any.whl"
    held = [name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name]
    code = {name.replace("src/", "segue/", 1) for name in sources("src") if name != "src/conf"}
    assert sorted(held) == sorted(code | {f"segue/{name}" for name in sources("conf")})
    assert "segue/py.typed" in held


def test_the_verbs_print_their_help_and_their_configs_anywhere(installed: Installed) -> None:
    printed = installed.run(sys.executable, "-c", ALL_HELPS)
    blocks = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)+)", printed, re.MULTILINE))
    assert list(blocks) == [f"{verb} {option}" for verb in VERBS for option in ("--help", "--cfg job")]
    for verb in VERBS:
        assert f"  segue {verb}" in blocks[f"{verb} --help"]
        assert "run_dir: outputs/" in blocks[f"{verb} --cfg job"]
    assert not re.search(r"\w\.py\b", printed)
    assert list(installed.folder.iterdir()) == []


def test_who_cites_the_project_is_told_how_and_reads_the_version_from_the_command() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()  # what version 1.2.0 of the format demands
    assert cited["authors"]
    assert all(author.keys() & {"name", "family-names"} for author in cited["authors"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["title"].lower(), cited["license"]) == (project["name"], project["license"])
    assert not {"version", "date-released"} & cited.keys()


def test_the_command_lists_the_verbs(installed: Installed) -> None:
    printed = installed.segue("--help")
    assert re.findall(r"^  (\w+) +[A-Z].*\.$", printed, re.MULTILINE) == list(VERBS)
    assert installed.run(sys.executable, "-m", "segue") == printed
    assert installed.segue("--version") == f"segue {VERSION}\n"
    assert "'trian' is not a command; the commands are" in installed.segue("trian", code=2)


def test_what_trains_and_compares_is_the_installed_code_with_a_config_of_ones_own(installed: Installed) -> None:
    shutil.copy(ROOT / "examples" / "plays.csv", installed.folder)
    (installed.folder / "mine" / "experiment").mkdir(parents=True)
    own = """
        # @package _global_
        defaults: [override /datamodule: table, override /model: popular]
        datamodule: {path: plays.csv}
        callbacks: {plots: null, lineage: null}
    """
    (installed.folder / "mine" / "experiment" / "mine.yaml").write_text(textwrap.dedent(own).lstrip())
    printed = installed.run(sys.executable, "-c", TRAIN_AND_COMPARE)
    assert f"\nnext         segue serve recommendations={installed.folder / 'run'}\n" in printed
    assert "\nnext         segue serve recommendations=run:" in printed
    head = (installed.folder / "run" / "config.yaml").read_text(encoding="utf-8").splitlines()
    assert head[:2] == [
        "# command: segue train --config-dir mine experiment=mine hydra.run.dir=run",
        f"# git_commit: segue-{VERSION}",
    ]


def test_a_clone_has_the_version_of_its_tag_and_a_tree_without_git_says_that_it_knows_none(
    installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = installed.wheel.parent / "clone"
    assert segue_version(clone) == VERSION
    git(tmp_path, "clone", "-q", str(clone), "changed")
    git(tmp_path / "changed", "commit", "-q", "--allow-empty", "-m", "two")
    assert re.fullmatch(r"3\.2\.2\.dev1\+g[0-9a-f]+", segue_version(tmp_path / "changed"))
    (tmp_path / "archive").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "archive")
    assert segue_version(tmp_path / "archive") == "0.1.0.dev0"
    monkeypatch.setitem(sys.modules, "setuptools_scm", None)
    assert segue_version(clone) == "0.1.0.dev0"


def test_the_installed_package_has_a_version_and_importing_it_asks_git_for_nothing(installed: Installed) -> None:
    program = "import sys, segue; print('subprocess' in sys.modules, segue.__version__)"
    assert installed.run(sys.executable, "-S", "-c", program) == f"False {VERSION}\n"


@pytest.mark.parametrize(
    ("line", "words"), [("segue t", "train"), ("segue train datamodule=kk", "datamodule=kkbox"), ("segue ", None)]
)
def test_bash_completes_verbs_and_options(installed: Installed, line: str, words: str | None) -> None:
    script = f"""
        PATH="{installed.target / "bin"}:$PATH"; eval "$(segue -sc install=bash)"
        COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; COMP_CWORD=$(( {len(line.split(" "))} - 1 ))
        hydra_bash_completion; echo "${{COMPREPLY[@]}}"
    """
    assert installed.run("bash", "-c", script).split() == ([words] if words else list(VERBS))
