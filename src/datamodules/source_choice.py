"""Whether the command line says which source a folder is of."""

import re
from collections.abc import Sequence
from pathlib import Path

from src.datamodules.formats import READERS, formats_of
from src.errors import InputError


def check_source_choice(datamodule: str, overrides: Sequence[str]) -> None:
    """Refuse a folder of the user's without its format, before simulated logs are written into it.

    Args:
        datamodule: the file of `conf/datamodule/` that was chosen.
        overrides: of the command line, all of them.

    Raises:
        InputError: `datamodule.path=` is given, `datamodule=` is not, and nothing else chose a source.
    """
    values = dict(word.lstrip("+").partition("=")[::2] for word in overrides)
    chosen, path = values.get("datamodule", "{}"), values.get("datamodule.path")
    if chosen.startswith("{"):  # settings, and no source: datamodule={path: <folder>}
        path = path or next(iter(re.findall(r"\bpath:\s*([^,}]+)", chosen)), None)
    if datamodule != "simulated" or path is None or not chosen.startswith("{"):
        return
    found = formats_of(Path(path.strip("'\"")))
    formats = ", ".join(sorted(READERS))
    remedy = (
        f"it has the files of {found[0]}: type datamodule={found[0]} datamodule.path={path}"
        if found
        else f"type datamodule=<format> datamodule.path={path}, with one of the formats {formats}"
    )
    raise InputError(
        f"datamodule.path={path} does not say which format the files have; {remedy} (or datamodule=simulated, which "
        "writes logs of the simulated world into that folder)"
    )
