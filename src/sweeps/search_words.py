"""`search=` on the command line: it chooses the sweeper of a multirun."""

import re
import shlex
from collections.abc import Sequence

from segue.errors import InputError
from segue.runs.provenance import ROOT


def search_as_sweeper(words: Sequence[str]) -> list[str]:
    """Rewrite `search=optuna` as `hydra/sweeper=optuna`, and `search.<key>=` as a setting of the sweeper.

    Args:
        words: words of the command line.

    Returns:
        The words as Hydra reads them.

    Raises:
        InputError: there is no such search, or `-m` is missing.
    """
    for word in words:
        if (search := re.match(r"search=(.*)", word)) is None:
            continue
        known = sorted(path.stem for path in (ROOT / "conf/hydra/sweeper").glob("*.yaml") if path.stem != "jobs")
        if search[1] not in known:
            raise InputError(f"search must be one of {', '.join(known)}, got {search[1]!r}")
        if not {"-m", "--multirun"} & set(words):
            raise InputError(f"{word} starts many runs and needs -m: python train.py -m {shlex.join(words)}")
    return [re.sub(r"^search=", "hydra/sweeper=", re.sub(r"^search\.", "hydra.sweeper.", word)) for word in words]
