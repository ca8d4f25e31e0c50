"""Ids of users and tracks as requests name them, and as answers and log lines have them."""

import json
from urllib.parse import unquote_to_bytes

from segue.catalog import Id, id_problem, key_of

_text = json.JSONEncoder(ensure_ascii=False).encode


def id_of_json(value: object) -> Id:
    """The id that a JSON value is.

    Args:
        value: a whole number, also one that is written as a float or as a text, or another text.

    Returns:
        The id; a text that is a whole number as people write it is this number.

    Raises:
        ValueError: it is no id; the message is to be said after its name.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if (problem := id_problem(value)) is not None:
        raise ValueError(problem)
    assert isinstance(value, int | str)
    return key if (key := key_of(value)) >= 0 else value


def id_in_path(part: str) -> Id:
    """The id that the last part of a path is.

    Args:
        part: percent-encoded, as it was sent, with a letter for each byte.

    Raises:
        ValueError: it is no id; the message is to be said after its name.
    """
    if "/" in part:
        raise ValueError("has a /, which must be written as %2F")
    try:
        return id_of_json(unquote_to_bytes(part.encode("latin-1")).decode())
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8 when it is percent-decoded") from None


def as_json(id_: Id) -> str:
    """An id as JSON."""
    return str(id_) if isinstance(id_, int) else _text(id_)
