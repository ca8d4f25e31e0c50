"""The formats that Segue can read, one module for each; `READERS` has them by name."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from src.errors import InputError
from src.models.contracts import Reader

READERS: dict[str, Reader] = {
    module.name: import_module(f"{__name__}.{module.name}").READER for module in iter_modules(__path__)
}
"""The reader of each module in this folder; the key is the name of the module and the value of `datamodule.reader=`."""


def formats_of(folder: Path) -> list[str]:
    """Names of the formats whose files a folder has, in the order of the alphabet."""
    return sorted(name for name, reader in READERS.items() if reader.is_in(folder))


def find_reader(name: str) -> Reader:
    """Look up a reader.

    Args:
        name: name of the reader.

    Returns:
        The reader.

    Raises:
        InputError: there is no reader of this name.
    """
    if name not in READERS:
        raise InputError(f"no reader {name!r}; datamodule.reader must be one of {', '.join(sorted(READERS))}")
    return READERS[name]
