"""The formats that Segue can read, one module each; `READERS` finds them by name."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from src.errors import InputError
from src.models.contracts import Reader

READERS: dict[str, Reader] = {
    module.name: import_module(f"{__name__}.{module.name}").READER for module in iter_modules(__path__)
}
"""The reader of each module of this folder, by the name that `datamodule.reader=` gives it."""


def formats_of(folder: Path) -> list[str]:
    """Names of the formats whose files a folder has, in the order of the alphabet."""
    return sorted(name for name, reader in READERS.items() if reader.is_in(folder))


def find_reader(name: str) -> Reader:
    """The reader of that name.

    Raises:
        InputError: there is none.
    """
    if name not in READERS:
        raise InputError(f"no reader {name!r}; there are {', '.join(sorted(READERS))}")
    return READERS[name]
