"""`python -m segue.training …` is `python train.py …`, from any folder."""

from segue.runs.provenance import command_line
from segue.training.train import train

if __name__ == "__main__":
    train(command_line()[1:])
