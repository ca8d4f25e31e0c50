"""The colours of every picture."""

GREY, BLUE, ORANGE, RED = "#6c6c6c", "#2a6f97", "#e07a1f", "#b5485d"
INK, FAINT = "#222222", "#d9d9d9"

ARMS = (GREY, BLUE, ORANGE, "#5a9367", "#8d5a97", RED, "#b0a03c", "#4bb0c4", "#93614a", INK)
"""Colours of the arms of an A/B test, the control first."""

SETUPS = (
    *ARMS[1:-1], "#c2185b", "#1b998b", "#f2b134", "#5c4d7d", "#7a8b2f", "#3d405b", "#ff7f9f", "#00597c", "#a0522d",
    "#7fb685", "#9d8df1",
)  # fmt: skip
"""Colours of the set-ups of a comparison, the best first."""

OTHERS = "#b5b5b5"
"""Colour of set-ups beyond the last colour."""
