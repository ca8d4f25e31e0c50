"""`make wheel`: the wheel in empty environments, outside a clone: what it installs there, and whether Segue works.

    python -m setup_tests.wheel                   builds the wheel; installs it alone, and on a machine that only serves
    python -m setup_tests.wheel sweep room all    installs it with these extras, each in an environment of its own

An environment has nothing but what pip puts into it; that of an extra also finds the packages of the wheel alone. The
last lines are a table: packages and their size on the disk, and seconds that pip, `import segue` (without the start of
Python) and `segue --help` took. Segue itself does not count. What an extra adds has a +.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-serve.lock"
PATIENCE_S = 300.0
"""Seconds after which a command or a service is given up; nothing that works needs so long."""
PLAYS = ("datamodule=table", "datamodule.path=plays.csv")
WORLD = ("world.num_tracks=300", "world.num_listeners=80")
LISTS = {1: [2, 3], 2: [3, 1], 3: [1, 2]}
"""The recommendations that are served."""
LISTED = "recommendations=recommendations.jsonl"
DOCTESTS = """
import doctest, pkgutil, segue
names = [one.name for one in pkgutil.walk_packages(segue.__path__, "segue.") if one.name.startswith("segue.verbs.api")]
tested = [doctest.testmod(pkgutil.resolve_name(name), optionflags=doctest.ELLIPSIS) for name in ["segue", *names]]
raise SystemExit(sum(one.failed for one in tested))
"""


class Broken(Exception):  # noqa: N818
    """A command did something else than it should; the text says what, and what it printed."""


@dataclass(frozen=True)
class Environment:
    """An empty environment, and an empty folder to work in."""

    venv: Path
    folder: Path

    @property
    def packages(self) -> Path:
        """The folder that pip installs into."""
        [folder] = (self.venv / "lib").glob("python*/site-packages")
        return folder

    def call(self, *command: str, code: int = 0, patience_s: float = PATIENCE_S) -> str:
        """What a command of the environment prints; it must end with this exit code."""
        words = [str(self.venv / "bin" / command[0]), *command[1:]]
        how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        try:
            done = subprocess.run(words, cwd=self.folder, env=clean(), timeout=patience_s, check=False, **how)
        except subprocess.TimeoutExpired:
            raise Broken(f"{' '.join(command)} does not end within {patience_s:g} s") from None
        if done.returncode != code:
            raise Broken(f"{' '.join(command)} ended with {done.returncode}, not with {code}:\n{done.stdout}")
        return str(done.stdout)

    def install(self, *words: str) -> None:
        pip = ["python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        self.call(*pip, *words, patience_s=6 * PATIENCE_S)

    def segue(self, line: str, *words: str) -> str:
        return self.call("segue", *line.split(), *words)

    def refuses(self, line: str, library: str, command: str) -> None:
        """A library is missing: the verb says so in one line, with the command that installs it."""
        said = self.call("segue", *line.split(), code=2)
        if said != f"error: {library} is not installed; install it with: {command}\n":
            raise Broken(f"segue {line} does not say how to install {library}:\n{said}")

    @contextmanager
    def serving(self, *words: str) -> Iterator[Callable[..., Any]]:
        """A service; yields what asks it for a page and reads the JSON."""
        output = self.folder / "service.txt"
        command = [str(self.venv / "bin" / "segue"), "serve", *words, "port=0"]
        with (
            output.open("w") as file,
            subprocess.Popen(
                command, cwd=self.folder, env=clean(), stdout=file, stderr=file, start_new_session=True
            ) as process,
        ):
            try:
                deadline = time.monotonic() + PATIENCE_S
                while not (at := re.search(r"^serving +(http://\S+)(?s:.*)^stop ", output.read_text(), re.MULTILINE)):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise Broken(f"segue serve {' '.join(words)} does not serve:\n{output.read_text()}")
                    time.sleep(0.1)

                def ask(path: str, body: Any = None) -> Any:
                    data = None if body is None else json.dumps(body).encode()
                    headers = {"content-type": "application/json"}
                    request = urllib.request.Request(f"{at[1]}{path}", data, headers)
                    try:
                        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                            return json.loads(answer.read())
                    except urllib.error.HTTPError as error:
                        return {"status": error.code, "said": error.read().decode()}

                yield ask
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)


def clean() -> dict[str, str]:
    """The environment variables, without those that lead to other packages or another store of MLflow."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW", "VIRTUAL"))}


def expect(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise Broken(f"{what}: {found}, expected {expected}")


def uses_every_verb(env: Environment) -> None:
    """All verbs but `serve`, and what a missing extra says."""
    env.segue("describe", *PLAYS)
    env.segue("prepare hydra.run.dir=shards", *PLAYS)
    env.segue("train model=popular datamodule=shards datamodule.path=shards hydra.run.dir=popular")
    env.segue("train model=convex trainer.max_epochs=2 hydra.run.dir=convex", *PLAYS)
    env.segue("compare hydra.run.dir=compared")
    env.segue("simulate sessions=400 hydra.run.dir=played", "arms={C: random, T1: popular}", *WORLD)
    env.segue("abtest logs=played hydra.run.dir=verdict")
    written = ("shards/manifest.json", "convex/plots", "compared/comparison.png", "verdict/abtest.png")
    expect([name for name in written if not (env.folder / name).exists()], [], "files that are missing")
    (env.folder / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "plays.csv", env.folder / "examples")
    env.call("python", "-c", DOCTESTS)
    env.refuses("serve recommendations=random", "uvloop", 'pip install "segue[serve]"')
    env.refuses("train -m search=optuna search.num_trials=2", "optuna", 'pip install "segue[sweep]"')
    env.refuses("train -m hydra/launcher=joblib seed=1,2", "hydra_joblib_launcher", 'pip install "segue[sweep]"')
    env.refuses(f"train model=als {' '.join(PLAYS)}", "implicit", 'pip install "segue[rivals]"')
    env.refuses(f"prepare engine=spark {' '.join(PLAYS)}", "pyspark", 'pip install "segue[spark]"')


def only_serves(env: Environment) -> None:
    """A service with its room, without and with Redis; what it cannot do is one line."""
    lines = [json.dumps({"track": track, "recommendations": found}) for track, found in LISTS.items()]
    (env.folder / "recommendations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with env.serving(LISTED, "workers=2") as ask:
        answers(ask)
        expect(ask("/room/api/state")["tracks"], len(LISTS), "/room/api/state")
        missing = {"reason": "scipy is not installed; install it with: pip install segue"}
        expect(ask("/room/api/experiment"), {"status": 501, "said": json.dumps(missing)}, "/room/api/experiment")
    if shutil.which("redis-server"):
        with redis() as url, env.serving(LISTED, "store=redis", f"store.url={url}") as ask:
            answers(ask)
    env.refuses("train", "pandas", "pip install segue")


def answers(ask: Callable[..., Any]) -> None:
    expect(ask("/health")["status"], "ok", "/health")
    expect(ask("/next/7", {"track": 1, "time": 0.5})["track"] in LISTS[1], True, "/next recommends a track of the list")


@contextmanager
def redis() -> Iterator[str]:
    """A Redis at a socket of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", "0", "--unixsocket", f"{folder}/redis", "--save", ""]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
            try:
                yield f"unix://{folder}/redis"
            finally:
                process.terminate()


def serves(env: Environment) -> None:
    """A service without its room, and the simulator as its client."""
    with env.serving("recommendations=popular", *WORLD) as ask:
        expect(ask("/room")["status"], 404, "/room")
        said = (env.folder / "service.txt").read_text()
        expect('install it with: pip install "segue[room]"' in said, True, said)
        url = re.findall(r"http://[\w.:]+", said)[0]
        env.segue("simulate sessions=100", f"arms={{C: '{url}'}}", *WORLD)


def shows_a_room(env: Environment) -> None:
    with env.serving("recommendations=popular", *WORLD) as ask:
        expect(ask("/room/api/experiment").get("status"), None, "/room/api/experiment")


def sweeps(env: Environment) -> None:
    short = ("trainer.max_epochs=1", *PLAYS)
    env.segue("train -m search=optuna search.num_trials=2 hydra/launcher=joblib model.dim=4,8", *short)


def uses_spark(env: Environment) -> None:
    env.segue("prepare engine=spark hydra.run.dir=by_spark", *PLAYS)


def trains_rivals(env: Environment) -> None:
    for model in ("als", "bpr", *(["item2vec"] if sys.version_info < (3, 14) else [])):
        env.segue(f"train model={model} model.epochs=2 hydra.run.dir={model}", *PLAYS)


WORKS: dict[str, Sequence[Callable[[Environment], None]]] = {
    "base": [uses_every_verb],
    "serving": [only_serves],
    "serve": [serves],
    "room": [shows_a_room],
    "sweep": [sweeps],
    "spark": [uses_spark],
    "rivals": [trains_rivals],
    "all": [shows_a_room, sweeps, uses_spark, trains_rivals],
}
"""What must work in each environment: `base` is the wheel alone, `serving` the wheel with requirements-serve.lock, and
the others are extras."""


def build(folder: Path) -> Path:
    """Build the wheel of this tree."""
    leftovers = ROOT / "build", ROOT / "segue.egg-info"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    try:
        subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    finally:
        for left in leftovers:  # the next wheel would have what is in `build`
            shutil.rmtree(left, ignore_errors=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def install(name: str, wheel: Path, env: Environment, base: Environment | None) -> float:
    """Install the wheel into an environment; returns the seconds that pip took.

    An extra is installed beside the base, whose packages its environment finds.
    """
    subprocess.run([sys.executable, "-m", "venv", str(env.venv)], check=True)
    if base is not None:
        (env.packages / "base.pth").write_text(f"{base.packages}\n", encoding="utf-8")
        env.install("--no-deps", "--ignore-installed", str(wheel))
    start = time.monotonic()
    if name == "serving":
        env.install("--require-hashes", "--requirement", str(LOCK))
        env.install("--no-deps", str(wheel))
    else:
        env.install(str(wheel) if base is None else f"{wheel}[{name}]")
        env.call("python", "-m", "pip", "check", "--disable-pip-version-check")
    return time.monotonic() - start


def measure(env: Environment, install_s: float) -> str:
    """The row of the table, without its name."""
    own = [path for path in env.packages.iterdir() if not path.name.startswith(("pip", "setuptools", "segue"))]
    packages = sum(path.suffix == ".dist-info" for path in own)
    timed = "import time; start = time.perf_counter(); import segue; print(time.perf_counter() - start)"
    import_s = min(float(env.call("python", "-c", timed)) for _ in range(5))
    help_s = best_of(env, "segue", "--help")
    megabytes = sum(map(size_of, own)) / 1e6
    return f"{packages} | {megabytes:,.0f} | {install_s:.0f} | {import_s:.3f} | {help_s:.2f}"


def size_of(folder: Path) -> int:
    """Bytes that a file, or all in a folder, take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in [folder, *folder.rglob("*")])


def best_of(env: Environment, *command: str) -> float:
    """Seconds that a command takes, the least of five."""
    times = []
    for _ in range(5):
        start = time.monotonic()
        env.call(*command)
        times.append(time.monotonic() - start)
    return min(times)


def main() -> None:
    """Install and try each environment that the command line names."""
    names = sys.argv[1:] or ["base", "serving"]
    if unknown := [name for name in names if name not in WORKS]:
        sys.exit(f"there is no environment {unknown[0]}; there are {', '.join(WORKS)}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = list(tried(names, Path(folder)))
        except Broken as broken:
            sys.exit(str(broken))
    print("| environment | packages | size, MB | installation, s | `import segue`, s | `segue --help`, s |")
    print("|---|--:|--:|--:|--:|--:|", *rows, sep="\n")


def tried(names: Sequence[str], folder: Path) -> Iterator[str]:
    """A row of the table for each environment in which Segue works."""
    wheel, base = build(folder), None
    for name in dict.fromkeys([*["base"] * (set(names) != {"serving"}), *names]):
        env = Environment(folder / name / "venv", folder / name / "empty")
        env.folder.mkdir(parents=True)
        shutil.copy(ROOT / "examples" / "plays.csv", env.folder)
        print(f"{name}: installing", flush=True)
        install_s = install(name, wheel, env, None if name == "serving" else base)
        if name == "base":
            base = env
        for works in WORKS[name] if name in names else []:
            print(f"{name}: {works.__name__.replace('_', ' ')}", flush=True)
            works(env)
        row = measure(env, install_s)
        yield f"| {name} | {row} |" if name in ("base", "serving") else f"| base, and {name} | +{row} |"


if __name__ == "__main__":
    main()
