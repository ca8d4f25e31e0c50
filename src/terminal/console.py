"""The two streams that a person reads: `console` for results, `errors` for what went wrong."""

from rich.console import Console

console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
