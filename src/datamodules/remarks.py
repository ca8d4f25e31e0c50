"""What is said of data beside their numbers: what was left out, and what the user may not expect."""

from collections.abc import Iterator

from segue.catalog import Calendar
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.datamodules.reading.column_roles import option
from segue.datamodules.reading.table import Reading

_MOST_NAMED = 20  # columns that are not used, in a line
_SOURCE_OF_SHARE = {
    "longest": "played / longest play of the track in training (the source has no durations)",
    "skipped": "0 for a skipped track, otherwise 1",
    "gap": "gap to the next start / duration",
}


def remarks_on(data: SplitPairs, interleaved: str) -> Iterator[str]:
    """Lines of text, in the order in which the data were read.

    Args:
        data: what was read.
        interleaved: policy for sessions of one user at the same time.
    """
    reading, catalog, num = data.reading, data.catalog, data.sessions.num_interleaved
    if reading.encoding != "utf-8":
        yield f"encoding     {reading.encoding}, because not all text is UTF-8 (datamodule.files.encoding)"
    yield from reading.remarks
    if left_out := [f"{num:,} by {name}" for name, num in data.dropped.items() if num and name != "interleaved"]:
        yield f"left out     {', '.join(left_out)}"
    if num:
        done = {"separate": "separated", "keep": "kept as one", "drop": "left out"}[interleaved]
        says = f"{num:,} sessions ran at the same time as another one of their user"
        yield f"interleaved  {says}: {done} (datamodule.policies.interleaved={interleaved})"
    if reading.num_capped:
        yield (
            f"share played above 1 for {reading.num_capped:,} events, which count as 1; check the units, or reject "
            "them with datamodule.shares_above_one=reject"
        )
    if reading.share in _SOURCE_OF_SHARE:
        yield f"share played {_SOURCE_OF_SHARE[reading.share]}"
    if catalog.num_artists == len(catalog) > 1:
        why = "no column has artists" if "artist" not in reading.columns else "no artist has two tracks"
        yield f"artists      {why}: every track has its own, therefore model=artist cannot learn more than model=track"
    if catalog.attributes:
        known = [f"{name} of {attribute.known.mean():.0%}" for name, attribute in catalog.attributes.items()]
        yield f"attributes   {', '.join(known)} of the tracks are known"


def remarks_on_columns(reading: Reading) -> Iterator[str]:
    """Why each column was chosen, and which are not used; nothing where the settings name all."""
    if not reading.guessed:
        return
    columns = reading.columns
    by_values = [role for role in reading.guessed if reading.evidence.get(role, "").startswith("by its values")]
    by_names = [role for role in reading.guessed if role not in by_values]
    ways = [(by_names, "by their names"), (by_values, "by their values")]
    found = "; ".join(f"{' '.join(f'{role}={columns[role]}' for role in roles)}, {why}" for roles, why in ways if roles)
    yield f"columns      {found}; datamodule.columns.<role>=<column> changes one"
    if reading.unused:
        num_more = len(reading.unused) - _MOST_NAMED
        yield f"not used     {', '.join(reading.unused[:_MOST_NAMED])}{f' and {num_more:,} more' * (num_more > 0)}"
    for name, role in reading.alternatives.items():
        chosen = f"{role}={columns[role]} is used" if role in columns else f"no column is the {role}"
        holds = f" ({reading.holds[name]})" if name in reading.holds else ""
        what = "times" if role == "timestamp" else "columns"
        yield f"{what:<12} {name}{holds} could be the {role}; {chosen}; {option(role, name)} uses it"


def remark_on_calendar(calendar: Calendar | None, asked: int | float | str | None) -> list[str]:
    """How fast plays age, and which days are the newest; nothing where neither is known.

    Args:
        asked: `datamodule.half_life`.
    """
    if calendar is None:
        return []
    parts = []
    if asked is not None:
        half_life = calendar.half_life
        ages = "all plays count alike" if half_life is None else f"plays count half after {_days(half_life)}"
        parts.append(ages + " (chosen on validation: datamodule.half_life=auto)" * (asked == "auto"))
    if calendar.newest_days is not None:
        parts.append(f"model=recent has the plays of the last {_days(calendar.newest_days)} of training")
    return [f"calendar     {'; '.join(parts)}"] if parts else []


def _days(number: float) -> str:
    return f"{number:g} day{'s' * (number != 1)}"
