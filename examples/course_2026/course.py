#!/usr/bin/env python3
"""The homework of the course of 2026 from its log to its result, in one command.

    python examples/course_2026/course.py --folder outputs/course

1. log        the log of a service, here of simulated listeners; or your own: --log <folder with logs and tracks.json>
2. control    lists of ten tracks after each, as SasRec-I2I had them; here the nearest tracks by sessions
3. treatment  a model of Segue, which answers from the session
4. episodes   30,000 sessions of both arms: the control is that of 2026, an arm of its own in control_2026.py
5. verdict    the report of abtest.py, and `ab_result.json` in the form of the course

--folder keeps what is done: the same command goes on with the step that is missing. The page docs/coming_from.md has
the same with the service of the course at the other end.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SEGUE = shlex.split(os.environ.get("SEGUE", f"{shlex.quote(sys.executable)} -m segue"))
SEED = 31312
"""That of the course."""
QUICK = ("logger=none", "callbacks.plots=null", "callbacks.listening=null")
PICK = {"pick": "ranked", "artist_gap": 100}
"""How the treatment picks; see experiments/recipe."""


def main() -> None:
    """Run the steps that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/course"), help="where everything is written")
    parser.add_argument("--log", type=Path, help="log of your service; default: simulated")
    parser.add_argument("--world", default="small", help="of the simulated listeners")
    parser.add_argument("--sessions", type=int, default=20_000, help="of the simulated log")
    parser.add_argument("--episodes", type=int, default=30_000, help="sessions of the experiment")
    given = parser.parse_args()
    folder, world = given.folder, f"world={given.world}"
    log = given.log or folder / "log"
    if given.log is None:
        arms = "arms={C: random, T1: random, T2: sticky_artist, T3: popular}"
        call(
            log / "logs" / "day-1" / "data.json",
            log,
            "simulate",
            arms,
            world,
            f"sessions={given.sessions}",
            f"hydra.run.dir={log}",
        )
    train("control", log, folder, "model=neighbours", "callbacks.export.k=10")  # as long as lists of the course
    train("treatment", log, folder, "context=session")
    control = {"recommender": str(folder / "control"), "policy": "control_2026:Control"}
    treatment = {"recommender": str(folder / "treatment"), **PICK}
    arms_of = [f"{name}={braces(arm)}" for name, arm in (("control", control), ("treatment", treatment))]
    ab = folder / "ab"
    episodes = f"sessions={given.episodes}", f"seed={SEED}", "experiment=COURSE", f"hydra.run.dir={ab}"
    call(ab / "abtest.json", ab, "abtest", *arms_of, world, *episodes)
    effects = ab_result(json.loads((ab / "abtest.json").read_text()))
    (folder / "ab_result.json").write_text(json.dumps(effects, indent=2) + "\n")
    print(f"\n{folder / 'ab_result.json'}")
    for effect in effects["all_effects"]:
        print("  {metric}: {effect_pct:+.2f} % [{lower_pct:+.2f}, {upper_pct:+.2f}]".format(**effect))


def ab_result(analysis: dict[str, Any]) -> dict[str, Any]:
    """The result in the form of the course.

    Args:
        analysis: the content of `abtest.json`.

    Returns:
        The effects with Welch's intervals, in percent of the control mean, without a correction for several tests.
    """
    names = {"effect_pct": "effect_percent", "lower_pct": "lower_percent", "upper_pct": "upper_percent"}
    return {
        "all_effects": [
            {
                "treatment": effect["treatment"],
                "metric": effect["metric"],
                **{name: round(effect[ours], 2) for name, ours in names.items()},
                **{name: round(effect[name], 4) for name in ("control_mean", "treatment_mean")},
                "significant": effect["significant"],
            }
            for effect in analysis["effects"]
            if effect["effect_percent"] is not None  # no value varies: there is no effect
        ]
    }


def train(name: str, log: Path, folder: Path, *words: str) -> None:
    """Train a model of the log, unless it is there."""
    source = "datamodule=botify", f"datamodule.path={log}"
    run, form = folder / name, "callbacks.export.format=botify_2026"  # the lists that the service of the course reads
    call(run / "metrics.json", run, "train", *source, form, *words, *QUICK, f"hydra.run.dir={run}")


def braces(arm: dict[str, Any]) -> str:
    """A mapping as Hydra reads it."""
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in arm.items()) + "}"


def call(written_last: Path, run: Path, *words: str) -> None:
    """Run a command of Segue, unless it has ended before; what one that was killed has left is removed.

    Args:
        written_last: the file that says that it has ended.
        run: its run folder.
        words: the command.
    """
    if written_last.exists():
        return
    shutil.rmtree(run, ignore_errors=True)
    print(f"\n$ segue {shlex.join(words)}", flush=True)
    path = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([*SEGUE, *words], check=False, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
