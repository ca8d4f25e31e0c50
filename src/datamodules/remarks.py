"""What a run prints below the table of its data: what was left out, and what the user may not expect."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from segue.catalog import Catalog
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.reading.table import Reading

_MANY_TIES = 0.05
"""Share of events with the timestamp of the event before them, above which their order is the order of the file."""

_EARLY_MS = 631_152_000_000
"""Start of 1990. Seconds that are read as milliseconds are in January 1970."""

_SOURCE_OF_SHARE = {
    "longest": "played / longest play of the track in training (the source has no durations)",
    "skipped": "0 for a skipped track, otherwise 1",
    "gap": "gap to the next start / duration",
}


def remarks_on(
    reading: Reading,
    sessions: Sessions,
    pairs: Mapping[str, Pairs],
    catalog: Catalog,
    dropped: Mapping[str, int],
    interleaved: str,
) -> list[str]:
    """Lines of text, in the order in which the data were read.

    Args:
        reading: what was read.
        sessions: the sessions.
        pairs: the pairs of each split.
        catalog: the tracks.
        dropped: number of events that each rule left out.
        interleaved: policy for sessions of one user at the same time.
    """
    lines = []
    columns, num_events = reading.columns, len(sessions.listens.track)
    if reading.guessed:
        found = " ".join(f"{role}={columns[role]}" for role in reading.guessed)
        lines.append(f"columns      {found}, by their names; datamodule.columns.<role>=<column> changes one")
        if "user" not in columns and "session" not in columns:
            others = f"; columns that are not used: {', '.join(reading.unused[:20])}" if reading.unused else ""
            lines.append(f"users        no column is the user: all plays are of one listener{others}")
    if reading.encoding != "utf-8":
        lines.append(f"encoding     {reading.encoding}, because the text is not UTF-8 (datamodule.files.encoding)")
    if left_out := [f"{num:,} by {name}" for name, num in dropped.items() if num and name != "interleaved"]:
        lines.append(f"left out     {', '.join(left_out)}")
    if sessions.num_interleaved:
        done = {"separate": "separated", "keep": "kept as one", "drop": "left out"}[interleaved]
        lines.append(
            f"interleaved  {sessions.num_interleaved:,} sessions ran at the same time as another one of their user: "
            f"{done} (datamodule.policies.interleaved={interleaved})"
        )
    if num_events and sessions.num_tied > _MANY_TIES * num_events:
        lines.append(
            f"ties         {sessions.num_tied / num_events:.0%} of the events have the time of the event before them; "
            "their order is the order of the rows"
        )
    if sessions.has_clock and (num_future := int((sessions.timestamp > time.time() * 1000).sum())):
        latest = datetime.fromtimestamp(sessions.timestamp.max() / 1000, UTC)
        lines.append(
            f"times        {num_future:,} events lie in the future, the last in {latest:%B %Y}; check "
            "datamodule.units.timestamp and datamodule.zone"
        )
    if reading.units.get("timestamp") == "ms" and sessions.timestamp.max(initial=0) < _EARLY_MS:
        lines.append("times        all events lie before 1990; are the times seconds? datamodule.units.timestamp=s")
    if reading.num_capped:
        lines.append(
            f"share played above 1 for {reading.num_capped:,} events, which count as 1; check the units, or reject "
            "them with datamodule.shares_above_one=reject"
        )
    if reading.share in _SOURCE_OF_SHARE:
        lines.append(f"share played {_SOURCE_OF_SHARE[reading.share]}")
    lines += _on_shares(reading, pairs["train"])
    if catalog.num_artists == len(catalog) > 1:
        why = "no column has artists" if "artist" not in columns else "no artist has two tracks"
        lines.append(
            f"artists      {why}: every track has its own, therefore model=artist cannot learn more than model=track"
        )
    if catalog.attributes:
        known = [f"{name} of {attribute.known.mean():.0%}" for name, attribute in catalog.attributes.items()]
        lines.append(f"attributes   {', '.join(known)} of the tracks are known")
    return lines


def _on_shares(reading: Reading, train: Pairs) -> list[str]:
    if reading.share == "none":
        return []
    known = train.played_ratio[~np.isnan(train.played_ratio)]
    if not len(known):
        return ["share played unknown for every training pair; type recipe=playlists"]
    if known.min() == known.max():
        return [
            f"share played {known[0]:g} for every training pair: there is nothing to predict; type recipe=playlists, "
            "which ranks the track that follows"
        ]
    mean = float(known.mean())
    if reading.share == "played" and not 0.02 < mean < 0.995:
        return [f"share played {mean:.3g} on average; check datamodule.units.played and datamodule.units.duration"]
    if (num := len(train.played_ratio) - len(known)) > 0:
        return [f"share played unknown for {num:,} of {len(train.played_ratio):,} training pairs"]
    return []
