"""The commands of the pages: lines of bash blocks, and code within a sentence that is a command or an option."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("README.md")]

FINISHED = "**Finished study.**"

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
_WORKTREE = re.compile(r"\s*git worktree add \S+ ([0-9a-f]{7,40})\b")
_PLACEHOLDER = re.compile(r"<[a-zA-Z][^<>=|]*>")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A command, or options alone, of a page.

    Args:
        text: without its comment; placeholders such as `<folder>` are replaced by a word.
        is_of_block: whether it is a line of a block; otherwise it is code within a sentence.
        commit: at which its files exist; None where they exist today.
    """

    text: str
    is_of_block: bool
    commit: str | None = None


@cache
def lines_of(text: str) -> tuple[Line, ...]:
    """What a reader may type of a page; what a page of a finished study names within a sentence is of its commit."""
    blocks = [*_of_blocks(text)]
    commit = next((line.commit for line in blocks if line.commit), None) if FINISHED in text else None
    return (*blocks, *_of_sentences(_BLOCK.sub("", text), commit))


def bash_lines(block: str) -> list[str]:
    """The commands of a block without comments; a command that goes on in the next line is one."""
    lines = re.sub(r" *\\\n *", " ", block).splitlines()
    return [line for text in lines if (line := re.split(r"(?:^|\s+)#(?:\s|$)", text)[0].strip())]


def finished_at(text: str) -> str | None:
    """The commit of the block of a page that begins with a second working tree; None if it has no such block."""
    return next((line.commit for line in lines_of(text) if line.commit), None)


def _of_blocks(text: str) -> Iterator[Line]:
    for _, language, block in _BLOCK.findall(text):
        if language == "bash":
            tree = _WORKTREE.match(block)
            for line in bash_lines(block):
                yield Line(text=_filled(line), is_of_block=True, commit=tree[1] if tree else None)


def _of_sentences(text: str, commit: str | None) -> Iterator[Line]:
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        words = re.sub(r"\s+", " ", span).strip().removesuffix(" …")
        if "…" not in words:
            yield Line(text=_filled(words), is_of_block=False, commit=commit)


def _filled(text: str) -> str:
    """A line with a word in the place of each placeholder."""
    return _PLACEHOLDER.sub("anything", text)


def words_of(text: str) -> list[list[str]]:
    """The words of each command of a line, which may be a pipe or a list of commands.

    Raises:
        ValueError: a quote is not closed.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split, lexer.commenters = True, ""
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [words for words in commands if words]
