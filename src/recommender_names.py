"""How recommenders are named, the same everywhere: a word, a file, a run, a model, a service."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

FILES = "the path of a recommendations.jsonl or of a run folder, run:<MLflow run id>, model:<name>@<alias>"
SERVICES = "or http://host:port"


class Named(NamedTuple):
    """What a name means: a `word` such as random, the `path` of a file, what is `stored` in MLflow, or a `url`."""

    kind: Literal["word", "path", "stored", "url"]
    name: str


def recommender_name(given: Any) -> str | None:
    """The name in what an arm is given: itself, or what stands under `recommender`."""
    name = given.get("recommender") if isinstance(given, Mapping) else given
    return name if isinstance(name, str) and name else None


def understand(name: str) -> Named:
    """What a name means. The path of a run folder means the recommendations in it."""
    if name.startswith(("http://", "https://")):
        return Named("url", name)
    if name.startswith(("run:", "model:")):
        return Named("stored", name)
    if name.endswith((".jsonl", ".json")) or "/" in name:
        path = Path(name)
        return Named("path", str(path / "recommendations.jsonl") if path.is_dir() else name)
    return Named("word", name)


def no_recommender(where: str, name: str, words: list[str], others: str) -> str:
    """The error for a name that means nothing; `others` names what else than a word can be given."""
    return f"{where}: {name!r} is no recommender; choose one of {', '.join(sorted(words))}, {others}"
