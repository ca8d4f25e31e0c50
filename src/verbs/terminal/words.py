"""Words of the command line that Hydra needs in another form than they are typed."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from segue.errors import InputError
from segue.runs.hydra_text import quoted

# Keys that people type for their data. No verb has one of them.
_OF_DATA = ("csv", "data", "dataset", "file", "files", "input", "path", "source", "table")
_OF_SWEEPS = ("-m", "--multirun")  # words that begin with a minus and have no value


EXPERIMENT = {"experiment=": "experiment_name="}
"""For `renamed`, where an experiment is a name in the log, or of MLflow."""


def renamed(words: Sequence[str], beginnings: Mapping[str, str]) -> list[str]:
    """Words with other beginnings, such as `experiment_name=X` for `experiment=X`.

    `conf/experiment/` and `conf/context/` are for `train`; where these are names and settings of other verbs, Hydra
    would look for a file.
    """
    new = ((word, next((old for old in beginnings if word.startswith(old)), "")) for word in words)
    return [beginnings.get(old, "") + word.removeprefix(old) for word, old in new]


def as_plain_text(words: Sequence[str], key: str) -> list[str]:
    """The value of `key`, quoted where it is not, since it may have signs of Hydra's own language in it.

    An example is `filter=params.seed = '1'`.
    """
    return [_quoted(word) if word.startswith(f"{key}=") else word for word in words]


def refuse_placeholders(words: Sequence[str]) -> None:
    """Refuse placeholders such as `<folder>`, which the documentation has in the place of a value.

    Raises:
        InputError: a word has one.
    """
    for word in words:
        if not word.startswith("filter=") and (found := re.search(r"<[a-zA-Z][\w .-]*>", word)):
            raise InputError(f"{word}: {found[0]} is a placeholder; put a value of yours in its place")


def refuse_path_alone(words: Sequence[str], option: Callable[[str], str]) -> None:
    """Refuse a path that has no option, as in `describe.py plays.csv`, or one that no verb has, as in `data=plays.csv`.

    Args:
        option: from a path to what a person has to type for it.

    Raises:
        InputError: a word is such a path.
    """
    for previous, word in pairwise(["", *words]):
        if rule := _why_alone(previous, word):
            path = word.partition("=")[2] or word
            meant = option(path if re.fullmatch(r"[\w./:@+~-]+", path) else f"'\"{path}\"'")
            raise InputError(f"{word}: {rule}; did you mean {meant}?")


def _why_alone(previous: str, word: str) -> str | None:
    """The rule that a word breaks which is a path without the option for it; None for every other word."""
    key, equals, value = word.partition("=")
    if equals:
        if key in _OF_DATA and value:
            return f"there is no option {key}"
        is_source = key != "datamodule" or re.fullmatch(r"\w+", value)  # also where a folder has the name of a source
        return None if is_source or not _is_path(value) else "datamodule= takes the name of a source"
    is_option = word.startswith(("-", "~")) or (previous.startswith("-") and previous not in _OF_SWEEPS)
    value = previous.partition("=")[2]
    is_half = bool(value) and Path(f"{value} {word}").exists()  # as in datamodule.path=my plays.csv, without quotes
    return None if is_option or is_half or not _is_path(word) else "an option is name=value"


def _is_path(text: str) -> bool:
    """Whether a text is a file or a folder, or ends as a file with data does."""
    return bool(re.search(r"[^/]\.[a-zA-Z]\w*$", text)) or (bool(text) and Path(text).exists())


def commands_of(words: Sequence[str], key: str, commands: Sequence[str]) -> list[str]:
    """A bare command such as `load` as `<key>=load`.

    Raises:
        InputError: a bare word is not one of the commands.
    """
    for previous, word in pairwise(["", *words]):
        if re.fullmatch(r"\w[\w-]*", word) and not previous.startswith("-"):  # which may take it as its value
            refuse_unknown_command(word, commands)
    return [f"{key}={word}" if word in commands else word for word in words]


def refuse_unknown_command(word: str, commands: Sequence[str]) -> None:
    """Refuse a word that is not one of some commands.

    Raises:
        InputError: it is none.
    """
    if word not in commands:
        close = difflib.get_close_matches(word, commands, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"{word!r} is not a command; the commands are {', '.join(commands)}{hint}")


def _quoted(word: str) -> str:
    key, _, value = word.partition("=")
    if re.fullmatch(r"(['\"]).*\1", value):
        return word
    in_quotes = quoted(value, '"')
    return f"{key}={in_quotes}"
