"""The runs of the last comparison: what `compare.py` wrote, and serving one of them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from src.errors import InputError

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


def load_run(run: str, store: Path, experiment: str) -> str:
    """Serve a run to all users of a running service; returns what the command printed.

    Args:
        run: id of a run.
        store: folder of the releases of the service.
        experiment: name of the experiment, which stays.

    Raises:
        InputError: it is no id, or the run cannot be served.
    """
    if not _RUN.fullmatch(run):
        raise InputError(f"run must be an id of 8 to 32 hexadecimal digits, got {run!r}")
    words = ["load", f"recommendations=run:{run}", f"store.folder={store}", f"experiment={json.dumps(experiment)}"]
    done = subprocess.run(
        [sys.executable, str(_ROOT / "serve.py"), *words, "pick=ranked"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError((done.stderr or done.stdout).strip().splitlines()[-1])
    return " ".join(done.stdout.split())
