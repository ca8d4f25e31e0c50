#!/usr/bin/env python3
"""One night of a service: train on its logs, compare with the run that is served, and load the new run if it is not
worse.

    python nightly.py --service outputs/serve --folder nightly -- pick=ranked artist_gap=100

The words after `--` are those of `serve.py load`. The last line says what happened, and so does the exit code: 0 if the
new run is served, 3 if nothing is loaded. The page is docs/nightly.md.

1. ask       the service says which run it serves
2. train     `train.py` on the plays of all logs, or of the last days (--since)
3. compare   the tested models of both runs, on the newest sessions; the new one is worse if its whole interval is
4. load      the running service takes the new run without a gap

The folder has a run for each night, and nothing that a kill could leave wrong: a night that was killed has loaded its
run or not, and the next one asks again.
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import segue

SEGUE = [sys.executable, "-m", "segue"]
KEPT = 7  # runs of earlier nights; older ones are deleted


def main() -> int:
    """Read the command line, and run a night unless one is running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", type=Path, required=True, help="folder with the run folders of serve.py")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the runs of this script")
    parser.add_argument("--since", type=int, help="train on the plays of so many days; default: on all")
    parser.add_argument("--tracks", type=Path, help="tracks.json with new tracks; default: that of the service")
    parser.add_argument("--train", action="append", default=[], help="a word of train.py, such as model=rules")
    parser.add_argument("load", nargs="*", help="words of serve.py load, such as pick=ranked")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with (given.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print(f"nightly: {night(given)}", flush=True)
        except BlockingIOError:
            return not_loaded("another night is running")
        except (NotLoadedError, segue.InputError) as error:
            return not_loaded(str(error))
    return 0


def not_loaded(why: str) -> int:
    """Say that nothing is loaded; returns the exit code."""
    print(f"nightly: nothing is loaded: {why}", flush=True)
    return 3


class NotLoadedError(Exception):
    """The new run is not loaded; the message says why."""


def night(given: argparse.Namespace) -> str:
    """Train, compare and load; returns what happened."""
    services = services_of(given.service)
    settings = json.loads((services[-1] / "serve.json").read_text())
    served = served_by(settings)
    run = given.folder.absolute() / f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S-%f}"
    plays = keep_plays(given.folder.absolute() / "plays", services, given.tracks)
    words = ["datamodule=botify", f"datamodule.path='{plays}'", f"hydra.run.dir='{run}'", *given.train]
    if given.since is not None:
        words.append(f"datamodule.policies.since={datetime.now(UTC).date() - timedelta(days=given.since)}")
    call("train", *words)
    compared = "it is the first run"
    if served is not None:
        gain = segue.load(run).gain_over(segue.load(served))
        compared = f"ndcg@10 {gain.difference:+.4f} [{gain.lower:+.4f}, {gain.upper:+.4f}] beside {served}"
        if gain.upper < 0:
            raise NotLoadedError(f"{run} is worse: {compared}")
    store = settings["store"]["folder"]
    call("serve", "load", f"recommendations='{run}'", f"store.folder='{store}'", *given.load)
    runs = sorted(path for path in given.folder.absolute().glob("*_*") if path != run)
    for old in [path for path in runs if str(path) != served][:-KEPT]:
        shutil.rmtree(old)
    return f"{run} is loaded: {compared}"


def services_of(folder: Path) -> list[Path]:
    """The run folders of the service, the newest last; each start has one."""
    found = [path.parent for path in folder.absolute().glob("**/serve.json") if (path.parent / "logs").is_dir()]
    if not found:
        raise NotLoadedError(f"--service={folder} has no run folder of serve.py, which has serve.json and logs/")
    return sorted(found, key=lambda run: (run / "serve.json").stat().st_mtime)


def served_by(settings: dict[str, Any]) -> str | None:
    """The run that a service says it serves; None for a recommender that no run made, such as `popular`."""
    host = "127.0.0.1" if settings["host"] == "0.0.0.0" else settings["host"]
    request = urllib.request.Request(f"http://{host}:{settings['port']}/experiments")
    if token := os.environ.get("SEGUE_TOKEN"):
        request.add_header("authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            arms = json.load(answer)["arms"]
    except OSError as error:
        raise NotLoadedError(f"{request.full_url} does not answer: {error}") from None
    if len(arms) > 1:
        raise NotLoadedError(f"an experiment with the arms {', '.join(arms)} is running, which a load would end")
    [arm] = arms.values()
    if arm["policy"] not in ("lists", "user_lists"):
        return None
    return str(arm["recommender"]).removesuffix("/recommendations.jsonl")


def keep_plays(folder: Path, services: list[Path], tracks: Path | None) -> Path:
    """Keep the logs of all starts of the service as they are now; returns the folder, as train.py reads it."""
    shutil.rmtree(folder, ignore_errors=True)
    for number, service in enumerate(services):
        kept, before = folder / "logs" / str(number), None
        while before != (before := files_of(service / "logs")):  # the service has begun a new file meanwhile
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(service / "logs", kept, copy_function=keep)
    shutil.copy(tracks or services[-1] / "tracks.json", folder / "tracks.json")
    return folder


def files_of(logs: Path) -> list[tuple[Path, int]]:
    """The files of a log; a renamed one has another name."""
    return sorted((path, path.stat().st_ino) for path in logs.rglob("*") if path.is_file())


def keep(source: str, target: str) -> None:
    """Keep a log as it is now, unless it is empty: the service appends to `data.json`, and renames the full ones."""
    if Path(source).stat().st_size:
        (shutil.copy if Path(source).name == "data.json" else os.link)(source, target)


def call(*words: str) -> None:
    """Run a command of Segue, whose output is shown."""
    if code := subprocess.run([*SEGUE, *words], check=False).returncode:
        raise NotLoadedError(f"segue {words[0]} ended with exit code {code}; its last line says why")


if __name__ == "__main__":
    sys.exit(main())
