"""Ids of users, addresses and user agents are in no file, no store and no output of a run."""

import json
import os
import re
import signal
import subprocess
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import psutil
import pytest

from segue.errors import InputError
from tests.conftest import ROOT, new_store
from tests.datamodules.reading import read
from tests.e2e.forks import fork_command
from tests.e2e.running import PATIENCE_S, run_verb, started, wait_until

SECRET = re.compile(rb"secretuser|10\.20\.30\.|secretagent|secretmail")
QUICK = ("trainer.accelerator=cpu", "trainer.max_epochs=1", "model.dim=4", "callbacks.export.k=5")
HEADER = "user_name,ip_addr,userAgent,timestamp,track,title,artist,played,duration,email"


def write_plays(folder: Path) -> Path:
    """Users whose every trace can be recognised, and three rows that are rejected."""
    lines = [HEADER]
    for user in range(8):
        traces = f"secretuser{user},10.20.30.{user},Mozilla (secretagent{user})"
        for session in range(4):
            start = 1_700_000_000 + 1000 * user + 100_000 * session
            for n in range(5):
                track = (3 * user + 5 * session + n) % 30
                play = f"{start + 200 * n},t{track},Title {track},Artist {track % 7},{50 + n},200"
                lines.append(f"{traces},{play},secretmail{user}@x.org")
    lines += [
        "secretuser1,10.20.30.1,secretagent1,soon,t1,T,A,1,2,secretmail1",
        "secretuser2,10.20.30.2,secretagent2,1700000000,t1,T,A,-1,2,secretmail2",
        "secretuser3,10.20.30.3",
        ",10.20.30.4,secretagent4,1700000000,t1,T,A,1,2,secretmail4",
    ]
    path = folder / "plays.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


WORDS = ("datamodule=table", "datamodule.path=plays.csv", "datamodule.columns.user=user_name")


def files_of(cwd: Path, verb: str, *words: str, code: int = 0) -> tuple[str, list[Path]]:
    """What a verb prints, and the files that it leaves; there is no trace of users in either."""
    write_plays(cwd)
    new_store(cwd)
    done = run_verb(verb, cwd, *WORDS, "hydra.run.dir=run", *words, code=code)
    files = [path for path in cwd.rglob("*") if path.is_file() and path.name != "plays.csv"]
    assert [path for path in files if SECRET.search(contents(path))] == []
    assert not SECRET.search((done.stdout + done.stderr).encode())
    return done.stderr, files


def contents(path: Path) -> bytes:
    """All bytes of a file; of an archive and of Parquet, what is packed in them."""
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            content += b"".join(file.read(name) for name in file.namelist())
    if path.suffix == ".parquet":
        content += repr(duckdb.execute(f"FROM read_parquet('{path}')").fetchall()).encode()
    return content


def test_a_run_leaves_no_trace_of_users(tmp_path: Path) -> None:
    _, files = files_of(tmp_path, "train.py", "datamodule.max_rejected=0.1", *QUICK)
    assert {"mlflow.db", "recommendations.jsonl", "best.ckpt", "rejected.jsonl"} <= {path.name for path in files}
    rejected = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert [list(line)[1:] for line in rejected] == [["line", "reason"], *[["row", "reason"]] * 3]
    assert [list(line.values())[1] for line in rejected] == [164, 161, 162, 163]
    lists = [json.loads(line) for line in (tmp_path / "run" / "recommendations.jsonl").read_text().splitlines()]
    assert not any("user" in key for line in lists for key in line)


def test_a_description_leaves_no_trace_of_users(tmp_path: Path) -> None:
    _, files = files_of(tmp_path, "describe.py", "datamodule.max_rejected=0.1")
    assert "describe.json" in {path.name for path in files}


def test_the_message_for_many_rejected_rows_has_no_trace_of_users(tmp_path: Path) -> None:
    said, _ = files_of(tmp_path, "train.py", "datamodule.max_rejected=0", "logger=none", *QUICK, code=2)
    assert "4 of 164 rows in plays.csv are invalid" in said


@pytest.mark.parametrize("column", ["ip_addr", "userAgent"])
@pytest.mark.parametrize("role", ["user", "session", "title"])
def test_addresses_and_user_agents_cannot_be_mapped(tmp_path: Path, column: str, role: str) -> None:
    with pytest.raises(InputError, match=rf"datamodule.columns.{role}={column}: addresses and user agents are never"):
        read("table", write_plays(tmp_path), changes={"columns": {role: column}})
    sql = {"columns": {"who": f'md5("{column}")'}}
    with pytest.raises(InputError, match=rf"datamodule.sql names the column {column}: addresses and user agents are"):
        read("table", write_plays(tmp_path), changes={"columns": {role: "who"}, "sql": sql})


@pytest.mark.parametrize("role", ["timestamp", "track", "title", "artist", "played"])
def test_the_column_of_the_users_has_no_other_role(tmp_path: Path, role: str) -> None:
    """Values of other roles are in messages or in recommendations."""
    columns = {"user": "user_name", role: "user_name"}
    with pytest.raises(InputError, match=rf"columns.{role}=user_name is the column of the users too") as caught:
        read("table", write_plays(tmp_path), changes={"columns": columns})
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def long_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes about two seconds of a core to read."""
    path = tmp_path_factory.mktemp("long") / "plays.csv"
    duckdb.execute(
        f"COPY (SELECT i // 500 AS user, 1700000000 + i AS timestamp, 'track ' || i % 9973 AS title, i % 7 AS played, "
        f"7 AS duration FROM range(1500000) r(i)) TO '{path}' (HEADER)"
    )
    return path


def start(cwd: Path, *words: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process whose temporary folders lie in `cwd/tmp`."""
    (cwd / "tmp").mkdir(exist_ok=True)
    env = {**os.environ, "TMPDIR": str(cwd / "tmp"), "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return started(fork_command(*words), cwd=cwd, env=env, text=True, **streams)


@pytest.mark.timing
def test_an_interrupted_reading_leaves_no_temporary_folder_and_says_one_line(long_table: Path, tmp_path: Path) -> None:
    since_s: dict[Path, float] = {}

    def is_reading() -> bool:
        """Whether the reader has worked half a second since it made its temporary folder."""
        [reader] = (
            one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(tmp_path) and one.pid != client
        )
        now_s = sum(reader.cpu_times()[:2])
        folders = (tmp_path / "tmp").glob("segue-*")
        return any(now_s - since_s.setdefault(folder, now_s) >= 0.5 for folder in folders)

    words = "datamodule=table", f"datamodule.path={long_table}", "logger=none"
    with start(tmp_path, str(ROOT / "train.py"), *words) as running:
        client = running.pid
        wait_until(lambda: list((tmp_path / "tmp").glob("segue-*")), "a temporary folder")
        wait_until(is_reading, "a reading")
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, said.strip()) == (130, "interrupted")
    assert list((tmp_path / "tmp").glob("segue-*")) == []
