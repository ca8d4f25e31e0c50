"""How much of what each arm played its listeners knew from earlier sessions: `share_known` and its relatives.

They are shown beside the effects and are no part of the verdict: more of what is known is neither better nor worse. The
rule is in `statistics/discovery.py`. S sessions, N tracks.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from segue.catalog import changes
from segue.errors import InputError
from segue.runs.catalog_files import read_catalog
from segue.statistics.discovery import Discovery
from segue.statistics.intervals import GroupSummary, welch
from segue.verdicts.abtest.events import Lines
from segue.verdicts.abtest.metrics import Comparison, summary

NOTES = (
    "Of the tracks after the first one of a session, for users with an earlier session; effects in percentage points.",
    "share known: was played to at least 80 % by the same listener in an earlier session.",
    "share heard: was heard by the same listener in an earlier session.",
    "share known artist: is by an artist of whom the listener knows a track.",
)
"""What the shares are of."""


def known_shares(
    lines: Lines, first: Int64[np.ndarray, "S"], folder: Path, kept: Bool[np.ndarray, "S"]
) -> pd.DataFrame:
    """What the users knew from earlier sessions of the log.

    Args:
        lines: columns of the lines, in sessions, those of a user one after another, in order of time.
        first: row of the first line of each session.
        folder: of the logs; the artists come from the `tracks.json` in it or beside it.
        kept: whether the tracks of each session count; what was heard in the others is known in later ones.

    Returns:
        A row for each user who has a session after another one: number of the `arm`, and the share of the tracks after
        the first one of these sessions that was known, by the name of the metric.
    """
    session = np.arange(len(first)).repeat(np.diff(first, append=len(lines["user_id"])))
    user = changes(lines["user_id"]).cumsum() - 1
    track, keys = pd.factorize(lines["track"])
    discovery = Discovery(len(keys), _artists_of(keys, folder))
    counted, known = discovery.of_plays(user, track, np.asarray(lines["time"], np.float64), session)
    plays = pd.DataFrame({"arm": lines["arm"].astype(np.int64), **known})[counted & kept[session]]
    return pd.DataFrame(plays.groupby(user[plays.index]).mean())


def _artists_of(keys: Int64[np.ndarray, "N"], folder: Path) -> Int64[np.ndarray, "N"] | None:
    """Number of the artist of each track; None without a catalogue. A track that it lacks has an artist of its own."""
    path = next((path for one in (folder, folder.absolute().parent) if (path := one / "tracks.json").is_file()), None)
    if path is None:
        return None
    try:
        catalog = read_catalog(path)
    except InputError:  # another file of this name
        return None
    rows = catalog.rows_of(keys)
    return np.where(rows >= 0, catalog.artist_of[rows], catalog.num_artists + np.arange(len(keys)))


def compare_known(known: pd.DataFrame, arms: list[str], alpha: float) -> list[Comparison]:
    """Compare every treatment with the control.

    Args:
        known: of `known_shares`.
        arms: names of the arms, the control first.
        alpha: intervals have level 1 − alpha.

    Returns:
        A row for each treatment and metric, with the difference in percentage points (Welch); none where an arm has
        fewer than two users with a session after another.
    """
    found = []
    for number, arm in enumerate(arms[1:], start=1):
        groups = [known[known["arm"] == own] for own in (0, number)]
        for metric in known.columns[1:] if min(map(len, groups)) > 1 else ():
            control, treated = (GroupSummary.of(group[metric].to_numpy()) for group in groups)
            effect = welch(control, treated, alpha, 100.0)
            found.append(Comparison(treatment=arm, metric=metric, **summary((control, treated)), **vars(effect)))
    return found
