"""`recipe=auto`: what is compared, which candidate is used, and that it stays the same."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import segue
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.runs.resume import words_of_run
from segue.verbs.terminal.hydra_parts import know_defaults
from segue.verbs.train import train
from segue.verbs.training.choosing import Candidate, Choice, better_than, choose, rivals_of
from tests.conftest import ROOT

SMALL = ("run_dir=run", "trainer.accelerator=cpu")
SESSIONS = np.repeat(np.arange(200), 5)


def composed(words: Sequence[str]) -> Any:
    know_defaults()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [*SMALL, *words])


def write_plays(path: Path, num_sessions: int = 300) -> Path:
    """Plays whose share says the opposite of what follows.

    After a track of a ring the next one follows, most often, and is played nearly to its end. All others, some of them
    hits, are played to their end.
    """
    rng = np.random.default_rng(0)
    lines = ["user,time,track,artist,played_ratio"]
    for session in range(num_sessions):
        track = 0
        for place in range(8):
            follows = place > 0 and rng.random() < 0.6
            track = (track + 1) % 60 if follows else int(60 * rng.random() ** 3)
            time = 1_600_000_000 + session * 86_400 + place * 200
            lines.append(f"{session % 30},{time},t{track},a{track},{0.81 if follows else 1.0}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plays(tmp_path_factory.mktemp("own") / "plays.csv")


def words_of(table: Path) -> list[str]:
    return ["datamodule=table", f"datamodule.path={table}", "recipe=auto"]


@pytest.fixture(scope="module")
def data(table: Path) -> PairDataModule:
    datamodule: PairDataModule = instantiate(composed(words_of(table)).datamodule, _convert_="all")
    datamodule.setup("fit")
    return datamodule


@pytest.fixture(scope="module")
def choice(data: PairDataModule, table: Path) -> Choice:
    chosen = choose(data, composed(words_of(table)), words_of(table), composed)
    assert chosen is not None
    return chosen


def gains(mean: float, seed: int = 0) -> np.ndarray:
    """Of 1,000 queries of 200 sessions, with noise that differs between seeds."""
    return mean + np.random.default_rng(seed).normal(0, 0.2, len(SESSIONS))


def test_a_recipe_of_shares_that_popular_beats_is_not_used(choice: Choice) -> None:
    mean = {one.words: one.gains.mean() for one in choice.candidates}
    assert mean["recipe=shares"] < mean["model=popular"] < mean[choice.best.words]
    assert choice.best.words not in ("recipe=shares", "model=popular")
    assert choice.left_out == {}
    assert choice.table().rows[0][0] == choice.best.words == choice.record()["chosen"]


def test_the_choice_depends_neither_on_the_seed_nor_on_what_was_drawn_before(
    choice: Choice, data: PairDataModule, table: Path
) -> None:
    [before] = [one for one in choice.candidates if one.words == "recipe=playlists context=session"]
    words = [*words_of(table), "seed=2", "datamodule.max_rejected=0.5"]  # the seed alone would not choose again
    config = composed(words)
    config.recipe.candidates = [before.words]
    torch.manual_seed(7)
    again = choose(data, config, words, composed)
    assert again is not None
    [after] = again.candidates
    assert (after.steps, after.gains.tolist()) == (before.steps, before.gains.tolist())


def test_jobs_that_differ_in_the_seed_choose_once(choice: Choice, data: PairDataModule, table: Path) -> None:
    words = [*words_of(table), "seed=3", "parent_run_id='a'", "swept=[seed]"]
    assert choose(data, composed(words), words, composed) is choice


@pytest.mark.parametrize(("lead", "used"), [(0.0, "recipe=a"), (0.005, "recipe=a"), (0.1, "model=b")])
def test_a_counting_model_must_be_ahead_beyond_the_interval(lead: float, used: str) -> None:
    head = Candidate(words="recipe=a", gains=gains(0.11), steps=100)
    counting = Candidate(words="model=b", gains=gains(0.11 + lead, seed=1))
    other = Candidate(words="recipe=c", gains=gains(0.0), steps=100)
    choice = Choice(session=SESSIONS, candidates=[other, counting, head])
    assert choice.best.words == used
    assert {one.words for one in choice.ranked[:2]} == {"recipe=a", "model=b"}


def test_candidates_leave_what_was_typed_as_it_is(data: PairDataModule, table: Path) -> None:
    config = composed(words_of(table))
    config.recipe.candidates = ["recipe=published", "model=popular context=session", "model=ease"]
    chosen = choose(data, config, [*words_of(table), "context=last"], composed)
    assert chosen is not None
    assert [one.words for one in chosen.ranked] == ["model=ease", "model=popular"]
    assert "it reads other pairs: datamodule.pairing=first" in chosen.left_out["recipe=published"]
    config.recipe.candidates = ["recipe=published"]
    with pytest.raises(
        InputError, match=r"recipe=auto: no candidate fits \(recipe=published: it reads .*name a recipe"
    ):
        choose(data, config, [*words_of(table), "seed=2"], composed)


def test_a_head_that_is_named_is_compared_with_each_recipe_alone(
    data: PairDataModule, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*words_of(table), "model=track"]
    monkeypatch.setattr(
        "segue.verbs.training.choosing._short_run",
        lambda *given, **_: Candidate(words=given[3], gains=gains(0.1), steps=1),
    )
    chosen = choose(data, composed(words), words, composed)
    assert chosen is not None
    recipes = ["recipe=shares", "recipe=playlists context=session", "recipe=radio context=session"]
    assert [one.words for one in chosen.candidates] == recipes


@pytest.mark.parametrize("model", ["gru4rec", "sasrec"])
def test_a_model_of_the_order_keeps_its_context_and_has_rivals(
    model: str, data: PairDataModule, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*words_of(table), f"model={model}", "model.dim=4", "context.encoder.dim=8", "trainer.max_epochs=1"]
    config, seen = composed(words), list[Any]()
    config.recipe.candidates = ["recipe=playlists context=session"]

    def seen_run(*given: Any, **_: int) -> Candidate:
        seen.append(given)
        return Candidate(words=given[3], gains=gains(0.1), steps=1)

    monkeypatch.setattr("segue.verbs.training.choosing._short_run", seen_run)
    chosen = choose(data, config, words, composed)
    assert chosen is not None
    assert ([one.words for one in chosen.candidates], chosen.left_out) == (["recipe=playlists context=session"], {})
    [(_, _, of_candidate, _)] = seen
    assert of_candidate.context.encoder.dim == 8
    assert of_candidate.datamodule.whole_sessions
    seen.clear()
    run = [*words_of(table)[:2], "recipe=playlists", f"model={model}"]
    rivals = rivals_of(data, composed(run), run, composed)
    assert rivals is not None
    assert rivals.left_out == {}
    assert not any(given[2].datamodule.whole_sessions for given in seen)


@pytest.mark.parametrize(("num_sessions", "is_compared"), [(20, False), (30, True)])
def test_three_validation_sessions_are_enough_to_compare(num_sessions: int, is_compared: bool, tmp_path: Path) -> None:
    words = words_of(write_plays(tmp_path / "plays.csv", num_sessions))
    config = composed(words)
    config.recipe.candidates = ["model=popular"]
    few: PairDataModule = instantiate(config.datamodule, _convert_="all")
    few.setup("fit")
    assert len(np.unique(few.pairs["val"].session)) == 2 + is_compared
    assert (choose(few, config, words, composed) is not None) == is_compared


def test_settings_that_pairs_do_not_depend_on_are_adjusted(data: PairDataModule, table: Path) -> None:
    config = composed(words_of(table)[:2])
    for is_whole in (True, False):
        config.datamodule.whole_sessions = is_whole
        data.adjust(config.datamodule)
        sampler: Any = data.train_dataloader(0).sampler
        assert (sampler._sessions is not None) is is_whole


def test_models_of_whole_sessions_count_fewer_plays(
    data: PairDataModule, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.verbs.training.choosing._MOST_OF_SESSIONS", 10)
    config = composed(words_of(table))
    config.recipe.candidates = ["model=vstan context=session", "model=rules context=session"]
    chosen = choose(data, config, [*words_of(table), "seed=4"], composed)
    assert chosen is not None
    assert [one.words for one in chosen.candidates] == ["model=rules context=session"]
    assert "it would count" in chosen.left_out["model=vstan context=session"]


def test_a_trained_model_is_compared_with_the_counting_models(data: PairDataModule, table: Path) -> None:
    rivals = rivals_of(data, composed(words_of(table)), words_of(table)[:2], composed)
    assert rivals is not None
    popular = instantiate(composed([*words_of(table)[:2], "model=popular"]).ranker)(vocabulary=data.vocabulary)
    better = better_than(popular, rivals, data)
    assert better is not None
    assert (better.words, better.own < better.ndcg) == (rivals.best.words, True)
    assert better_than(popular, Choice(session=rivals.session, candidates=[rivals.ranked[-1]]), data) is None
    assert better_than(popular, Choice(session=rivals.session), data) is None


def test_a_run_uses_what_was_chosen_and_a_resumed_one_does_not_choose_again(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "auto"
    options: dict[str, Any] = {
        "recipe": "auto",
        "recipe__candidates": ["recipe=shares", "recipe=radio context=session", "model=popular"],
        "trainer__max_epochs": 1,
        "callbacks__plots": None,
    }
    fitted = segue.fit(table, model=None, folder=folder, **options)
    record = json.loads((folder / "choice.json").read_text())
    overrides = json.loads((folder / "run.json").read_text())["overrides"]
    chosen = record["chosen"].split()
    assert {*chosen} <= {*overrides}
    assert "auto" not in " ".join(overrides).replace(str(tmp_path), "")
    resumed = words_of_run([f"resume={folder}"], lambda name, _: Path(name))
    assert resumed[: len(overrides)] == overrides
    assert set(chosen) <= {f"{name}={value}" for name, value in fitted._of_fit.items()}
    assert len(fitted.evaluate(segue.read_plays(table)).queries)
    assert fitted.get_params()["model"] is None


def test_it_is_refused_where_nothing_can_be_chosen(table: Path, tmp_path: Path) -> None:
    words = [*words_of(table), "logger=none", f"hydra.run.dir={tmp_path}/a", f"hydra.sweep.dir={tmp_path}/b"]
    with pytest.raises(InputError, match="recipe=auto chooses the recipe of one run, and a search"):
        train.call(["-m", "search=optuna", *words])
