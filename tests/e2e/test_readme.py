"""The commands of docs/tutorial.md and docs/your_ids.md run, and of those of README.md what no tutorial has.

`tests/test_commands.py` sees of each command whether it can be typed; contracts train each model that one names. A
command runs as it is printed, with four changes: `small` appends words that make the world, the traffic and the
training small, and listeners of a service patient; `FEWER` shortens sweeps, which run one job after another; an export
is short; a service gets a free port. The commands of a tutorial run in their order, in one folder.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.forks import CHILDREN_TOO, fork_command
from tests.e2e.running import PATIENCE_S, PATIENT, Running, binary, run_verb, serve, serving, wait_until
from tests.e2e.test_compare import compare
from tests.e2e.test_train import train
from tests.pages import bash_lines

WORLD = ("world.num_tracks=300", "world.num_listeners=80")
FEWER = {"model=contextual,track,artist,mean,convex": "model=contextual,convex", "hydra/launcher=joblib ": ""}
NUM_PLAYS = 8_000
"""Rows of the export of `docs/your_ids.md`, in place of 200,000. In others so short its user has none."""
PORT = ":5001"
PLAYS = "examples/plays.csv"
QUICK_START = f"python train.py datamodule=table datamodule.path={PLAYS}", "python train.py hydra.run.dir=outputs/first"
"""What is exported has learned all of its data: a file of plays, and the simulated logs of `make train`."""


def commands(page: str) -> list[str]:
    """Lines of the bash blocks of a page, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.removeprefix(".venv/bin/") for block in blocks for line in bash_lines(block)]


README, TUTORIAL = commands("README.md"), commands("docs/tutorial.md")


def small(verb: str, words: list[str]) -> tuple[str, ...]:
    """Words that make a command cheap."""
    if verb == "train.py":
        is_simulated = not any(word.startswith("datamodule=") for word in words)
        world = (*WORLD, "datamodule.prepare.sessions=600") if is_simulated else ()
        model = () if "-m" in words else ("callbacks.lineage.model=false",)  # the best of a sweep is registered
        return *world, *model, "callbacks.plots=null", "trainer.max_epochs=1", "callbacks.export.k=10"
    if verb in ("simulate.py", "abtest.py") and not any(word.startswith("logs=") for word in words):
        is_service = any("http://" in word for word in words)
        return *(() if "world=catalogue" in words else WORLD), *([PATIENT] if is_service else []), "sessions=200"
    return ()


def run(line: str, cwd: Path) -> None:
    """Run one command of a page that ends by itself."""
    if PLAYS in line:
        (cwd / PLAYS).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / PLAYS, cwd / PLAYS)
    for many, few in FEWER.items():
        line = line.replace(many, few)
    if line.startswith("python -m "):
        command, env = fork_command(*shlex.split(line)[1:]), {**os.environ, "PYTHONPATH": str(ROOT)}
        command += [f"rows={NUM_PLAYS}"] if "app_export" in line else []
        subprocess.run(command, cwd=cwd, env=env, check=True, timeout=PATIENCE_S)
        return
    if not line.startswith("python "):
        subprocess.run(["bash", "-euo", "pipefail", "-c", line], cwd=cwd, check=True, timeout=PATIENCE_S)
        return
    [_, verb, *words] = shlex.split(line)
    words += small(verb, words)
    if verb in ("train.py", "compare.py"):
        done = train(cwd, *words) if verb == "train.py" else compare(cwd, *words)
        if line in QUICK_START:
            assert re.search(r"exported +refitted on all [\d,]+ sessions", done.stdout), done.stdout
    else:
        run_verb(verb, cwd, *words)


def test_the_first_command_of_the_readme_trains_on_a_file_of_plays(tmp_path: Path) -> None:
    [line] = {line for line in README if line.startswith("python train.py") and line.endswith(PLAYS)}
    run(line, tmp_path)
    assert len(list(tmp_path.glob("outputs/train/*/metrics.json"))) == 1


@pytest.fixture
def services() -> Iterator[ExitStack]:
    """Stops the services that a test has started."""
    with ExitStack() as stack:
        yield stack


def test_the_tutorial_runs_in_its_order(tmp_path: Path, services: ExitStack) -> None:
    service = walk(TUTORIAL, tmp_path, services)
    played, learned = (tmp_path / "outputs" / name for name in ("from_service", "second"))
    heard = [json.loads(text) for text in (played / "logs/day-1/data.json").read_text().splitlines()]
    asked, played_there = (
        Counter((line["message"], line["user"], line["track"], line["time"]) for line in lines)
        for lines in (service.lines(), heard)
    )
    by_curl = Counter([("next", 7, 10, 1.0), ("last", 7, 11, 0.4)])
    assert asked == played_there + by_curl, "the service got every request and every end of a session"
    wait_until(lambda: "NEXT" in str(service.ask("GET", "/experiments").body), "the next experiment")
    assert {"recommendations.jsonl", "metrics.json"} <= {path.name for path in learned.iterdir()}
    assert len(list(tmp_path.glob("outputs/five/*/metrics.json"))) == 2 * 2


def walk(page: list[str], cwd: Path, services: ExitStack) -> Running:
    """Run the commands of a page in their order, in one folder; the service that they start goes on."""
    binary("curl")
    service: Running | None = None
    for line in page:
        if line.startswith(("make ", ". .venv")):
            continue
        if line.startswith(("python serve.py load", "python serve.py rollback")):
            serve(cwd, *shlex.split(line)[2:])
            continue
        if line.startswith("python serve.py"):
            [folder] = re.findall(r" hydra\.run\.dir=(\S+)", line)
            words = [word for word in shlex.split(line)[2:] if not word.startswith("hydra.run.dir=")]
            service = services.enter_context(serving(cwd, *words, run=folder))
            continue
        assert service is not None or PORT not in line, f"no service is running yet: {line}"
        run(line if service is None else line.replace(PORT, f":{service.port}"), cwd)
    assert service is not None
    return service


def test_the_example_is_of_the_kind_that_its_script_writes(tmp_path: Path) -> None:
    run_verb(PLAYS.replace(".csv", ".py"), tmp_path, "plays.csv", env=CHILDREN_TOO)
    shipped, written = ((folder / "plays.csv").read_text().splitlines() for folder in (ROOT / "examples", tmp_path))
    assert shipped[0] == written[0]
    assert abs(len(written) / len(shipped) - 1) < 0.1  # another processor may round a draw in another way


def test_the_tutorial_has_every_step_and_shortened_commands_are_there() -> None:
    verbs = {line.split()[1] for line in TUTORIAL if line.startswith("python ")}
    assert verbs == {"train.py", "compare.py", "simulate.py", "abtest.py", "serve.py"}
    assert [many for many in FEWER if not any(many in line for line in TUTORIAL)] == []
