#!/usr/bin/env python3
"""One night of a service: learn the newest plays, load the new model, and take it back if listeners play less of it.

    ln -s <run folder of train.py> <state>/current          # once: the run that is served
    python nightly.py --state <state> --service <folder> -- pick=ranked artist_gap=100

`<service>` has the run folders of serve.py, with their event logs. The words after `--` are those of `serve.py load`.

1. repair     what a night that was killed has left: a run that was to be loaded is loaded
2. compare    a release that listeners play less of than the one before is taken back, with exit code 3
3. train      `train.py from=<state>/current` learns what is new; exit code 3: the model fell, nothing is loaded
4. load       the running service takes the new run without a gap
5. watch      step 2 again, every ten minutes for `--watch` hours

<state> has four names. `current` is the last good run, `previous` the one before it, `next` exists while a run is
loaded, and `runs/` has the runs of the last nights. Each step changes one name at once. A night that is killed
therefore leaves the old model served, and the next start repairs the rest.
"""

import argparse
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

KEPT = 14  # runs of earlier nights; older ones are deleted
SEGUE = shlex.split(os.environ.get("SEGUE", "segue"))  # the command, for example /opt/segue-train/bin/segue


def main() -> int:
    """Read the command line, and run a night unless one is running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder of this script")
    parser.add_argument("--service", type=Path, required=True, help="folder with the run folders of serve.py")
    parser.add_argument("--store", type=Path, help="store of the service; default: that of its newest run folder")
    parser.add_argument("--tracks", type=Path, help="tracks.json with new tracks; default: that of the service")
    parser.add_argument("--fall", type=float, default=5.0, help="accepted fall of the share played, in percent")
    parser.add_argument("--watch", type=float, default=0.0, help="hours to watch the new release for")
    parser.add_argument("--train", action="append", default=[], help="a word of train.py, such as keep_days=90")
    parser.add_argument("load", nargs="*", help="words of serve.py load, such as pick=ranked; store=redis too")
    night = Night(parser.parse_args())
    with (night.state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return say(f"another night is running on {night.state}; wait until it has ended", code=1)
        os.set_inheritable(lock.fileno(), True)
        night.repair()
        if night.has_fallen():
            return 3
        code = night.learn()
        end = time.monotonic() + 3600 * night.given.watch
        while not code and night.is_on_trial() and time.monotonic() < end:
            time.sleep(600)
            code = 3 if night.has_fallen() else 0
        return code


class Night:
    """The steps of a night, and the names in the state folder that they change."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.state, self.service = given, Path(given.state).absolute(), Path(given.service).absolute()
        self.current, self.previous, self.next = (self.state / name for name in ("current", "previous", "next"))
        if not (self.current.resolve() / "recommendations.jsonl").is_file():
            sys.exit(say(f"{self.current} names no run; ln -s <run folder of train.py> {self.current}", code=2))
        (self.state / "runs").mkdir(exist_ok=True)

    def repair(self) -> None:
        """Load the run that a night was about to load when it was killed."""
        if self.next.is_symlink():
            say(f"the last night was killed while it loaded {self.next.resolve().name}; loading it again")
            self.load()

    def has_fallen(self) -> bool:
        """Compare what listeners play of the current release with the one before; take it back if it is less."""
        release = self.current.resolve() / "release.txt"
        if not self.is_on_trial() or not release.is_file():
            return False
        report = self.state / "releases"
        shutil.rmtree(report, ignore_errors=True)
        words = "abtest", "releases=true", word("logs", self.service), word("hydra.run.dir", report)
        if call(*words, accept=2)[0]:  # such as: nobody has played a recommendation yet
            say("releases are not compared, because of the error above")
            return False
        rows = json.loads((report / "releases.json").read_text())["releases"]
        row = next((row for row in rows if row["release"] == release.read_text()), None)
        if row is None or not (row["change_upper_percent"] or 0) < -self.given.fall:
            return False
        change = "{change_percent:+.1f} % [{change_lower_percent:+.1f}, {change_upper_percent:+.1f}]".format(**row)
        say(f"release {row['release']} is taken back: {change} of the share played of the release before")
        point(self.next, self.previous.resolve())
        self.load()
        return True

    def is_on_trial(self) -> bool:
        """Whether there is a run to go back to."""
        return self.previous.is_symlink() and self.previous.resolve() != self.current.resolve()

    def learn(self) -> int:
        """Train on what is new, and load the run unless it fell; returns the exit code of the night."""
        run = self.state / "runs" / f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S-%f}"
        words = word("from", self.current.resolve()), word("datamodule.path", self.plays()), word("hydra.run.dir", run)
        code, _ = call("train", *words, *self.given.train, accept=3)
        if code:
            return say(f"the new model is not loaded: see {run}/night.json; {self.current} stays", code)
        if not (run / "recommendations.jsonl").is_file():
            return say("there is nothing new to learn")
        point(self.next, run)
        self.load()
        linked = {link.resolve() for link in (self.current, self.previous)}
        for old in sorted((self.state / "runs").iterdir())[:-KEPT]:
            if old.resolve() not in linked:
                shutil.rmtree(old)
        return 0

    def load(self) -> None:
        """Load `next` into the service, then call it `current`. Repeating it changes nothing."""
        run, store = self.next.resolve(), self.given.store or self.services()[-1] / "store"
        what = word("store.folder", store), word("recommendations", run / "recommendations.jsonl")
        _, output = call("serve", "load", *what, *self.given.load)
        (run / "release.txt").write_text(re.findall(r"version (\w+) is current", output)[0])
        if run != self.previous.resolve():  # otherwise the current run is taken back
            point(self.previous, self.current.resolve())
        self.next.replace(self.current)
        say(f"{run.name} is served")

    def services(self) -> list[Path]:
        """Run folders of the service, the newest last; each start has one."""
        found = [path.parent for path in self.service.glob("**/serve.json") if (path.parent / "logs").is_dir()]
        if not found:
            sys.exit(
                say(f"--service={self.service} has no run folder of serve.py, which has serve.json and logs/", code=2)
            )
        return sorted(found, key=lambda run: (run / "serve.json").stat().st_mtime)

    def plays(self) -> Path:
        """A folder with the logs of all starts of the service, as train.py reads them."""
        plays = self.state / "plays"
        shutil.rmtree(plays, ignore_errors=True)
        for run in self.services():
            copied, before = plays / "logs" / "-".join(run.relative_to(self.service.parent).parts), None
            while before != (before := files_of(run / "logs")):  # the service has begun a new file meanwhile
                shutil.rmtree(copied, ignore_errors=True)
                shutil.copytree(run / "logs", copied, copy_function=keep)
        (plays / "tracks.json").symlink_to((self.given.tracks or self.services()[-1] / "tracks.json").absolute())
        return plays


def word(option: str, path: Path) -> str:
    """A word of the command line, in the quotes that the commands read."""
    return f"{option}='{path}'"


def files_of(logs: Path) -> list[tuple[Path, int]]:
    """The files of a log; a renamed one has another name."""
    return sorted((path, path.stat().st_ino) for path in logs.rglob("*") if path.is_file())


def keep(source: str, target: str) -> None:
    """Keep a log as it is now: the service appends to `data.json`, and renames the full ones."""
    if Path(source).name == "data.json":
        shutil.copy2(source, target)
    else:
        os.link(source, target)


def point(link: Path, target: Path) -> None:
    """Let a link name something else, at once."""
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def call(*words: str, accept: int = 0) -> tuple[int, str]:
    """Run a command of Segue; its output is shown. The night ends with its exit code, unless that is 0 or `accept`."""
    done = subprocess.run([*SEGUE, *words], stdout=subprocess.PIPE, text=True, check=False, close_fds=False)
    print(done.stdout, end="", flush=True)
    if done.returncode not in (0, accept):
        sys.exit(done.returncode if done.returncode > 0 else 1)
    return done.returncode, done.stdout


def say(text: str, code: int = 0) -> int:
    """Print a line; returns the code."""
    print(f"nightly: {text}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
