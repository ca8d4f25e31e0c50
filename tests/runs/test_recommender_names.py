"""What the name of a recommender means."""

from pathlib import Path
from typing import Literal

import pytest

from segue.runs.recommender_names import RecommenderName, parse_name, unknown_recommender


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("popular", "word"),
        ("run:3fa2", "stored"),
        ("model:segue@champion", "stored"),
        ("http://localhost:5001", "url"),
        ("lists.jsonl", "path"),
        ("outputs/train/gone", "path"),
    ],
)
def test_the_form_of_a_name_says_what_it_means(name: str, kind: Literal["word", "path", "stored", "url"]) -> None:
    assert parse_name(name) == RecommenderName(kind, name)
    assert parse_name("3fa2c1d0") == RecommenderName("stored", "run:3fa2c1d0")


def test_a_folder_without_a_slash_is_no_word_and_the_message_says_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "choose one of popular, a file" in unknown_recommender("arms.C", "model", ["popular"], "a file")
    (tmp_path / "model").mkdir()
    message = unknown_recommender("arms.C", "model", ["popular"], "a file")
    assert message == "arms.C: 'model' is not a recommender; write ./model for the run folder of this name"
    assert parse_name("./model") == RecommenderName("path", "model/recommendations.jsonl")
