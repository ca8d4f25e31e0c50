"""Invented names of artists and tracks, to make lists of recommendations readable."""

import json
from pathlib import Path

import numpy as np

_WORDS: dict[str, list[str]] = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
_OF_ARTISTS = (
    ("adjectives", "nouns", "The {} {}s"),
    ("first", "last", "{} {}"),
    ("first", "nouns", "{} & the {}s"),
    ("adjectives", "nouns", "{} {}"),
)
_OF_TRACKS = (
    ("adjectives", "nouns", "{} {}"),
    ("nouns", "places", "{} in the {}"),
    ("first", "places", "{} and the {}"),
    ("nouns", "nouns", "{} to {}"),
)


def artist_names(num: int, rng: np.random.Generator) -> list[str]:
    """Different names of bands and singers; where all are taken, with a number."""
    pool = [form.format(one, two) for a, b, form in _OF_ARTISTS for one in _WORDS[a] for two in _WORDS[b]]
    names = [f"{name} {copy + 1}" if copy else name for copy in range(-(-num // len(pool))) for name in pool]
    return [names[place] for place in rng.permutation(len(names))[:num].tolist()]


def track_titles(num: int, rng: np.random.Generator) -> list[str]:
    """Titles of tracks; some occur more than once, as real titles do."""
    titles, patterns = list[str](), rng.integers(len(_OF_TRACKS), size=num).tolist()
    for pattern, draws in zip(patterns, rng.random((num, 2)).tolist(), strict=True):
        *kinds, form = _OF_TRACKS[pattern]
        words = (_WORDS[kind][int(draw * len(_WORDS[kind]))] for kind, draw in zip(kinds, draws, strict=True))
        titles.append(form.format(*words))
    return titles
