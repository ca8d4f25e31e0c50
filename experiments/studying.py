"""What every study does: its command line, its sizes, where its results go, and what they say of where they come from.

A script begins with `STUDY = Study(__file__, __doc__)`, writes below `STUDY.folder` and ends with `STUDY.run(main)`.
With `--smoke` it runs from the start to its tables at the smallest sizes, which stand beside the real ones (`sized`),
and writes below `outputs/smoke/`: no result that was committed is read or changed.
"""

import argparse
import csv
import io
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from segue.atomic import write_record, write_whole
from segue.errors import InputError
from segue.runs.provenance import ROOT, changed_files, git_state, provenance
from segue.verbs.terminal.hydra_parts import know_defaults
from segue.verbs.terminal.messages import show_error

Size = TypeVar("Size")
SMALL_WORLD = ("world=small", "world.num_tracks=800", "world.num_listeners=300")
SMALLEST = (
    "trainer.max_epochs=1", "callbacks.ranking.max_val_queries=50", "callbacks.ranking.max_test_queries=50",
    *SMALL_WORLD,
)  # fmt: skip
"""Words of a world, and of a training, in a smoke."""


def _common() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--smoke", action="store_true", help="the smallest sizes; writes below outputs/smoke")
    parser.add_argument(
        "--dirty", action="store_true", help="write results of files that are not committed, and say so"
    )
    parser.add_argument("--out", type=Path, help="folder of the results instead of that of the study")
    return parser


def is_smoke() -> bool:
    """Whether the smallest sizes are run. It is read from the command line, which child processes have too."""
    return bool(_common().parse_known_args()[0].smoke)


def sized(full: Size, smoke: Size) -> Size:
    """A size of a study, and its smallest value, with which it still writes its tables."""
    return smoke if is_smoke() else full


class SkippedError(Exception):
    """A smoke lacks something that this machine does not have."""


def skip(what: str) -> None:
    """Say what a smoke leaves out, and why."""
    print(f"skipped      {what}", flush=True)


def data_folder(name: str) -> Path:
    """The folder that `datamodule=<name>` reads."""
    return ROOT / str(OmegaConf.load(ROOT / "conf" / "datamodule" / f"{name}.yaml").path)


def available(*data: str) -> list[str]:
    """The names of `datamodule=`; a smoke leaves out, with a line, those whose files this machine does not have.

    Raises:
        InputError: it is no smoke, and files are missing.
    """
    found = []
    for name in data:
        what = f"{data_folder(name)} does not exist; SEGUE_DATA names the folder of the data sets"
        if name == "simulated" or data_folder(name).is_dir():
            found.append(name)
        elif not is_smoke():
            raise InputError(what)
        else:
            skip(what)
    return found


class Study:
    """A script of a study.

    Args:
        file: its `__file__`.
        doc: its docstring, for `--help`.
    """

    def __init__(self, file: str, doc: str | None) -> None:
        self.file, self.doc = Path(file).resolve(), doc
        self.home = self.file.parent
        """Folder of the study, with the results that were committed."""
        given = _common().parse_known_args()[0]
        own = ROOT / "outputs" / "smoke" / f"{self.home.name}-{self.file.stem}"
        self.folder = (given.out or sized(self.home, own)).absolute()
        """Folder of the results."""
        self.work = sized(ROOT / "outputs" / self.home.name, self.folder / "work")
        """Folder of what is no result, such as runs."""
        self._changed: list[str] = []
        self._written: list[Path] = []

    @property
    def command(self) -> str:
        """What repeats the study, for its tables."""
        return f"python {self.file.relative_to(ROOT)}"

    def parser(self) -> argparse.ArgumentParser:
        """The options of all studies; a script adds its own."""
        return argparse.ArgumentParser(
            description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[_common()],
            allow_abbrev=False,
        )  # fmt: skip

    def parse(self, parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
        """Read the command line, before the work starts.

        Raises:
            InputError: files are not committed, and `--dirty` was not given; or a smoke would write among other files.
        """
        given = (parser or self.parser()).parse_args()
        if given.smoke:
            if given.out is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            elif self.folder.is_dir() and any(self.folder.iterdir()):
                raise InputError(f"--out={given.out} has files, which a smoke must not change; name an empty folder")
            warm_up()
        elif changed := self.changed_files():
            if not given.dirty:
                raise InputError(
                    f"{_listed(changed)} differ from the commit that the results would name; commit them, or add "
                    "--dirty, and the tables will say so"
                )
            self._changed = changed
        self.folder.mkdir(parents=True, exist_ok=True)
        return given

    def changed_files(self) -> list[str]:
        """Files that differ from the commit, without the results of this study."""
        return [name for name in changed_files() or [] if not self._is_result(ROOT / name)]

    def _is_result(self, path: Path) -> bool:
        return self.home in path.parents and path.suffix not in (".py", ".lua") and path.name != "README.md"

    def run(self, main: Callable[[], None]) -> None:
        """Run a script: an error of the user's is one line, and the last lines are the paths of the tables."""
        try:
            main()
        except SkippedError as missing:
            skip(str(missing))
        except InputError as error:
            show_error(str(error))
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)
        for path in dict.fromkeys(self._written) or [self.folder] * any(self.folder.glob("*")):
            print(f"results      {path}")

    def provenance(self) -> dict[str, str]:
        """Where the results come from; results of the study itself do not make the tree dirty."""
        origin = provenance()
        unknown = origin["git_dirty"] == "unknown"
        return origin if unknown else {**origin, "git_dirty": str(bool(self.changed_files())).lower()}

    def commit(self) -> str:
        """The commit for a line of a CSV file, with `+` behind it where files differ from it."""
        return git_state()["git_commit"][:9] + "+" * bool(self.changed_files())

    def note(self) -> list[str]:
        """The last lines of a table: with `--dirty` they say which files were not committed."""
        return ["", f"Written with `--dirty`: {_listed(self._changed)} differed from the commit."] * bool(self._changed)

    def write_table(self, name: str, lines: Sequence[str]) -> None:
        """Write Markdown, with the note at the end."""
        text = "\n".join([*"\n".join(lines).rstrip().splitlines(), *self.note()]) + "\n"
        write_whole(self.folder / name, lambda partial: partial.write_text(text, encoding="utf-8"))
        self._written.append(self.folder / name)

    def write_figure(self, name: str, figure: Any, **options: Any) -> None:
        """Write a picture of matplotlib."""
        options = {"dpi": 110, "format": "png", **options}
        write_whole(self.folder / name, lambda partial: figure.savefig(partial, **options))

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Write JSON."""
        write_record(record, self.folder / name)

    def write_provenance(self, name: str = "provenance.json") -> None:
        """Write where the results come from."""
        self.write_record(name, self.provenance())


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append lines to a CSV file in one write, therefore several processes can share it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerows(rows)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, text.getvalue().encode())
    finally:
        os.close(descriptor)


@cache
def warm_up() -> None:
    """Import what most scripts and verbs need: the processes of a smoke are forks, and do not import it again."""
    import duckdb  # noqa: F401
    import matplotlib as mpl
    import pandas  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch

    mpl.use("agg")
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # ranx would compile for a minute
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)  # a pool of threads would not survive the fork


def train(*words: str, cwd: Path = ROOT, threads: int | None = 1, each: Callable[[int], None] | None = None) -> str:
    """`python train.py` with some words, and without a refit: all models learn the same sessions.

    In a smoke one short epoch.
    """
    return run_python(["train.py", *words, "refit=none", *sized((), SMALLEST)], cwd=cwd, threads=threads, each=each)


def composed(verb: str, *words: str) -> Any:
    """The config of `python <verb>.py <words>`."""
    know_defaults()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(verb, list(words))


def data_of(config: Any) -> Any:
    """The datamodule of a config, after it has read its source."""
    data = instantiate(config.datamodule, _convert_="all")
    data.prepare_data()
    data.setup()
    return data


def run_python(
    words: Sequence[str], *, cwd: Path = ROOT, threads: int | None = None, each: Callable[[int], None] | None = None
) -> str:
    """Run a script in a process of its own. A smoke forks, because imports take longer than the smallest sizes.

    Args:
        words: path of the script, from the root of the repository, and its arguments.
        cwd: working directory.
        threads: of numpy and torch; None for their own choice.
        each: called with the id of the process five times a second.

    Returns:
        What it printed.

    Raises:
        RuntimeError: it failed; the message has the end of what it printed.
    """
    env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)) if threads else {}
    command = [str(ROOT / words[0]), *words[1:]]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        code = (_fork if is_smoke() else _spawn)(command, cwd, env, output.fileno(), each or (lambda _: None))
        output.seek(0)
        printed = output.read()
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with code {code}\n{printed[-3000:]}")
    return printed


def _spawn(words: list[str], cwd: Path, env: dict[str, str], output: int, each: Callable[[int], None]) -> int:
    command = [sys.executable, *words]
    with subprocess.Popen(command, cwd=cwd, env={**os.environ, **env}, stdout=output, stderr=output) as process:
        while True:
            each(process.pid)
            try:
                return process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue


def _fork(words: list[str], cwd: Path, env: dict[str, str], output: int, each: Callable[[int], None]) -> int:
    process = get_context("fork").Process(target=run_script, args=(words, cwd, env, output))
    process.start()
    while process.exitcode is None:
        each(process.pid or 0)
        process.join(0.2)
    return process.exitcode


def run_script(words: list[str], cwd: Path, env: Mapping[str, str], output: int) -> None:
    """Become a script, in a process that was forked for it."""
    os.chdir(cwd)
    os.environ.update(env)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
