"""Reports: how results are shown, as tables in the terminal, as Markdown and as pictures."""
