"""The runs of the last comparison: what `compare.py` wrote."""

import json
from pathlib import Path
from typing import Any

from segue.errors import InputError

COMPARISONS = Path("outputs/compare")
"""Where `compare.py` writes, from the folder in which the service was started."""


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
        setups = [
            {
                "setup": one["setup"],
                "num_runs": len(one["run_ids"]),
                "run": one["run_ids"][0],
                "metrics": {name: one["metrics"].get(name) for name in metrics},
            }
            for one in record["setups"]
        ]
        alike = {name: record[name] for name in ("verdict", "disagreement", "select", "better")}
        has_picture = (folder / "comparison.png").is_file()
        return {**alike, "folder": str(folder), "metrics": metrics, "has_picture": has_picture, "setups": setups}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); run python compare.py again") from None
