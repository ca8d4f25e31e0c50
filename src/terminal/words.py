"""Words of the command line that Hydra needs in another form than they are typed."""

import difflib
import re
from collections.abc import Sequence
from itertools import pairwise

from src.errors import InputError


def experiment_as_name(words: Sequence[str]) -> list[str]:
    """`experiment=X` as `experiment_name=X`, for verbs other than `train`: of those it is the name in the log.

    Hydra would look for a file of that name, since there is a folder `conf/experiment/`.
    """
    return [re.sub("^experiment=", "experiment_name=", word) for word in words]


def context_as_value(words: Sequence[str]) -> list[str]:
    """`context=X` as `arm_context=X`, for `serve`, where it is a setting of arms: Hydra would look for a file of
    `conf/context/`, which is for `train`.
    """
    return [re.sub("^context=", "arm_context=", word) for word in words]


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


def commands_of(words: Sequence[str], key: str, commands: Sequence[str]) -> list[str]:
    """A bare command such as `load` as `<key>=load`.

    Raises:
        InputError: a bare word is not one of the commands.
    """
    for previous, word in pairwise(["", *words]):
        is_bare = re.fullmatch(r"\w[\w-]*", word) and not previous.startswith("-")  # which may take it as its value
        if is_bare and word not in commands:
            close = difflib.get_close_matches(word, commands, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"{word!r} is not a command; the commands are {', '.join(commands)}{hint}")
    return [f"{key}={word}" if word in commands else word for word in words]


def _quoted(word: str) -> str:
    key, _, value = word.partition("=")
    if re.fullmatch(r"(['\"]).*\1", value):
        return word
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'
