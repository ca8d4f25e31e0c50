"""The script of a night (`examples/nightly`): what it loads, what it says, and what a broken log or a kill changes."""

import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segue.verbs.api.fitting import Gain
from tests.conftest import event, write_lines
from tests.e2e.forks import fork_command
from tests.e2e.running import crowd, run_verb, script, serving

SCRIPT = "examples/nightly/nightly.py"


def night(module: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the script in this process."""
    monkeypatch.setattr(sys, "argv", ["nightly.py", *words])
    return int(module.main())


class Fake:
    """A night whose service and commands are answered by this class.

    Args:
        folder: of the service and of the nights.
        monkeypatch: replaces what the script calls.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module, self.service, self.folder = script(SCRIPT), folder / "service", folder / "nights"
        self.monkeypatch, self.calls, self.codes = monkeypatch, list[list[str]](), dict[str, int]()
        self.upper, self.policy, self.served = 0.1, "lists", str(folder / "first")
        self.compared = list[tuple[str, str]]()
        write_lines(self.service / "logs" / "data.json", [{"a": 1}])
        settings = {"host": "0.0.0.0", "port": 5001, "store": {"folder": "the/store"}}
        (self.service / "serve.json").write_text(json.dumps(settings))
        (self.service / "tracks.json").touch()
        monkeypatch.setattr(self.module.urllib.request, "urlopen", self.answer)
        monkeypatch.setattr(self.module.subprocess, "run", self.run)
        monkeypatch.setattr(self.module.segue, "load", self.load)

    def answer(self, request: Any, **_: Any) -> io.BytesIO:
        assert request.full_url == "http://127.0.0.1:5001/experiments"
        arms = {"C": {"recommender": self.served, "policy": self.policy}}
        return io.BytesIO(json.dumps({"arms": arms}).encode())

    def run(self, command: list[str], **_: Any) -> Any:
        words = command[len(self.module.SEGUE) :]
        self.calls.append(words)
        if not (code := self.codes.get(words[0], 0)):
            if words[0] == "train":
                Path(self.word("hydra.run.dir")).mkdir()
            else:
                self.served = self.word("recommendations")
        return SimpleNamespace(returncode=code)

    def load(self, run: Any) -> Any:
        def gain_over(other: Any) -> Gain:
            self.compared.append((str(run), other.run))
            return Gain(difference=self.upper - 0.1, lower=self.upper - 0.2, upper=self.upper)

        return SimpleNamespace(run=str(run), gain_over=gain_over)

    def word(self, key: str) -> str:
        """The value of a word of the last command."""
        [found] = [word.partition("=")[2].strip("'") for word in self.calls[-1] if word.startswith(f"{key}=")]
        return found

    def night(self, *words: str) -> int:
        return night(self.module, self.monkeypatch, f"--service={self.service}", f"--folder={self.folder}", *words)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


@pytest.mark.parametrize(("upper", "code"), [(0.1, 0), (0.0, 0), (float("nan"), 0), (-0.001, 3)])
def test_a_run_is_loaded_unless_its_whole_interval_is_worse(fake: Fake, upper: float, code: int, capsys: Any) -> None:
    fake.upper, before = upper, fake.served
    assert fake.night("--", "pick=ranked") == code
    [run] = [str(path) for path in fake.folder.glob("*_*")]
    assert fake.compared == [(run, before)]
    assert fake.served == (before if code else run)
    last = capsys.readouterr().out.splitlines()[-1]
    said = f"nightly: nothing is loaded: {run} is worse: ndcg@10 " if code else f"nightly: {run} is loaded: ndcg@10 "
    assert last.startswith(said)
    assert last.endswith(f"] beside {before}")
    if not code:
        assert fake.calls[-1][2:] == [f"recommendations='{run}'", "store.folder='the/store'", "pick=ranked"]


@pytest.mark.parametrize(("verb", "code"), [("train", 2), ("train", -9), ("serve", 2)])
def test_after_a_command_that_failed_the_next_night_goes_on(fake: Fake, verb: str, code: int, capsys: Any) -> None:
    fake.codes, before = {verb: code}, fake.served
    assert fake.night() == 3
    assert capsys.readouterr().out == (
        f"nightly: nothing is loaded: segue {verb} ended with exit code {code}; its last line says why\n"
    )
    assert fake.served == before
    fake.codes = {}
    assert fake.night() == 0
    assert fake.served != before


@pytest.mark.parametrize("verb", ["train", "serve"])
def test_after_a_kill_the_next_night_goes_on(fake: Fake, verb: str) -> None:
    class Killed(BaseException):
        pass

    def kill(command: list[str], **how: Any) -> Any:
        if verb in command:
            raise Killed
        return fake.run(command, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake.module.subprocess, "run", kill)
        with pytest.raises(Killed):
            fake.night()
    assert fake.night() == 0


def test_without_a_run_there_is_nothing_to_compare(fake: Fake, capsys: Any) -> None:
    fake.policy, fake.served = "popular", "popular"
    assert fake.night() == 0
    assert capsys.readouterr().out.endswith("is loaded: it is the first run\n")
    assert fake.compared == []


def test_the_plays_are_those_of_all_logs_or_of_the_last_days(fake: Fake) -> None:
    write_lines(fake.service / "logs" / "worker" / "data.json.1", [{"a": 1}])
    (fake.service / "logs" / "worker" / "data.json").touch()  # which has no event yet
    assert fake.night("--since=30", "--train=model=rules") == 0
    fake.calls.pop()
    plays = Path(fake.word("datamodule.path"))
    assert (plays / "logs" / "0" / "worker" / "data.json.1").samefile(
        fake.service / "logs" / "worker" / "data.json.1"
    )  # a full file does not change any more
    assert not (plays / "logs" / "0" / "data.json").samefile(fake.service / "logs" / "data.json")
    assert [path.name for path in (plays / "logs" / "0" / "worker").iterdir()] == ["data.json.1"]
    assert (plays / "tracks.json").is_file()
    assert len(fake.word("datamodule.policies.since")) == len("2026-01-31")
    assert "model=rules" in fake.calls[-1]


def test_what_would_be_in_the_way_of_a_load_ends_the_night_before_it_trains(fake: Fake, capsys: Any) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError("refused")

    arms: dict[str, Any] = {"arms": {"C": {}, "T1": {}}}
    for answer, line in (
        (refuse, "http://127.0.0.1:5001/experiments does not answer: refused"),
        (lambda *_, **__: io.BytesIO(json.dumps(arms).encode()), "an experiment with the arms C, T1 is running"),
    ):
        fake.monkeypatch.setattr(fake.module.urllib.request, "urlopen", answer)
        assert fake.night() == 3
        assert f"nightly: nothing is loaded: {line}" in capsys.readouterr().out
    (fake.service / "serve.json").unlink()
    assert fake.night() == 3
    assert "has no run folder of serve.py" in capsys.readouterr().out
    assert fake.calls == []


def test_two_nights_at_once_are_one_line(fake: Fake, capsys: Any) -> None:
    def answer(command: list[str], **how: Any) -> Any:
        if "train" in command:
            assert fake.night() == 3
        return fake.run(command, **how)

    fake.monkeypatch.setattr(fake.module.subprocess, "run", answer)
    assert fake.night() == 0
    assert "nightly: nothing is loaded: another night is running\n" in capsys.readouterr().out


def test_old_runs_are_removed_and_the_one_that_was_served_is_kept(fake: Fake) -> None:
    for number in range(20):
        (fake.folder / f"2026-01-{number:02}_04-00-00").mkdir(parents=True)
    fake.served = str(fake.folder.absolute() / "2026-01-03_04-00-00")
    assert fake.night() == 0
    names = sorted(path.name[:10] for path in fake.folder.glob("*_*"))
    assert names[:-1] == ["2026-01-03", *(f"2026-01-{number}" for number in range(13, 20))]


NUM_TRACKS, NUM_SESSIONS, LENGTH = 30, 200, 6
TRAIN = ("model=rules", "recipe=counting", "logger=none", "callbacks.plots=null", "callbacks.export.k=5")


def next_of(track: int) -> int:
    """What listeners love after a track: the next one on a ring."""
    return 100 + (track - 99) % NUM_TRACKS


def sessions(num: int, start_ms: int) -> Iterator[dict[str, Any]]:
    """Lines of a log in which two thirds of the tracks are loved."""
    rng = random.Random(num)
    for session in range(num):
        track, share = rng.randrange(100, 100 + NUM_TRACKS), 1.0
        for step in range(LENGTH + 1):
            message = "next" if step < LENGTH else "last"
            yield event(session, start_ms + 60_000 * session + 1000 * step, track, share, message)
            is_loved = rng.random() < 0.7
            track, share = (next_of(track), 1.0) if is_loved else (rng.randrange(100, 100 + NUM_TRACKS), 0.1)


def test_three_nights_of_a_service_one_with_a_broken_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is loaded after the broken log, and nothing is lost: each answer is in the log once."""
    module = script(SCRIPT)
    monkeypatch.setattr(module, "SEGUE", fork_command("-c", "from segue.__main__ import main; main()"))
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "first" / "logs" / "data.json", sessions(NUM_SESSIONS, 1_700_000_000_000))
    tracks = range(100, 100 + NUM_TRACKS)
    catalogue = [{"track": track, "title": f"T{track}", "artist": f"A{track % 7}"} for track in tracks]
    write_lines(tmp_path / "first" / "tracks.json", catalogue)
    run_verb("train.py", tmp_path, "datamodule=botify", "datamodule.path=first", *TRAIN, "hydra.run.dir=run")
    words = ["--service=service", "--folder=nights", *(f"--train={word}" for word in TRAIN), "--", "pick=ranked"]
    older = tmp_path / "service" / "older"  # an earlier start of the service
    write_lines(older / "logs" / "data.json", sessions(NUM_SESSIONS, 1_700_100_000_000))
    (older / "serve.json").write_text("{}")
    with serving(tmp_path, "recommendations=./run", "pick=ranked", run="service/now") as service:
        first = service.version()
        with crowd(service.port, connections=2, tracks=tracks, pause_s=0.05) as traffic:
            assert night(module, monkeypatch, *words) == 0
            assert "is loaded: ndcg@10 " in capfd.readouterr().out
            second = json.loads((tmp_path / "service/now/store/index.json").read_text())["current"]
            assert second != first
            service.wait_for_version(second)

            whole = (older / "logs" / "data.json").read_text()
            (older / "logs" / "data.json").write_text(whole.replace('"track"', '"trac'))
            num_before = len(traffic.answered)
            assert night(module, monkeypatch, *words) == 3
            said = capfd.readouterr().out.splitlines()[-1]
            assert said == "nightly: nothing is loaded: segue train ended with exit code 2; its last line says why"
            assert service.version() == second
            assert len(traffic.answered) > num_before, "it answered meanwhile"

            (older / "logs" / "data.json").write_text(whole)
            assert night(module, monkeypatch, *words) == 0
            service.wait_for_version(json.loads((tmp_path / "service/now/store/index.json").read_text())["current"])
            assert service.version() not in (first, second)
        assert traffic.failed == []
        traffic.check(service.lines())
