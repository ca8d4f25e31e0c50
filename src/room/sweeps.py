"""The runs of the last comparison: what `compare.py` wrote, and serving one of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from segue.errors import InputError
from segue.serving.release import Release

COMPARISONS = Path("outputs/compare")
"""Where `compare.py` writes, from the folder in which the service was started."""

_RUN = re.compile(r"[0-9a-f]{8,32}")
_ROOT = Path(__file__).parents[2]


def last_comparison(folder: Path = COMPARISONS) -> Path | None:
    """Folder of the newest comparison; None where there is none.

    Args:
        folder: where comparisons are.
    """
    found = [path.parent for path in folder.glob("*/comparison.json")]
    return max(found, key=lambda path: (path / "comparison.json").stat().st_mtime, default=None)


def side_by_side(folder: Path) -> dict[str, Any]:
    """A comparison as the page shows it.

    Args:
        folder: of the comparison.

    Raises:
        InputError: its file is damaged.
    """
    path = folder / "comparison.json"
    try:
        record = json.loads(path.read_bytes())
        metrics = [name for name in record["metrics"] if any(name in one["metrics"] for one in record["setups"])]
        return {
            "folder": str(folder),
            "verdict": record["verdict"],
            "disagreement": record["disagreement"],
            "select": record["select"],
            "better": record["better"],
            "metrics": metrics,
            "has_picture": (folder / "comparison.png").is_file(),
            "setups": [
                {
                    "setup": one["setup"],
                    "num_runs": len(one["run_ids"]),
                    "run": one["run_ids"][0],
                    "metrics": {name: one["metrics"].get(name) for name in metrics},
                }
                for one in record["setups"]
            ],
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); run python compare.py again") from None


def arms_with(release: Release, arm: str, run: str) -> str:
    """The arms of a release with a run in place of one of them, as a word of the command line.

    The run is served as that arm was, with `pick=ranked` where it had no lists. A registered model is named by the file
    that it had, because its alias may have moved.

    Args:
        release: what is served now.
        arm: name of the arm that changes.
        run: id of a run.

    Raises:
        InputError: it is no id.
    """
    if not _RUN.fullmatch(run):
        raise InputError(f"run must be an id of 8 to 32 hexadecimal digits, got {run!r}")
    arms = []
    for name, given in release.arms.items():
        recommender = given.recommender
        if recommender.startswith("model:"):
            recommender = release.provenance.get(f"lists_{name}", recommender)
        settings: dict[str, Any] = {"recommender": f"run:{run}" if name == arm else recommender}
        if given.has_lists:
            settings |= {"pick": given.pick, "artist_gap": given.artist_gap}
            settings |= {"exploration": given.exploration, "exploration_plays": given.exploration_plays}
            if name != arm and given.policy == "lists":  # the new run has the context with which it was trained
                settings |= {"context": given.context}
                settings |= {"num_lists": given.num_lists} if given.is_of_session else {}
        elif name == arm:
            settings["pick"] = "ranked"
        arms.append(f"{name}: {{{', '.join(f'{key}: {json.dumps(value)}' for key, value in settings.items())}}}")
    return f"arms={{{', '.join(arms)}}}"


def load(arms: str, store: Path, experiment: str) -> str:
    """Load other arms into a running service; returns what the command printed.

    Args:
        arms: as `arms_with` gives them.
        store: folder of the releases of the service.
        experiment: name of the experiment, which stays.

    Raises:
        InputError: they cannot be served.
    """
    words = ["load", arms, f"store.folder={store}", f"experiment={json.dumps(experiment)}"]
    # a verb sets HYDRA_FULL_ERROR for itself; the one that is called here would print a traceback
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    command = [sys.executable, str(_ROOT / "serve.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError((done.stderr or done.stdout).strip().splitlines()[-1].removeprefix("error: "))
    return " ".join(done.stdout.split())
