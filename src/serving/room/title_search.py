"""Search of tracks by title and artist, as one types: tolerant of typos, in any script.

N tracks of the catalogue. SQLite's full-text index knows which tracks have which trigrams (three letters in a row).
Tracks are stored in the order of their plays, so that the first matches are the most played ones. Two steps:

1. tracks that have a word beginning with each word of the query;
2. if there is none: tracks that share the rarest trigrams with the query, judged by the edit distance between each word
   of the query and the beginnings of the words of the track (rapidfuzz).

A letter of a script without spaces (Chinese, Japanese) is a word of its own, therefore one letter is enough.
"""

import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from segue.atomic import write_whole

_WORD = re.compile(r"[^\W_]+")
_ALONE = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_ACCENTS = re.compile("[\u0300-\u036f]")
_APOSTROPHES = re.compile("['\u2019\u2018`\u00b4]")

_MAX_WORDS, _MAX_LETTERS = 8, 32  # of a query that count, and of each of them
_NUM_EXACT, _NUM_SIMILAR = 60, 200  # candidates whose texts are compared, of each step
_LEAST_SIMILAR = 0.6
_NUM_KEPT = 20_000  # tracks whose words are remembered, because somebody who types asks for them again
# As one text, which numpy reads three times as fast as Python makes a number of each row.
_PLACES_WITH = "SELECT group_concat(rowid) FROM (SELECT rowid FROM texts WHERE texts MATCH ? LIMIT ?)"


def words_of(text: str) -> list[str]:
    """The words of a text, in the form in which they are compared: small letters without accents.

    Args:
        text: a title, a name or a query.
    """
    if not (small := _APOSTROPHES.sub("", text.casefold())).isascii():
        bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", small))
        small = _ALONE.sub(r" \1 ", unicodedata.normalize("NFC", bare))
    return _WORD.findall(small)


def trigrams_of(word: str) -> list[str]:
    """The trigrams by which a word is found as the beginning of a word, each once.

    Args:
        word: one word, as `words_of` gives it.
    """
    padded = f"  {word}"
    return list(dict.fromkeys(padded[place : place + 3] for place in range(len(padded) - 2)))


class TitleIndex:
    """An index of all tracks, in a file.

    Args:
        path: a file that `build_index` wrote.
        text_of: title and artist of the track in a row.
        by_plays: rows of all tracks, the most played first.
    """

    def __init__(self, path: Path, text_of: Callable[[int], str], by_plays: Int64[np.ndarray, "N"]) -> None:
        self._database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
        self._words_at = lru_cache(_NUM_KEPT)(lambda place: words_of(text_of(int(self._by_plays[place]))) or [""])
        self._by_plays = by_plays
        self._num_with = dict(self._database.execute("SELECT term, doc FROM frequent"))
        self._shared = np.zeros(len(self._by_plays))  # of the query at hand; 0 between queries

    def find(self, query: str, num: int) -> list[int]:
        """The best matches of a query.

        Args:
            query: what was typed.
            num: how many at most.

        Returns:
            Rows of tracks, the best match first; of equal ones the most played first.
        """
        words = [word[:_MAX_LETTERS] for word in words_of(query)[:_MAX_WORDS]]
        found = self._judged(words, self._with_all(words), 1.0)
        found = found or self._judged(words, self._with_some(words), _LEAST_SIMILAR)
        return [int(self._by_plays[place]) for place in found[:num]]

    def _with_all(self, words: list[str]) -> list[int]:
        """Places of tracks that have all trigrams of the words, the most played first."""
        terms = dict.fromkeys(term for word in words for term in trigrams_of(word))
        if not terms or not terms.keys() <= self._num_with.keys():
            return []
        query = " AND ".join(f'"{term}"' for term in sorted(terms, key=self._num_with.__getitem__))
        found = self._database.execute("SELECT rowid FROM texts WHERE texts MATCH ? LIMIT ?", (query, _NUM_EXACT))
        return [place for (place,) in found]

    def _with_some(self, words: list[str]) -> list[int]:
        """Places of the tracks that share most with the words, rare trigrams counting more."""
        terms = {term for word in words for term in trigrams_of(word)} & self._num_with.keys()
        parts: list[Int64[np.ndarray, n]] = []
        spent = 0
        most = 10_000 + len(self._by_plays) // 50  # tracks that are looked at
        for term in sorted(terms, key=lambda term: (self._num_with[term], term)):
            spent += self._num_with[term]
            if parts and spent > most:
                break
            (text,) = self._database.execute(_PLACES_WITH, (f'"{term}"', most)).fetchone()
            found = np.fromstring(text, np.int64, sep=",")
            parts.append(found[self._shared[found] == 0])
            self._shared[found] += np.log(1 + len(self._by_plays) / self._num_with[term])
        if not parts:
            return []
        places = np.concatenate(parts)
        shared = self._shared[places].round(6)
        self._shared[places] = 0
        if len(places) > _NUM_SIMILAR:
            is_kept = shared >= np.partition(shared, -_NUM_SIMILAR)[-_NUM_SIMILAR]
            places, shared = places[is_kept], shared[is_kept]
        return list(map(int, places[np.lexsort((places, -shared))[:_NUM_SIMILAR]]))

    def _judged(self, words: list[str], places: list[int], least: float) -> list[int]:
        """The places whose texts are similar enough, the most similar first."""
        if not places:
            return []
        texts = list(map(self._words_at, places))
        starts = np.cumsum([0, *map(len, texts[:-1])])
        all_words = [word for text in texts for word in text]
        total = np.zeros(len(places))
        for word in words:
            heads = [other[: len(word)] for other in all_words]
            one = cdist([word], heads, scorer=Levenshtein.normalized_similarity, dtype=np.float32)[0]
            total += len(word) * np.maximum.reduceat(one, starts)
        similar = total / sum(map(len, words))
        is_whole = np.add.reduceat(np.fromiter(map(len, all_words), np.int64), starts) == sum(map(len, words))
        order = np.lexsort((np.array(places), ~is_whole, -similar.round(2)))
        return [places[place] for place in order.tolist() if similar[place] >= least - 1e-6]


def build_index(path: Path, texts: Iterable[str]) -> None:
    """Write the index of all tracks; the file appears under its name only when it is complete.

    Args:
        path: the file.
        texts: title and artist of each track, the most played first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: _write_index(partial, texts))


def _write_index(path: Path, texts: Iterable[str]) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; CREATE VIRTUAL TABLE texts USING fts5"
            "(text, content = '', detail = none, columnsize = 0, tokenize = 'trigram case_sensitive 1'); BEGIN"
        )
        rows = ((place, "  ".join(["", *words_of(text)])) for place, text in enumerate(texts))
        database.executemany("INSERT INTO texts(rowid, text) VALUES (?, ?)", rows)
        database.executescript(
            "CREATE VIRTUAL TABLE terms USING fts5vocab(texts, row);"
            "CREATE TABLE frequent AS SELECT term, doc FROM terms"
        )
    database.close()
