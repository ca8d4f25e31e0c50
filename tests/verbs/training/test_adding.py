"""New tracks for finished runs of every head, whose files are as a training run leaves them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from segue.attributes import Values
from segue.catalog import Catalog
from segue.errors import InputError
from segue.models.head_ranker import session_vectors
from segue.models.heads import CosineMix
from segue.models.restoring import lists_of_vectors
from segue.picking.counted_scores import CountedScores
from segue.runs.catalog_files import read_catalog, write_catalog, write_top_tracks
from segue.runs.counted_part import CountedPart
from segue.runs.folder import as_dict
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from segue.verbs.training.adding import add_tracks
from tests.conftest import make_vocabulary, write_lines
from tests.contracts.building import composed
from tests.contracts.test_heads import HEADS
from tests.models.plain import LAST_TRACK

NUM, K = 30, 5
MODEL = ("model.dim=4", "recipe=playlists")
PLAYS = np.arange(NUM) % 7
Config = Callable[..., Any]


def finished_run(
    folder: Path, model: str, *words: str, tags: Values | None = None, counted: CountedPart | None = None
) -> Path:
    """The files of a run whose last two tracks, of an artist of their own, are not played in training."""
    from hydra.utils import instantiate

    counts = (np.arange(NUM) < NUM - 2).astype(int)
    vocabulary = make_vocabulary(np.arange(NUM) // 2, previous_counts=counts, next_counts=counts)
    if tags is not None:
        vocabulary = replace(vocabulary, catalog=replace(vocabulary.catalog, attributes={"tags": tags}))
    config = composed(f"model={model}", *MODEL, *words)
    torch.manual_seed(0)
    scorer = instantiate(config.model, _convert_="all")(vocabulary).eval()
    with torch.no_grad():
        for name, parameter in scorer.named_parameters():
            if name == "item_bias.weight":
                parameter[: NUM - 2].normal_()
    (folder / "checkpoints").mkdir(parents=True)
    numbers = {f"scorer.{name}": tensor for name, tensor in scorer.state_dict().items()}
    saved = {"state_dict": {**numbers, "loss.level": torch.zeros(())}, "popularity": torch.from_numpy(PLAYS)}
    torch.save(saved, folder / "checkpoints" / "best.ckpt")
    context = LAST_TRACK(vocabulary, list(scorer.query_parts()), learns=True)
    vectors = session_vectors(scorer, context, counted)
    with torch.inference_mode():
        rows, scores = lists_of_vectors(vectors, PLAYS, K).collect()
    lists = Recommendations(rows=rows, scores=scores, plays=PLAYS)
    lists.write(folder / "recommendations.jsonl", vocabulary.catalog, format="botify")
    vectors.write(folder / FILE, vocabulary.catalog)
    write_top_tracks(vocabulary.catalog.track_ids[:3], folder / "top_tracks.json")
    hydra_free = {name: value for name, value in config.items() if name != "hydra"}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(as_dict(OmegaConf.create(hydra_free))))
    return folder


def new_catalogue(path: Path) -> Path:
    """The tracks of the run, two new ones of known artists, one of an unplayed one, one of nobody that is known."""
    catalog = make_vocabulary(np.arange(NUM) // 2).catalog
    old = zip(
        catalog.track_ids.tolist(), catalog.titles.tolist(), (f"Artist {n // 2}" for n in range(NUM)), strict=True
    )
    lines = [*old, (900, "W", "Artist 3"), (901, "X", "Artist 0"), (902, "Y", "Artist 14"), (903, "Z", "?")]
    write_catalog(Catalog.from_columns(*zip(*lines, strict=True), source="test"), path)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    def make(add: object, catalogue: object = None) -> Any:
        given = {"add": add, "catalogue": catalogue, "run_dir": str(tmp_path / "added"), "logger": None}
        return OmegaConf.create({name: None if value is None else str(value) for name, value in given.items()})

    return make


@pytest.mark.parametrize("model", HEADS)
def test_lists_have_the_new_tracks_and_old_scores_do_not_change(tmp_path: Path, config: Config, model: str) -> None:
    run, catalogue = finished_run(tmp_path / "run", model), new_catalogue(tmp_path / "new.json")
    added = add_tracks(config(run, catalogue), [])
    folder = tmp_path / "added"
    catalog = read_catalog(folder / "tracks.json")
    assert catalog.track_ids.tolist() == [*range(100, 100 + NUM), 900, 901, 902, 903]
    lists = Recommendations.read(folder / "recommendations.jsonl", catalog)
    assert lists.plays is not None
    assert lists.plays.tolist() == [*PLAYS.tolist(), 0, 0, 0, 0]
    vectors = SessionVectors.read(folder / FILE, catalog)
    of_run = SessionVectors.read(run / FILE, read_catalog_of(run))
    assert (vectors.queries[:NUM] == of_run.queries).all()
    assert (vectors.items[:NUM] == of_run.items).all()
    scores = vectors.queries.astype(np.float64) @ vectors.items.T.astype(np.float64)
    for query in range(NUM + 4):
        rows = lists.rows[query]
        np.testing.assert_allclose(lists.scores[query], scores[query, rows], atol=2e-6)
        outside = np.setdiff1d(np.arange(NUM + 4), [*rows, query])
        assert scores[query, outside].max() <= scores[query, rows].min() + 2e-6
    assert (added["num_tracks"], added["num_added"], added["num_by_known_artists"]) == (NUM, 4, 3)
    assert added["num_unknown"] == (4 if model in ("track", "contextual") else 2)
    assert added["num_changed_lists"] == (lists.rows[:NUM] >= NUM).any(1).sum()
    assert json.loads((folder / "additions.json").read_text())["num_added"] == 4
    assert not (folder / "model_card.md").exists()  # nothing was trained
    assert (folder / "top_tracks.json").read_bytes() == (run / "top_tracks.json").read_bytes()
    if model not in ("track", "contextual"):  # 900 has the vector of its artist alone
        artist = slice(*((4, 8) if model in ("convex", "mean") else (0, 4)))
        row = int(catalog.rows_of(np.array([900]))[0])
        np.testing.assert_allclose(vectors.items[row, artist], vectors.items[6, artist], atol=1e-6)
    if model == "convex":  # about 903 nothing is known: its list has the largest item biases
        assert vectors.queries[NUM + 3].tolist() == [*[0.0] * 8, 1.0]
        biases = vectors.items[lists.rows[NUM + 3][:K], -1]
        assert biases.tolist() == sorted(vectors.items[:, -1].tolist(), reverse=True)[:K]


def test_lists_of_a_run_with_counts_have_the_new_tracks_where_a_service_ranks_them(
    tmp_path: Path, config: Config
) -> None:
    """Nothing was counted of them, nor of the last two of the run: they get the share of such tracks."""
    rows = np.full((NUM, 2), -1, np.int32)
    rows[: NUM - 2] = np.stack([np.roll(np.arange(NUM - 2), -step) for step in (1, 2)], 1)
    shares = np.where(rows < 0, 0, [0.5, 0.3]).astype(np.float32)
    part = CountedPart(rows=rows, shares=shares, age_weights=np.ones(1, np.float32), strength=0.05, uncounted=0.05)
    run, catalogue = finished_run(tmp_path / "run", "convex", counted=part), new_catalogue(tmp_path / "new.json")
    add_tracks(config(run, catalogue), [])
    catalog = read_catalog(tmp_path / "added" / "tracks.json")
    vectors = SessionVectors.read(tmp_path / "added" / FILE, catalog)
    assert vectors.counted is not None
    assert np.flatnonzero(vectors.counted.is_uncounted).tolist() == [*range(NUM - 2, NUM + 4)]
    one, every = np.arange(NUM + 4)[:, None], np.tile(np.arange(NUM + 4), (NUM + 4, 1))
    scores, counts = vectors.queries @ vectors.items.T, CountedScores(vectors.counted)
    head = scores.copy()
    counts.add(scores, one, np.full(one.shape, np.nan, np.float32), every)
    assert (scores[: NUM - 2, NUM:] > head[: NUM - 2, NUM:] + 0.05).all()
    assert (scores[NUM - 2 :] == head[NUM - 2 :]).all(), "nothing followed them"
    lists = Recommendations.read(tmp_path / "added" / "recommendations.jsonl", catalog)
    for query in range(NUM + 4):
        found = lists.rows[query][lists.rows[query] >= 0]
        np.testing.assert_allclose(lists.scores[query, : len(found)], scores[query, found], atol=2e-6)
        outside = np.setdiff1d(np.arange(NUM + 4), [*found, query])
        assert scores[query, outside].max() <= scores[query, found].min() + 2e-6


def test_a_refitted_run_gets_them_by_the_model_that_it_exports(tmp_path: Path, config: Config) -> None:
    added = []
    for name in ("tested", "refitted"):
        run = finished_run(tmp_path / name / "run", "convex")
        if name == "refitted":
            checkpoints, record = run / "checkpoints", run / "refit.json"
            (checkpoints / "best.ckpt").rename(checkpoints / "refitted.ckpt")
            (checkpoints / "best.ckpt").write_bytes(b"of the model that was tested")
            record.write_text("{}")
        add_tracks(config(run, new_catalogue(tmp_path / "new.json")), [])
        added.append((tmp_path / "added" / "recommendations.jsonl").read_bytes())
        (tmp_path / "added").rename(tmp_path / name / "added")
    assert added[0] == added[1]


TAGS = [["old", "late"][row % 2 : 1 + row % 3] for row in range(NUM)]
"""Of the tracks of the run; some have none."""


def with_tags(path: Path, tags: list[list[str] | None]) -> Path:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, (line | {"tags": of_line} for line, of_line in zip(lines, tags, strict=True)))
    return path


def test_new_tracks_of_a_head_with_attributes_have_the_vectors_of_their_values(tmp_path: Path, config: Config) -> None:
    words = ("model.parts=[track,artist,tags]", "datamodule.attributes={tags: {kind: values, most_shared: 1.0}}")
    run = finished_run(tmp_path / "run", "convex", *words, tags=Values.from_lists(TAGS))
    catalogue = new_catalogue(tmp_path / "new.json")
    with_tags(catalogue, [*TAGS, ["new"], None, ["late", "new"], ["late"]])
    added = add_tracks(config(run, catalogue), [])
    assert added["num_unknown"] == 0  # the last two are of artists without plays, and have a tag that is known
    catalog = read_catalog(tmp_path / "added" / "tracks.json")
    vectors = SessionVectors.read(tmp_path / "added" / FILE, catalog)
    of_run = SessionVectors.read(run / FILE, read_catalog_of(run))
    assert (vectors.items[:NUM] == of_run.items).all()
    late = next(row for row in range(NUM) if TAGS[row] == ["late"])
    tags = slice(8, 12)
    for row in (NUM + 2, NUM + 3):
        np.testing.assert_allclose(vectors.items[row, tags], of_run.items[late, tags], atol=1e-6)
    assert (vectors.items[NUM, tags] == 0).all()
    with_tags(catalogue, [*TAGS[1:], TAGS[0], *[None] * 4])
    again = OmegaConf.merge(config(run, catalogue), {"run_dir": str(tmp_path / "again")})
    assert isinstance(again, DictConfig)
    with pytest.raises(InputError, match=r"new.json give its tracks other vectors than it has; correct the attributes"):
        add_tracks(again, [])
    lines = [json.loads(line) for line in catalogue.read_text().splitlines()]
    nested = (
        {**line, "tags": None, "meta": {"tags": tags}}
        for line, tags in zip(lines, [*TAGS, *[["late"]] * 4], strict=True)
    )
    write_lines(catalogue, nested)
    given = OmegaConf.load(run / "config.yaml")
    given.datamodule.attributes.tags = {"kind": "values", "column": "meta.tags"}  # most_shared=0.5 is for training
    OmegaConf.save(given, run / "config.yaml")
    assert add_tracks(again, [])["num_unknown"] == 0


def read_catalog_of(run: Path) -> Catalog:
    return Recommendations.read_with_catalog(run / "recommendations.jsonl")[1]


def test_what_cannot_get_new_tracks_is_one_line(tmp_path: Path, config: Config) -> None:
    run, catalogue = finished_run(tmp_path / "run", "convex"), new_catalogue(tmp_path / "new.json")

    def message(given: Any, words: list[str] | None = None) -> str:
        with pytest.raises(InputError) as caught:
            add_tracks(given, words or [])
        assert not (tmp_path / "added").exists()
        return str(caught.value)

    assert message(config(None, catalogue)).endswith("goes with add=<run>, the run that gets its new tracks")
    assert "model=track has no effect with add=" in message(config(run, catalogue), ["add=x", "model=track"])
    lists = run / "recommendations.jsonl"
    text = lists.read_text()
    lists.write_text("".join(line.replace('"plays"', '"older"') + "\n" for line in text.splitlines()))
    assert "have no plays; train it again" in message(config(run, catalogue))
    lists.write_text(text)
    checkpoint = run / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    changed = {
        name: tensor + 1 if name.endswith("track.weight") else tensor for name, tensor in saved["state_dict"].items()
    }
    torch.save({"state_dict": changed}, checkpoint)
    assert "give its tracks other vectors than it has" in message(config(run, catalogue))
    checkpoint.unlink()
    assert "has no checkpoints/best.ckpt; it has not finished" in message(config(run, catalogue))
    given = OmegaConf.load(run / "config.yaml")
    for recipe, kind in (("counting", "baseline"), ("mixture", "mixture")):
        given.recipe.name = recipe
        OmegaConf.save(given, run / "config.yaml")
        assert f"is a {kind}, which gives new tracks no vectors" in message(config(run, catalogue))


EVIL = {"_target_": "pandas.read_pickle", "filepath_or_buffer": "PICKLE"}


@pytest.mark.parametrize(
    "model",
    [
        EVIL,
        {"_target_": "segue.models.heads.CosineMix", "_partial_": True, "alpha": [EVIL]},
        {"_target_": "${evil}", "filepath_or_buffer": "PICKLE"},
    ],
)
def test_a_run_of_somebody_else_runs_no_code(tmp_path: Path, config: Config, model: dict[str, Any]) -> None:
    run, mark, file = finished_run(tmp_path / "run", "convex"), tmp_path / "mark", tmp_path / "evil.pickle"
    file.write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())  # what loads it runs the command
    given = OmegaConf.load(run / "config.yaml")
    text = json.dumps(model).replace("PICKLE", str(file))
    given.model, given.evil = json.loads(text), "pandas.read_pickle"
    OmegaConf.save(given, run / "config.yaml")
    with pytest.raises(InputError, match=rf"^add={run}: its settings (build .*trust=|have \$)") as error:
        add_tracks(config(run, new_catalogue(tmp_path / "new.json")), [])
    assert "\n" not in str(error.value)
    assert not mark.exists()


def test_a_head_of_a_trusted_package_is_built(tmp_path: Path, config: Config) -> None:
    run = finished_run(tmp_path / "run", "convex")
    given = OmegaConf.load(run / "config.yaml")
    given.model._target_ = "tests.verbs.training.test_adding.own_head"
    OmegaConf.save(given, run / "config.yaml")
    asked = config(run, new_catalogue(tmp_path / "new.json"))
    with pytest.raises(InputError, match=r"build tests\.verbs\.training\.test_adding\.own_head, .*trust=tests"):
        add_tracks(asked, [])
    asked.trust = "tests"
    assert add_tracks(asked, [f"add={run}", "trust=tests"])["num_added"] == 4


def own_head(*args: Any, **settings: Any) -> CosineMix:
    """A head of another package."""
    return CosineMix(*args, **settings)


@pytest.mark.parametrize("text", ["", "seed: 1", "words", "model: &a {x: *a}", "model: " + "[" * 3000 + "]" * 3000])
def test_a_config_that_is_none_of_a_run_is_one_line(tmp_path: Path, config: Config, text: str) -> None:
    run = finished_run(tmp_path / "run", "convex")
    (run / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^cannot read .*config.yaml: .*; train the run again$"):
        add_tracks(config(run, new_catalogue(tmp_path / "new.json")), [])


def test_a_checkpoint_with_code_is_one_line(tmp_path: Path, config: Config) -> None:
    run, mark = finished_run(tmp_path / "run", "convex"), tmp_path / "mark"
    (run / "checkpoints" / "best.ckpt").write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())
    with pytest.raises(InputError, match=r"cannot read .*best.ckpt: .*; train the run again"):
        add_tracks(config(run, new_catalogue(tmp_path / "new.json")), [])
    assert not mark.exists()


def test_a_run_from_shards_does_not_say_where_its_attributes_are(tmp_path: Path, config: Config) -> None:
    words = ("model.parts=[track,artist,tags]", "datamodule.attributes={tags: {kind: values, most_shared: 1.0}}")
    run = finished_run(tmp_path / "run", "convex", *words, tags=Values.from_lists(TAGS))
    given = OmegaConf.load(run / "config.yaml")
    del given.datamodule["attributes"]
    OmegaConf.save(given, run / "config.yaml")
    with pytest.raises(InputError, match=r"cannot know where .*new.json has tags, because .* from shards; train a run"):
        add_tracks(config(run, new_catalogue(tmp_path / "new.json")), [])


@pytest.mark.parametrize("stage", ["tracks.json", "recommendations.jsonl"])
def test_an_interruption_leaves_nothing_and_the_folder_can_be_used_again(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    run, catalogue = finished_run(tmp_path / "run", "artist"), new_catalogue(tmp_path / "new.json")
    replace_file = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target.name == stage:
            raise KeyboardInterrupt
        return replace_file(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            add_tracks(config(run, catalogue), [])
    assert list((tmp_path / "added").iterdir()) == []
    assert add_tracks(config(run, catalogue), [])["num_added"] == 4


def test_a_folder_with_added_tracks_gets_no_more(tmp_path: Path, config: Config) -> None:
    run, catalogue = finished_run(tmp_path / "run", "artist"), new_catalogue(tmp_path / "new.json")
    add_tracks(config(run, catalogue), [])
    with pytest.raises(InputError, match=r"holds a run already"):
        add_tracks(config(run, catalogue), [])
    again = config(tmp_path / "added", catalogue)
    again.run_dir = str(tmp_path / "third")
    with pytest.raises(InputError, match=r"was not trained, but has tracks that were added to a run; name that run"):
        add_tracks(again, [])
