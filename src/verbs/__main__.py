"""`python -m segue.verbs train …` is `python train.py …`, from any folder."""

from importlib import import_module

from segue.runs.provenance import command_line

if __name__ == "__main__":
    _, name, *words = command_line()
    getattr(import_module(f"segue.verbs.{name}"), name)(words)
