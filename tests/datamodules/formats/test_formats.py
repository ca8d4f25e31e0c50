import re
import shutil
import subprocess
from pathlib import Path

import pytest

from src.datamodules.formats import READERS, find_reader
from src.errors import InputError
from tests.conftest import ROOT
from tests.e2e.forks import fork_command


def test_an_unknown_reader_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'spotify'; datamodule.reader must be one of botify, polimi, situnes, yes"):
        find_reader("spotify")


def test_every_reader_is_a_datamodule_of_its_own_name() -> None:
    configs = {path.stem for path in (ROOT / "conf" / "datamodule").glob("*.yaml")}
    assert set(READERS) == configs - {"default", "simulated"}  # simulated uses the botify reader


@pytest.mark.parametrize(
    ("reader", "folder", "events", "tracks", "artists"),
    [
        ("botify", "botify-2023", 10_389, 50_000, 11_464),
        ("yes", "yes-small", 175_911, 3_168, 1_326),
        ("polimi", "polimi-2018", 115_553, 20_635, 6_668),
        ("situnes", "situnes", 600, 946, 644),
    ],
)
def test_the_real_sets_are_read_without_rejected_lines(
    real_data: Path, tmp_path: Path, reader: str, folder: str, events: int, tracks: int, artists: int
) -> None:
    source = READERS[reader].read(real_data / folder, max_rejected=0.0, rejected_path=tmp_path / "rejected.jsonl")
    assert (source.num_events, len(source.catalog), source.catalog.num_artists) == (events, tracks, artists)


PAIRS_OF_DIARY = """
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pathlib import Path
with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
    config = compose("train", ["datamodule=diary", "run_dir=out"])
datamodule = instantiate(config.datamodule)
datamodule.setup()
print(config.recipe.name, datamodule.pairs["train"].previous.tolist(), datamodule.pairs["test"].following.tolist())
"""


def test_a_new_source_takes_the_three_steps_of_the_documentation(tmp_path: Path) -> None:
    """Copies the code blocks of docs/data.md into a copy of the repository and runs it."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## A source of your own")[2]
    reader, settings, example = re.findall(r"```(?:python|yaml)\n(.*?)```", page, re.DOTALL)
    for folder in ("src", "conf", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, text in (("src/datamodules/formats/diary.py", reader), ("conf/datamodule/diary.yaml", settings)):
        assert f"`{name}`" in page
        (tmp_path / name).write_text(text, encoding="utf-8")
    contract = tmp_path / "tests" / "contracts" / "test_readers.py"
    contract.write_text(contract.read_text(encoding="utf-8").replace("EXAMPLES = {\n", "EXAMPLES = {\n" + example))
    (tmp_path / "data" / "diary").mkdir(parents=True)
    (tmp_path / "data" / "diary" / "songs.csv").write_text("id,title,artist\n10,One,Ann\n11,Two,Ann\n12,Three,Bob\n")
    plays = [f"{user},{1000 * user + place},{song},0.5\n" for user in range(10) for place, song in enumerate((10, 12))]
    (tmp_path / "data" / "diary" / "plays.csv").write_text("user,time,song,share\n" + "".join(plays))

    checks = ["tests/contracts/test_readers.py", "tests/datamodules/formats/test_formats.py"]
    options = "-o", "addopts=", "-o", "filterwarnings="  # without shape checks, which take half of the time
    passed = _python(tmp_path, "-m", "pytest", "-q", *options, *checks, "-k", "diary or has_an_example or own_name")
    assert re.search(r"^\d\d passed, \d+ deselected", passed.splitlines()[-1])
    assert _python(tmp_path, "-c", PAIRS_OF_DIARY).splitlines()[-1] == f"shares {[0] * 8} [2]"


def _python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        fork_command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
