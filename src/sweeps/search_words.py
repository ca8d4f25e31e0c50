"""`search=` on the command line: which sweeper a multirun has."""

import re
import shlex
from collections.abc import Sequence

from src.errors import InputError
from src.runs.provenance import ROOT


def search_as_sweeper(words: Sequence[str]) -> list[str]:
    """`search=optuna` as `hydra/sweeper=optuna`, and `search.<key>=` as a setting of the sweeper.

    Raises:
        InputError: a search is asked for that there is not, or without `-m`.
    """
    for word in words:
        if (asked := re.match(r"search=(.*)", word)) is None:
            continue
        known = sorted(path.stem for path in (ROOT / "conf/hydra/sweeper").glob("*.yaml") if path.stem != "jobs")
        if asked[1] not in known:
            raise InputError(f"search must be one of {', '.join(known)}, got {asked[1]!r}")
        if not {"-m", "--multirun"} & set(words):
            raise InputError(f"{word} makes many runs; add -m: python train.py -m {shlex.join(words)}")
    return [re.sub(r"^search=", "hydra/sweeper=", re.sub(r"^search\.", "hydra.sweeper.", word)) for word in words]
