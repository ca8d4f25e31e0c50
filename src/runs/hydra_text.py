"""How a text is written in the language of Hydra's command line."""

import re

_PLAIN = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_WORDS = re.compile(r"null|true|false|nan|inf", re.IGNORECASE)


def quoted(text: str, quote: str = "'") -> str:
    """A text in quotes. A backslash counts before a quote and at the end only, where two of them are one.

    >>> print(quoted("it's"), quoted('C:\\\\music'))
    'it\\'s' 'C:\\music'
    """
    inner = re.sub(rf"(\\*){quote}", rf"\1\1\\{quote}", re.sub(r"(\\+)$", r"\1\1", text))
    return f"{quote}{inner}{quote}"


def as_word(text: str, quote: str = "'") -> str:
    """A text as it is where Hydra reads a text, and in quotes otherwise: `null` and `12` are none."""
    return text if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text) else quoted(text, quote)
