"""How a recommender is named in every command: by a word, a file, a run, a model or a service."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

FILES = "the path of a recommendations.jsonl or of a run folder, run:<MLflow run id>, model:<name>@<alias>"
SERVICES = "or http://host:port"


class RecommenderName(NamedTuple):
    """The name of a recommender and its kind.

    Attributes:
        kind: `word` (such as random), `path` of a file, `stored` in MLflow, or `url` of a service.
        name: the name.
    """

    kind: Literal["word", "path", "stored", "url"]
    name: str


def recommender_name(arm: Any) -> str | None:
    """Read the name of the recommender of an arm.

    Args:
        arm: the setting of an arm: the name itself, or a mapping with the key `recommender`.

    Returns:
        The name; None if there is none.
    """
    name = arm.get("recommender") if isinstance(arm, Mapping) else arm
    return name if isinstance(name, str) and name else None


def parse_name(name: str) -> RecommenderName:
    """Find the kind of a name.

    Returns:
        The name with its kind. The path of a run folder becomes that of the recommendations in it, and a bare
        run id gets its `run:`.
    """
    if name.startswith(("http://", "https://")):
        return RecommenderName("url", name)
    if name.startswith(("run:", "model:")):
        return RecommenderName("stored", name)
    if re.fullmatch("[0-9a-f]{4,32}", name):
        return RecommenderName("stored", f"run:{name}")
    if name.endswith((".jsonl", ".json")) or "/" in name:
        path = Path(name)
        return RecommenderName("path", str(path / "recommendations.jsonl") if path.is_dir() else name)
    return RecommenderName("word", name)


def unknown_recommender(where: str, name: str, words: list[str], others: str) -> str:
    """Build the error message for an unknown name.

    Args:
        where: the setting that has the name.
        name: the unknown name.
        words: the words that are allowed.
        others: other kinds of names that are allowed.
    """
    if Path(name).is_dir():
        return f"{where}: {name!r} is not a recommender; write ./{name} for the run folder of this name"
    return f"{where}: {name!r} is not a recommender; choose one of {', '.join(sorted(words))}, {others}"
