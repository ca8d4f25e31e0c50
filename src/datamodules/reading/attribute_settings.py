"""The settings of attributes: the keys of `datamodule.attributes`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segue.datamodules.reading.files import FileSettings, refuse_unknown
from segue.errors import InputError, check_flag, check_number

KINDS = ("value", "values", "number", "vector")
"""One value of many, several, a number, and a list of numbers."""
RESERVED = ("track", "artist")
"""Names of what every catalogue has."""

_FILE_KEYS = ("format", "delimiter", "quote", "header", "names", "skip", "encoding")


@dataclass(frozen=True, kw_only=True)
class AttributeSettings:
    """Where an attribute of the tracks is read from.

    Args:
        kind: one of KINDS.
        column: the column that has it: of the file, otherwise of the catalogue, otherwise of the events.
        file: a file that has it, in the folder of the events; None for the catalogue. A `.npy` file is memory-mapped.
        files: how the file is written.
        track: the column of the file that has the ids of tracks; None: entry n is that of the n-th track of the
            catalogue.
        ids: for a `.npy` file, the file with the id of each of its rows: one in a line, or `.npy`.
        separator: what separates several values in a text; None: a text is one value, unless it is a JSON array.
        unknown: texts that mean nothing, such as `#`.
        required: whether the file must exist, or without a file the column.
        most_shared: largest share of the catalogue that may have the same value, in (0, 1].
    """

    kind: str
    column: str
    file: str | None
    files: FileSettings
    track: str | None
    ids: str | None
    separator: str | None
    unknown: Sequence[str]
    required: bool
    most_shared: int | float


def attribute_settings(config: Any, defaults: Mapping[str, Any]) -> Mapping[str, AttributeSettings]:
    """Check the settings of all attributes.

    Args:
        config: by the name of the attribute, its kind, or its settings; those that are null are left out.
        defaults: value of each setting that an attribute does not give; `datamodule.attribute_defaults`.

    Returns:
        The settings by name.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    if not isinstance(config or {}, Mapping):
        raise InputError(f"datamodule.attributes must be a kind for each name, as in {{year: number}}, got {config!r}")
    found = {}
    for name, given in (config or {}).items():
        if given is None:
            continue
        key = f"datamodule.attributes.{name}"
        if name in RESERVED or not str(name).isidentifier():
            raise InputError(
                f"{key}: an attribute needs a name of letters, digits and underscores other than "
                f"{' and '.join(RESERVED)}; datamodule.columns and datamodule.catalogue.columns say where those are"
            )
        values = {"kind": given} if isinstance(given, str) else given
        if not isinstance(values, Mapping):
            raise InputError(f"{key} must be one of {', '.join(KINDS)}, or settings, got {given!r}")
        refuse_unknown(values, ["kind", *defaults], key=key)
        found[str(name)] = _one(str(name), {"kind": None, **defaults, **values}, key)
    return found


def _one(name: str, values: Mapping[str, Any], key: str) -> AttributeSettings:
    if values["kind"] not in KINDS:
        raise InputError(f"{key}.kind must be one of {', '.join(KINDS)}, got {values['kind']!r}")
    for setting in ("column", "file", "track", "ids", "separator"):
        if not isinstance(values[setting], str | None) or values[setting] == "":
            raise InputError(f"{key}.{setting} must be a text or null, got {values[setting]!r}")
    file, unknown = values["file"], values["unknown"]
    if isinstance(unknown, str) or not isinstance(unknown, Sequence):
        raise InputError(f"{key}.unknown must be a list of texts, got {unknown!r}")
    for setting in ("track", "ids"):
        if file is None and values[setting] is not None:
            raise InputError(
                f"{key}.{setting} belongs to {key}.file, which is not given; name the file, or leave it out"
            )
    is_numpy = file is not None and file.endswith(".npy")
    if values["ids"] is not None and not is_numpy:
        raise InputError(f"{key}.ids belongs to a .npy file; give {key}.track=<column of the ids>")
    if is_numpy and values["kind"] not in ("number", "vector"):
        raise InputError(f"{key}.kind={values['kind']}: a .npy file has numbers; give {key}.kind=vector")
    check_flag(f"{key}.required", values["required"])
    check_number(f"{key}.most_shared", values["most_shared"], above=0, most=1, hint="it is a share of the catalogue")
    chosen = {"pattern": file or name, **{setting: values[setting] for setting in _FILE_KEYS}}
    files = FileSettings.from_config(chosen, key=key)
    return AttributeSettings(
        kind=values["kind"],
        column=values["column"] or name,
        file=file,
        files=files,
        track=values["track"],
        ids=values["ids"],
        separator=values["separator"],
        unknown=[str(text) for text in unknown],
        required=values["required"],
        most_shared=values["most_shared"],
    )
