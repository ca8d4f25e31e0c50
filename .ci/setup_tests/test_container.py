"""What `deploy/` says, run without a container engine: `make container`.

bubblewrap gives the service what a container would: the file system of the image, which is read-only, one volume, a
network of its own, a user that is not root, and process id 1. The image is installed by the same line as in the
Dockerfile, from the package index; therefore this file is no part of `make test`.
"""

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from setup_tests.test_built_wheel import sources
from tests.conftest import ROOT
from tests.deploying import DEPLOY, SECRETS, compose, image, queries
from tests.e2e.running import PATIENCE_S, binary, read_lines, started, wait_until

SYSTEM = [
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64", "--ro-bind", sys.base_prefix, sys.base_prefix),
    *("--dev", "/dev", "--proc", "/proc"),
]
"""What the base image has: the programs of this machine and its Python."""
SETTINGS = dict(word.split("=", 1) for words in image()["ENV"] for word in words)
ENVIRONMENT = {name: value.replace("$PATH", "/usr/bin:/bin") for name, value in SETTINGS.items()}
[START] = image()["ENTRYPOINT"]
[HEALTH] = image()["HEALTHCHECK"]


@dataclass
class Box:
    """A container that runs."""

    process: subprocess.Popen[Any]
    pid: int
    volume: Path
    output: Path
    env: Mapping[str, str]

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """As `docker exec`."""
        enter = [binary("nsenter"), f"--target={self.pid}", "--user", "--net", "--mount", "--pid"]
        within = [*enter, "--preserve-credentials", "/bin/sh", "-c", 'cd /data && exec "$@"', "sh", *command]
        return subprocess.run(
            within, env=self.env, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def python(self, code: str, **given: Any) -> Any:
        """What code in the container makes of values; it sets `answer`."""
        script = f"import json, sys\nglobals().update(json.load(sys.stdin))\n{textwrap.dedent(code)}"
        done = self.run("python", "-c", f"{script}\nprint(json.dumps(answer))", stdin=json.dumps(given))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ask(self, *requests: tuple[str, Any], token: str = "") -> list[tuple[int, str]]:
        """Status and body of each answer of the service, to a GET or, where there is a body, a POST."""
        code = """
            import http.client
            service, answer = http.client.HTTPConnection("127.0.0.1", 5001), []
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            for path, body in requests:
                service.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
                response = service.getresponse()
                answer.append((response.status, response.read().decode()))
        """
        return [(status, text) for status, text in self.python(code, requests=requests, token=token)]

    def is_healthy(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        return self.run(*HEALTH).returncode == 0

    def stop(self) -> str:
        """As `docker stop`; returns what the service printed."""
        os.kill(self.pid, signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, self.output.read_text()
        return self.output.read_text()


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the first stage of the Dockerfile installs."""
    probe = subprocess.run([binary("bwrap"), *SYSTEM, "--unshare-pid", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"bubblewrap cannot isolate a process on this machine: {probe.stderr.strip()}")
    folder = tmp_path_factory.mktemp("image")
    (installed := folder / "venv").mkdir()
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name in sources(*(line[1:] for line in kept if line.startswith("!"))):
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name, follow_symlinks=False)
    bound = ["--ro-bind", "/etc", "/etc", "--ro-bind-try", "/opt/wheels", "/opt/wheels", "--tmpfs", "/tmp"]
    bound += ["--bind", str(folder / "clone"), "/clone", "--bind", str(installed), "/opt/segue"]
    python = str(Path(sys.base_prefix, "bin/python3"))
    install = image()["RUN"][0]
    command = [binary("bwrap"), *SYSTEM, *bound, "--setenv", "PYTHON", python, "--unshare-pid", *install]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("segue ")
    return installed


@contextmanager
def box(
    venv: Path, volume: Path, *command: str, env: Mapping[str, str] = {}, mounts: Mapping[str, Path] = {}
) -> Iterator[Box]:
    """A container of the image, which starts a command."""
    volume.mkdir(exist_ok=True)
    [(user,)], [(folder,)] = image()["USER"], image()["WORKDIR"]
    bound = ["--ro-bind", str(venv), "/opt/segue", "--bind", str(volume), folder]
    bound += [word for at, path in mounts.items() for word in ("--ro-bind", str(path), at)]
    bound += ["--dir", "/tmp", "--remount-ro", "/", "--chdir", folder]
    settings = {**ENVIRONMENT, **env}
    set_all = [word for name, value in settings.items() for word in ("--setenv", name, value)]
    uid, _, gid = user.partition(":")
    alone = ["--unshare-all", "--as-pid-1", "--die-with-parent", "--cap-drop", "ALL", "--uid", uid, "--gid", gid]
    reading, writing = os.pipe()
    words = [binary("bwrap"), *alone, "--json-status-fd", str(writing), "--clearenv", *set_all, *SYSTEM, *bound]
    output = volume.with_suffix(".txt")
    with (
        output.open("w") as file,
        os.fdopen(reading) as status,
        started([*words, *command], stdout=file, stderr=subprocess.STDOUT, pass_fds=[writing]) as process,
    ):
        os.close(writing)
        yield Box(process, json.loads(status.readline())["child-pid"], volume, output, settings)


def test_the_image_serves_with_a_read_only_root_and_one_volume(venv: Path, tmp_path: Path) -> None:
    for number in (1, 2):  # as it restarts with the same volume
        with box(venv, tmp_path / "data", *START, *image()["CMD"][0]) as running:
            wait_until(running.is_healthy, "the health check succeeds")
            assert running.run("touch", "/opt/segue/new", "/new", "/tmp/new").stderr.count("Read-only file system") == 3
            assert running.run("id", "-u").stdout == "10001\n"
            pages = [("/room", None), ("/room/api/state", None)]
            answers = running.ask(("/next/7", {"track": 10, "time": 0.8}), *pages)
            assert [status for status, _ in answers] == [200] * 3
            assert json.loads(answers[0][1])["user"] == 7
            loaded = running.run("segue", "serve", "load", "store.folder=store", "recommendations=random")
            assert "is current in /data/store" in loaded.stdout, loaded.stderr
            said = running.stop()
        assert "(2 workers)" in said
        assert "(next 1, last 0" in said
        assert len(read_lines(tmp_path / "data/outputs")) == number


def test_the_health_check_fails_where_nothing_answers(venv: Path, tmp_path: Path) -> None:
    with box(venv, tmp_path / "data", "sleep", "infinity") as running:
        wait_until(lambda: running.run("true").returncode == 0, "the container is there")
        assert running.run(*HEALTH).returncode == 1


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with lists of three tracks; who has heard all three gets a fallback."""
    (folder := tmp_path / "run").mkdir()
    lines = [{"track": track, "recommendations": [track % 3 + 1, (track + 1) % 3 + 1]} for track in (1, 2, 3)]
    (folder / "recommendations.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return folder


EXPERIMENT = "arms={C: random, T1: {recommender: /runs/recommendations.jsonl, pick: ranked}}"


def test_the_board_shows_the_service_of_compose_and_its_experiment(
    venv: Path, tmp_path: Path, run_folder: Path
) -> None:
    prometheus, redis = binary("prometheus"), binary("redis-server")
    lists = "/runs/recommendations.jsonl"
    services = compose(**SECRETS, SEGUE_RUNS=str(run_folder), SEGUE_RECOMMENDATIONS=lists)
    service, token = services["service"], SECRETS["SEGUE_TOKEN"]
    files = {"hosts": "127.0.0.1 localhost service redis prometheus\n", "token": token}
    files["prometheus.yml"] = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8").replace("15s", "1s")
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    mounts = {
        "/etc/hosts": tmp_path / "hosts",
        "/run/secrets/token": tmp_path / "token",
        "/etc/prometheus/prometheus.yml": tmp_path / "prometheus.yml",
        "/etc/prometheus/alarms.yml": DEPLOY / "alarms.yml",
        "/runs": run_folder,
    }
    with_redis = f"{redis} {services['redis']['command'].partition(' ')[2]} > /data/redis.txt & "
    with_redis += 'until redis-cli ping; do sleep 0.1; done; exec "$@"'
    command = ["/bin/sh", "-c", with_redis, "sh", *START, *service["command"]]
    with box(venv, tmp_path / "data", *command, env=service["environment"], mounts=mounts) as running:
        wait_until(running.is_healthy, "the health check succeeds")
        assert lists in running.output.read_text()
        [(status, _)] = running.ask(("/metrics", None))
        assert status == 401
        loaded = running.run("segue", "serve", "load", "store=redis", EXPERIMENT, "experiment=RANKED")
        assert "is current in redis://redis:6379/0" in loaded.stdout, loaded.stderr

        def metrics() -> str:
            return running.ask(("/metrics", None), token=token)[0][1]

        wait_until(lambda: 'experiment="RANKED"' in metrics(), "the experiment is served")
        session = [("next", 1, 0.5), ("next", 2, 0.5), ("next", 3, 0.5), ("last", 1, 1.0)]
        plays = [
            (f"/{call}/{user}", {"track": track, "time": share}) for user in range(20) for call, track, share in session
        ]
        start = [prometheus, "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data/prometheus"]

        def play(total: int) -> None:
            """All plays, and a request that is refused; then `total` plays are counted."""
            answers = running.ask(*plays, ("/next/1", {"track": "no such track", "time": 1}), token=token)
            assert [status for status, _ in answers] == [200] * len(plays) + [404]
            wait_until(
                lambda: sum(map(float, re.findall(r"^segue_plays_total.* (.*)", metrics(), re.M))) == total, "plays"
            )

        play(len(plays))  # for Prometheus, a counter that is new does not grow
        running.run("/bin/sh", "-c", f"{shlex.join(start)} > /data/prometheus.txt 2>&1 &")
        wait_until(lambda: samples(running, {"": "segue_arm"})[""], "Prometheus has read the metrics")
        play(2 * len(plays))
        shown = {"plays": "sum(segue_plays_total)"}  # first: what is asked later is not older
        shown |= {title: query.replace("$__rate_interval", "1m") for title, query in queries().items()}

        def is_complete() -> dict[str, list[Any]] | None:
            answers = samples(running, shown)
            known = [one["value"][1] for one in answers["plays"]] == [str(2 * len(plays))]
            return answers if known and not lacking(answers) else None

        answers = wait_until(is_complete, "every panel shows something")
    arms = {sample["metric"]["arm"]: sample["metric"] for sample in answers["Arms, A"]}
    assert {name: arm["recommender"] for name, arm in arms.items()} == {"C": "random", "T1": lists}
    assert {arm["experiment"] for arm in arms.values()} == {"RANKED"}
    assert (arms["T1"]["pick"], arms["T1"]["artist_gap"]) == ("ranked", "0")
    assert {sample["metric"]["arm"] for sample in answers["Fallbacks, A"]} == {"T1"}
    for title, mean in {"Listening per session, A": 2.5, "Share of a track that is played, A": 0.625}.items():
        values = [float(sample["value"][1]) for sample in answers[title]]
        known = [value for value in values if not math.isnan(value)]  # NaN: not played for a minute
        assert known == pytest.approx([mean, mean], rel=0.2)  # Prometheus may have read in the middle of the plays


def samples(running: Box, shown: Mapping[str, str]) -> dict[str, list[Any]]:
    """What Prometheus answers to queries, by title; nothing before it listens and has opened its store."""
    code = """
        from urllib.error import URLError
        from urllib.parse import urlencode
        from urllib.request import urlopen

        def ask(query):
            with urlopen(f"http://127.0.0.1:9090/api/v1/query?{urlencode({'query': query})}") as response:
                return json.load(response)["data"]["result"]

        try:
            answer = {title: ask(query) for title, query in shown.items()}
        except URLError as error:
            assert "refused" in str(error) or "503" in str(error), error
            answer = {title: [] for title in shown}
    """
    answers: dict[str, list[Any]] = running.python(code, shown=shown)
    return answers


def lacking(answers: Mapping[str, list[Any]]) -> list[str]:
    """Curves of the board without a value; an alarm has none while nothing is wrong."""
    return [title for title, found in answers.items() if "," in title and not found]


ALARMS = {
    "ServiceDown": {'up{job="segue"}': "0x30"},
    "Problem": {"segue_problems": "1x30"},
    "WorkerDown": {"segue_workers_alive": "1x30", "segue_workers_configured": "2x30"},
    "WorkersDie": {'segue_worker_restarts_total{worker="worker-1"}': "0+1x30"},
    "Errors": {'segue_requests_total{status="200"}': "0+90x30", 'segue_requests_total{status="503"}': "0+10x30"},
    "Fallbacks": {
        'segue_fallbacks_total{arm="C",source="popular"}': "0+20x30",
        'segue_plays_total{arm="C",message="next"}': "0+100x30",
    },
    "SlowAnswers": {
        f'segue_request_seconds_bucket{{endpoint="next",le="{le}"}}': f"0+{count}x30"
        for le, count in {"0.05": 90, "0.1": 100, "+Inf": 100}.items()
    },
}
"""Series of half an hour, by the alarm that they set off."""
CALM = {
    'up{job="segue"}': "1x30",
    "segue_problems": "0x30",
    "segue_workers_alive": "2x30",
    "segue_workers_configured": "2x30",
    'segue_worker_restarts_total{worker="worker-1"}': "3x30",
    'segue_requests_total{status="200"}': "0+90x30",
    'segue_fallbacks_total{arm="C",source="popular"}': "0+2x30",
    'segue_plays_total{arm="C",message="next"}': "0+100x30",
    'segue_request_seconds_bucket{endpoint="next",le="0.05"}': "0+100x30",
    'segue_request_seconds_bucket{endpoint="next",le="+Inf"}': "0+100x30",
}
"""Series of half an hour in which nothing is wrong."""


@pytest.mark.parametrize("name", [None, *ALARMS])
def test_an_alarm_is_set_off_by_what_it_names_and_by_nothing_else(name: str | None, tmp_path: Path) -> None:
    series = CALM if name is None else ALARMS[name]
    shutil.copy(DEPLOY / "alarms.yml", tmp_path)
    situation = {
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "30m",
                "exp_samples": [] if name is None else [{"labels": f'{{alertname="{name}"}}', "value": 1}],
            }
        ],
    }
    given = {"rule_files": ["alarms.yml"], "evaluation_interval": "1m", "tests": [{"interval": "1m"} | situation]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(given), encoding="utf-8")
    done = subprocess.run([binary("promtool"), "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alarm_has_such_a_situation() -> None:
    assert ALARMS.keys() == {title for title in queries() if "," not in title}


@pytest.mark.parametrize(
    "linter",
    ["hadolint deploy/Dockerfile", "check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml"],
)
def test_a_linter_finds_nothing(linter: str) -> None:
    program, *words = linter.split()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if shutil.which(program, path=path) is None:
        pytest.skip(f"{program} is not installed; make container installs it")
    done = subprocess.run([program, *words], cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mlflow_has_the_options_of_compose() -> None:
    from mlflow.cli import cli

    program, command, *words = shlex.split(compose(**SECRETS)["mlflow"]["command"])
    assert program == "mlflow"
    cli.commands[command].make_context(command, words)
