"""The real sets give the pairs that they are known to give."""

from pathlib import Path

import pytest

from tests.conftest import read_datamodule

SETS = {
    "botify": ("botify-2023", "303aee240badd74f", "first"),
    "situnes": ("situnes", "6cc9c4a57902a7ac", "consecutive"),
    "polimi": ("polimi-2018", "753a832589584850", "consecutive"),
    "yes": ("yes-small", "ffda2167543a52ed", "consecutive"),
}
"""Of each source: its folder, the digest of its pairs, and how they are made."""


@pytest.mark.parametrize("name", SETS)
def test_a_real_set_gives_its_pairs(name: str, real_data: Path, tmp_path: Path) -> None:
    folder, digest, pairing = SETS[name]
    datamodule = read_datamodule(real_data / folder, tmp_path, source=name, pairing=pairing, split="auto")
    assert datamodule.digest() == digest
