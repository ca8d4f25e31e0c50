"""The script of a night (`examples/nightly`): its exit codes, and what a kill at any moment leaves."""

import fcntl
import importlib.util
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, event, write_lines
from tests.e2e.forks import KILLS, fork_command, killed_command
from tests.e2e.running import Running, binary, redis_server, run_verb, serving, started, wait_until

SCRIPT = ROOT / "examples" / "nightly" / "nightly.py"


class Killed(BaseException):
    """The script was killed."""


def script() -> Any:
    spec = importlib.util.spec_from_file_location("nightly", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Fake:
    """A folder of nights whose commands of Segue are answered by this class; it can kill the script before each change.

    Args:
        folder: of the state and of the service.
        monkeypatch: replaces what the script calls.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module, self.state, self.service = script(), folder / "state", folder / "service"
        self.train_code, self.has_news, self.change_percent = 0, True, 0.0
        self.steps_to_kill, self.calls = -1, list[str]()
        (self.state).mkdir(parents=True)
        run(folder / "first")
        (self.state / "current").symlink_to(folder / "first")
        (self.service / "logs").mkdir(parents=True)
        for name in ("serve.json", "tracks.json"):
            (self.service / name).touch()
        (self.service / "logs" / "data.json").write_text("played")
        self.served = "first"
        for owner, name in ((Path, "replace"), (Path, "symlink_to"), (Path, "write_text"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))
        monkeypatch.setattr(shutil, "rmtree", self.counted(shutil.rmtree))
        monkeypatch.setattr(subprocess, "run", self.counted(self.answer))

    def counted(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*given: Any, **named: Any) -> Any:
            self.step()
            return change(*given, **named)

        return changed

    def step(self) -> None:
        self.steps_to_kill -= 1
        if self.steps_to_kill == 0:
            raise Killed

    def answer(self, command: list[str], **_: Any) -> Any:
        word = {one.partition("=")[0]: one.partition("=")[2].strip("'") for one in command}
        verb, code, text = command[1], 0, ""
        self.calls.append(verb)
        if verb == "train":
            assert Path(word["from"]).resolve() == (self.state / "current").resolve()
            assert (Path(word["datamodule.path"]) / "logs" / "service" / "data.json").read_text() == "played"
            folder = Path(word["hydra.run.dir"])
            if self.has_news:
                folder.mkdir()
                self.step()  # a run that is not complete
                (folder / "night.json").touch()
                if not self.train_code:
                    (folder / "recommendations.jsonl").touch()
            code = self.train_code
        elif verb == "serve":
            assert word["store.folder"] == str(self.service / "store")
            assert command[-1] == "pick=ranked"
            self.served = Path(word["recommendations"]).parent.name
            self.step()  # it is served, and the command has not ended
            text = f"version {version_of(self.served)} is current in {word['store.folder']}\n"
        else:
            report = Path(word["hydra.run.dir"])
            report.mkdir()
            row = dict.fromkeys(("change_percent", "change_lower_percent", "change_upper_percent"), self.change_percent)
            name = version_of((self.state / "current").resolve().name)
            with (report / "releases.json").open("w") as file:  # not a change that the script makes
                json.dump({"releases": [{"release": name, **row}]}, file)
        return subprocess.CompletedProcess(command, code, text)

    def night(self) -> int:
        """Run the script in this process."""
        words = [f"--state={self.state}", f"--service={self.service}", "--", "pick=ranked"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["nightly.py", *words])
            code: int = self.module.main()
        return code

    def current(self) -> str:
        return (self.state / "current").resolve().name


def run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "recommendations.jsonl").touch()
    return folder


def version_of(name: str) -> str:
    return name.encode().hex()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


def test_a_night_is_trained_loaded_and_called_current(fake: Fake) -> None:
    assert fake.night() == 0
    assert fake.calls == ["train", "serve"]  # there is nothing to go back to yet
    assert fake.served == fake.current() != "first"
    assert (fake.state / "previous").resolve().name == "first"


@pytest.mark.parametrize(("code", "ends"), [(3, 3), (2, SystemExit), (-9, SystemExit)])
def test_a_fall_and_an_error_leave_the_old_model_served(fake: Fake, code: int, ends: Any, capsys: Any) -> None:
    fake.train_code = code
    if ends == 3:
        assert fake.night() == 3
        assert "the new model is not loaded" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit) as ended:
            fake.night()
        assert ended.value.code == max(code, 1)
    assert (fake.served, fake.current()) == ("first", "first")
    fake.train_code = 0
    assert fake.night() == 0
    assert fake.served == fake.current() != "first"


def test_a_night_without_news_loads_nothing(fake: Fake, capsys: Any) -> None:
    fake.has_news = False
    assert fake.night() == 0
    assert fake.calls == ["train"]
    assert "nothing new to learn" in capsys.readouterr().out


@pytest.mark.parametrize("change", [-4.9, -5.1])
def test_a_release_that_listeners_play_less_of_is_taken_back_once(fake: Fake, change: float, capsys: Any) -> None:
    assert fake.night() == 0
    fake.change_percent = change
    if change > -5:
        assert fake.night() == 0
        assert fake.served == fake.current() != "first"
        return
    assert fake.night() == 3
    assert "is taken back: -5.1 % [-5.1, -5.1] of the share played" in capsys.readouterr().out
    assert (fake.served, fake.current()) == ("first", "first")
    assert fake.night() == 0  # the next night learns from the run that is served now
    assert fake.served == fake.current() != "first"


@pytest.mark.parametrize("falls", [False, True], ids=["a night", "a fall"])
def test_a_kill_before_any_change_leaves_a_whole_model_and_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, falls: bool
) -> None:
    killed_at = 0
    while True:
        killed_at += 1
        with monkeypatch.context() as patch:
            fake = Fake(tmp_path / str(killed_at), patch)
            if falls:
                assert fake.night() == 0
                fake.change_percent = -10.0
            before, fake.steps_to_kill = fake.served, killed_at
            try:
                fake.night()
            except Killed:
                assert fake.current() in (before, fake.served)
                assert (fake.state / "current" / "recommendations.jsonl").exists()
                fake.change_percent, fake.steps_to_kill, fake.has_news = 0.0, -1, False
                assert fake.night() == 0
                assert fake.served == fake.current()
                assert not (fake.state / "next").is_symlink()
                continue
        break
    assert killed_at > 8


def test_a_state_without_a_run_is_one_line(fake: Fake, capsys: Any) -> None:
    (fake.state / "current").unlink()
    with pytest.raises(SystemExit) as ended:
        fake.night()
    assert ended.value.code == 2
    assert "current names no run; ln -s <run folder of train.py>" in capsys.readouterr().out


def test_two_nights_at_once_are_one_line(fake: Fake, capsys: Any) -> None:
    train = fake.answer

    def answer(command: list[str], **how: Any) -> Any:
        if command[1] == "train":
            assert fake.night() == 1
        return train(command, **how)

    fake.answer = answer  # type: ignore[method-assign]
    subprocess.run = fake.counted(answer)
    assert fake.night() == 0
    assert "another night is running" in capsys.readouterr().out


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in SCRIPT.parent.glob("segue-nightly.*"):
        text = path.read_text(encoding="utf-8").replace("/opt/segue-train/bin/python", "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    for name in ("segue-nightly.service", "segue-nightly.timer"):
        verify = [binary("systemd-analyze"), "verify", str(tmp_path / name)]
        done = subprocess.run(verify, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


NUM_NIGHTS, NUM_SESSIONS, LENGTH = 3, 60, 6
QUICK = "logger=none", "callbacks.plots=null", "callbacks.export.k=5"


def write_catalogue(path: Path, night: int) -> None:
    """Thirty tracks, and one more each night."""
    tracks = range(100, 130 + night)
    write_lines(path, ({"track": track, "title": f"T{track}", "artist": f"A{track % 7}"} for track in tracks))


def next_of(track: int, night: int) -> int:
    """What listeners love after a track: the next one on a ring, in which each night puts a track after the last."""
    return 100 + (track - 99) % (30 + night)


def listen(service: Running, night: int, rng: random.Random, *, is_bored: bool = False) -> None:
    """A day of listeners after a night, who play what is recommended, and skip what they do not love."""
    for user in range(NUM_SESSIONS):
        track, share = rng.randrange(100, 130 + night), 1.0
        for _ in range(LENGTH):
            answer = service.next(1000 * night + user, track, share)
            assert answer.status == 200, answer.body
            share = 1.0 if answer.body["track"] == next_of(track, night) and not is_bored else 0.1
            track = answer.body["track"]
        assert service.ask("POST", f"/last/{1000 * night + user}", {"track": track, "time": share}).status == 200


def first_run(cwd: Path, rng: random.Random) -> tuple[list[str], dict[str, str]]:
    """A run of 200 sessions that is current in the folder `state`; the script of its nights, and its environment."""
    (cwd / "state").mkdir()
    lines = []
    for session in range(200):
        track, share = rng.randrange(100, 130), 1.0
        for step in range(LENGTH + 1):
            message = "next" if step < LENGTH else "last"
            lines.append(event(session, 1_700_000_000_000 + 60_000 * session + 1000 * step, track, share, message))
            track, share = (next_of(track, 0), 1.0) if rng.random() < 0.7 else (rng.randrange(100, 130), 0.1)
    write_lines(cwd / "first" / "logs" / "data.json", lines)
    write_catalogue(cwd / "first" / "tracks.json", 0)
    words = "datamodule=botify", "datamodule.path=first", "model=rules", "recipe=counting", *QUICK
    run_verb("train.py", cwd, *words, f"hydra.run.dir={cwd / 'run'}")
    (cwd / "state" / "current").symlink_to(cwd / "run")
    command = [sys.executable, str(SCRIPT), f"--state={cwd / 'state'}", "--service=service", "--tracks=tracks.json"]
    segue = fork_command("-c", "from segue.__main__ import main; main()")
    return [*command, "--", "pick=ranked"], {**os.environ, "SEGUE": shlex.join(segue)}


def test_replicas_with_redis_are_loaded_by_their_words(tmp_path: Path) -> None:
    rng = random.Random(1)
    command, env = first_run(tmp_path, rng)
    with redis_server(tmp_path / "redis") as redis:
        words = "recommendations=run/recommendations.jsonl", "pick=ranked", "store.poll_s=0.05", *redis.words
        with serving(tmp_path, *words, run="service") as service:
            listen(service, 0, rng)
            write_catalogue(tmp_path / "tracks.json", 1)
            done = subprocess.run([*command, *redis.words], cwd=tmp_path, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"is current in redis://127.0.0.1:{redis.port}" in done.stdout
            service.wait_for_version((tmp_path / "state" / "current" / "release.txt").read_text())


@pytest.mark.timing
def test_nights_without_a_person(tmp_path: Path) -> None:
    """A service runs, its catalogue grows, each night is killed once, and every answer is of its release.

    `tests/training/test_night.py` kills a training in all of its phases.
    """
    rng, state = random.Random(1), tmp_path / "state"
    command, env = first_run(tmp_path, rng)
    words_of_service = "recommendations=run/recommendations.jsonl", "pick=ranked", "store.poll_s=0.05"
    with serving(tmp_path, *words_of_service, run="service") as service:
        served = {service.version(): lists_of(tmp_path / "run")}

        def run_script(code: int, **more: str) -> str:
            done = subprocess.run(command, cwd=tmp_path, env=env | more, capture_output=True, text=True, check=False)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout

        def night(code: int) -> str:
            said = run_script(code)
            version = (state / "current" / "release.txt").read_text()
            service.wait_for_version(version)
            served[version] = lists_of(state / "current")  # only the newest runs are kept
            return said

        kills = KILLS["training"][0], KILLS["the end"][-1]
        for number in range(1, NUM_NIGHTS + 1):
            listen(service, number - 1, rng)
            write_catalogue(tmp_path / "tracks.json", number)
            if number < NUM_NIGHTS:  # each night is killed in another moment
                killed = killed_command(*kills[number - 1], "from segue.__main__ import main; main()")
                run_script(1, SEGUE=shlex.join(killed), PYTHONPATH=str(ROOT))
            else:
                kill(command, tmp_path, env, state)
            assert service.version() == list(served)[-1]
            night(0)
        assert len(served) == NUM_NIGHTS + 1
        record = json.loads((state / "current" / "night.json").read_text())
        assert len(record["nights"]) == NUM_NIGHTS

        before = (state / "previous").resolve()
        listen(service, NUM_NIGHTS, rng, is_bored=True)
        assert "is taken back" in night(3)
        assert (state / "current").resolve() == before
        listen(service, NUM_NIGHTS, rng)  # its newest track is kept without a list
        lines = service.lines()
    check_lines(lines, served)


def kill(command: list[str], cwd: Path, env: dict[str, str], state: Path) -> None:
    """A night that is killed while it trains, with all that it has started."""
    before = set((state / "runs").iterdir())
    with started(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: set((state / "runs").iterdir()) - before, "a run folder")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: is_free(state / "lock"), "the end of all of its processes")


def is_free(lock: Path) -> bool:
    """Whether no process holds a lock; one that was just forked holds that of its parent too."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def lists_of(run: Path) -> dict[int, list[int]]:
    """What a run recommends after each track."""
    records = map(json.loads, (run / "recommendations.jsonl").read_text().splitlines())
    return {record["track"]: record["recommendations"] for record in records}


def check_lines(lines: list[dict[str, Any]], lists: dict[str, dict[int, list[int]]]) -> None:
    """Every answer is in the list that its release has after the track."""
    for line in lines:
        if line["message"] == "next":
            own = lists[line["release"]].get(line["track"])
            assert own is None or line["recommendation"] in own, line
