"""Ours and rivals with the same context: python experiments/rivals/study.py

Each model is tuned with the same number of trials on validation ndcg@10. The first trial has the settings of `conf/`,
the others are drawn at random from `spaces.py`. The chosen settings are trained with several seeds, where something is
random, and the test queries are ranked once. Networks of other libraries take long, therefore each of their trials is
short at first, and only the best of these are trained to the end. Every trial and every final run is a *piece*: one
line of `pieces.csv`. A stopped study continues with the pieces that the file does not have.
"""

import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.rivals import rank_files, tables
from experiments.rivals.fitting import MAX_EPOCHS, append_curve, fit, queries_table
from experiments.rivals.spaces import DATA, MODELS, settings_of
from experiments.studying import Study, append_rows, read_rows, sized
from segue.verbs.terminal.quiet import silence_libraries

STUDY = Study(__file__, __doc__)
HERE = STUDY.folder
PIECES = HERE / "pieces.csv"
CURVES = HERE / "curves.csv"
RANKS = HERE / "ranks"
COLUMNS = (
    "data", "model", "part", "number", "val_ndcg_at_10", "fit_s", "query_ms", "settings", "commit", *tables.BESIDE,
)  # fmt: skip
FINAL, TRIAL, SHORT = "final", "trial", "short"
SHORT_EPOCHS, LONG_TRIALS = 3, 3
"""Epochs of a short trial, and how many of them are trained to the end."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A trial, or a final run.

    Args:
        data: name of the data.
        model: name of the model.
        part: `short`, `trial` or `final`.
        number: of the trial, or the seed.
    """

    data: str
    model: str
    part: str
    number: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it the same piece in the file."""
        return self.data, self.model, self.part, str(self.number)

    @property
    def ranks_path(self) -> Path:
        """Where the ranks of the test queries of a final run are."""
        return rank_files.ranks_path(RANKS, self.data, self.model, str(self.number))


def known() -> dict[tuple[str, ...], dict[str, str]]:
    """The lines of the file by key."""
    return {tuple(line[name] for name in COLUMNS[:4]): line for line in read_rows(PIECES)}


def missing(data: str, model: str, *, trials: int, hours: float, seeds: int) -> Iterator[Piece]:
    """The pieces of a model that are not there: trials first, final runs when there are no more trials.

    A final run is repeated where a later trial is better than the one that it is of, and where it has no ranks. No
    trial starts when those of the model have taken `hours` together.
    """
    num_trials = trials if MODELS[model].space else 1
    yield from _missing_trials(data, model, SHORT if MODELS[model].is_network else TRIAL, range(num_trials), hours)
    if MODELS[model].is_network:
        shorts = sorted(of_part(data, model, SHORT), key=_value, reverse=True)
        best = [int(line["number"]) for line in shorts[:LONG_TRIALS]]
        yield from _missing_trials(data, model, TRIAL, best, hours)
    for seed in range(1, 1 + (seeds if MODELS[model].is_random else 1)):
        piece = Piece(data=data, model=model, part=FINAL, number=seed)
        line = known().get(piece.key)
        if line is None or _is_stale(piece, line):
            yield piece


def _missing_trials(data: str, model: str, part: str, numbers: Iterable[int], hours: float) -> Iterator[Piece]:
    for number in numbers:
        piece = Piece(data=data, model=model, part=part, number=number)
        if piece.key not in known() and _hours(data, model) < hours:
            yield piece


def of_part(data: str, model: str, part: str) -> list[dict[str, str]]:
    """The lines of the pieces of one part of a model."""
    return [line for key, line in known().items() if key[:3] == (data, model, part)]


def _hours(data: str, model: str) -> float:
    trials = of_part(data, model, SHORT) + of_part(data, model, TRIAL)
    return sum(float(line["fit_s"] or 0) for line in trials) / 3600


def _value(line: dict[str, str]) -> float:
    return float(line["val_ndcg_at_10"])


def chosen(data: str, model: str) -> tuple[str, ...]:
    """The settings with the best validation metric among the trials of a model that were trained to the end."""
    return tuple(max(of_part(data, model, TRIAL), key=_value)["settings"].split())


def _is_stale(piece: Piece, line: dict[str, str]) -> bool:
    """Whether a final run is not that of the best trial, or the repository has no ranks of it."""
    of_best = tuple(line["settings"].split()) == chosen(piece.data, piece.model)
    return not (of_best and piece.ranks_path.exists())


def run(piece: Piece) -> None:
    """Fit a piece and append its line."""
    is_final = piece.part == FINAL
    settings = chosen(piece.data, piece.model) if is_final else settings_of(piece.data, piece.model, piece.number)
    model = MODELS[piece.model]
    seed = piece.number if is_final else 1
    epochs = SHORT_EPOCHS if piece.part == SHORT else MAX_EPOCHS
    fitted = fit(piece.data, model, settings, seed=seed, tests=is_final, epochs=epochs)
    if fitted.ranks is not None:
        rank_files.write_queries(rank_files.queries_path(RANKS, piece.data), queries_table(piece.data))
        rank_files.write_ranks(piece.ranks_path, fitted.ranks)
    if is_final and len(fitted.curve):
        key = {"data": piece.data, "model": piece.model, "seed": piece.number}
        append_curve(CURVES, key, fitted.curve)
    numbers = {"val_ndcg_at_10": fitted.val["ndcg_at_10"], "fit_s": fitted.fit_s, "query_ms": fitted.query_ms}
    line = dict(zip(COLUMNS[:4], piece.key, strict=True)) | {"settings": " ".join(settings), "commit": STUDY.commit()}
    line |= {name: f"{value:.6g}" for name, value in {**numbers, **fitted.beside}.items()}
    append_rows(PIECES, [{name: line.get(name, "") for name in COLUMNS}])


def main() -> None:
    """Run the missing pieces and write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--data", nargs="+", choices=[*DATA], default=[*DATA])
    models = sized([*MODELS], ["popular", "rules, session", "convex, default"])
    parser.add_argument("--only", nargs="+", choices=[*MODELS], default=models, metavar="MODEL")
    parser.add_argument("--trials", type=int, default=sized(30, 1), help="trials of each model (default: 30)")
    parser.add_argument("--hours", type=float, default=8, help="or so many hours of its training (default: 8)")
    parser.add_argument(
        "--seeds", type=int, default=sized(5, 1), help="final runs of a model with randomness (default: 5)"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no piece after this time")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the pieces that are there")
    options = STUDY.parse(parser)
    warnings.filterwarnings("ignore")
    silence_libraries()
    end = time.monotonic() + 60 * options.minutes
    wanted = [(data, model) for model in options.only for data in options.data]
    for data, model in [] if options.tables else wanted:
        for piece in missing(data, model, trials=options.trials, hours=options.hours, seeds=options.seeds):
            if time.monotonic() > end:
                break
            run(piece)
            print(" ".join(piece.key), known()[piece.key]["val_ndcg_at_10"], flush=True)
    tables.write(HERE, known(), RANKS, STUDY.note())
    STUDY.write_provenance()


if __name__ == "__main__":
    STUDY.run(main)
