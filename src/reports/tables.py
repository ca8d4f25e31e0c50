"""Tables that several verbs print before and after a simulation or a training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from segue.reports.numbers import number
from segue.reports.result_table import Cell, Table, styled

if TYPE_CHECKING:
    import pandas as pd


def arms_table(arms: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], title: str) -> Table:
    """Means over the listeners of each arm, with their 95 % intervals.

    Args:
        arms: the summary of each arm, as `simulation.json` has it under `arms`.
        names: the recommender of each arm.
        title: title of the table.
    """
    rows = list[list[Cell]]()
    for arm, row in arms.items():
        means = [
            styled(number(row[name], ".2f"), "bold").append(
                f" [{number(row[name + '_lower'], '.2f')}, {number(row[name + '_upper'], '.2f')}]"
            )
            for name in ("mean_time_per_session", "mean_tracks_per_session")
        ]
        rows.append([arm, Text(names[arm], overflow="fold"), f"{row['sessions']:,}", *means])
    notes = [
        "time per session: sum of the shares played; 1 is one track played in full.",
        "tracks per session: number of tracks, skipped tracks included.",
        "Both are means over the listeners of the arm; brackets: 95 % interval.",
    ]
    if shares := [f"{arm} {row['fallbacks'] / row['steps']:.1%}" for arm, row in arms.items() if row["fallbacks"]]:
        notes.append(f"fallbacks (no track to recommend, a random one was played): {', '.join(shares)}")
    columns = ["arm", "recommender", "sessions", "time per session", "tracks per session"]
    return Table(title=title, columns=columns, rows=rows, align="llRRR", notes=notes)


def frame_table(frame: "pd.DataFrame", title: str) -> Table:
    """A frame of whole numbers, a line a row; what is missing stays empty."""
    rows = [
        [str(name), *("" if gone else f"{value:,}" for value, gone in zip(row, row.isna(), strict=True))]
        for name, row in frame.iterrows()
    ]
    columns = ["", *map(str, frame.columns)]
    notes = ["rejected: lines that are not events"] * ("rejected" in columns)
    return Table(title=title, columns=columns, rows=rows, align="l" + "r" * len(frame.columns), notes=notes)
