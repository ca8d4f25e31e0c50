"""Nothing of the test reaches training: data in which it would show as an impossible score."""

from pathlib import Path

import numpy as np
import pytest

from segue.catalog import Listens, Vocabulary
from segue.datamodules.pairs.pairs import Pairs
from segue.errors import InputError
from segue.models.baselines.counting import Rules
from tests.datamodules.presets import exports, research
from tests.datamodules.presets.cases import CASES, OF_EACH_KIND, PRESETS, WITHOUT_CLOCK, datamodule
from tests.datamodules.presets.plays import Play, listening, unpredictable


def recall(vocabulary: Vocabulary, listens: Listens, pairs: Pairs) -> float:
    """Share of pairs whose second track has followed the first one in the sessions that a model was fitted to."""
    rules = Rules(vocabulary, window=1, decay=1.0, reverse_weight=0, artist_weight=0)
    return float((np.asarray(rules.count(listens)[pairs.previous, pairs.following]) > 0).mean())


@pytest.mark.parametrize("name", PRESETS)
def test_what_only_the_test_shows_cannot_be_predicted(name: str, tmp_path: Path) -> None:
    """No two sessions have the same pair: a model that predicts any pair of the test has seen the test."""
    case = CASES[name]
    case.layout(tmp_path, case.plays(unpredictable, 320))
    usual = "session" if name in WITHOUT_CLOCK else "time"
    for split in ("time", "session", "pair") if name in OF_EACH_KIND else (usual,):
        module = datamodule(name, tmp_path, split=split)
        if split == "time" and name in WITHOUT_CLOCK:
            with pytest.raises(InputError, match="split=time needs timestamps"):
                module.setup()
            continue
        module.setup()
        vocabulary, train = module.vocabulary, module.pairs["train"]
        for part in ("val", "test"):
            assert recall(vocabulary, vocabulary.listens, module.pairs[part]) == 0.0
        assert recall(vocabulary, vocabulary.listens, train) == 1.0
        assert recall(vocabulary, module.sessions.listens, module.pairs["test"]) == 1.0  # what a leak looks like
        num_tracks = len(module.catalog)
        assert vocabulary.previous_counts.tolist() == np.bincount(train.previous, minlength=num_tracks).tolist()
        assert vocabulary.next_counts.tolist() == np.bincount(train.following, minlength=num_tracks).tolist()
        if name != "playlists_mpd" and split != "pair":  # each session is one pair
            plays = np.bincount(np.concatenate([train.previous, train.following]), minlength=num_tracks)
            assert vocabulary.plays.tolist() == plays.tolist()


def test_the_longest_play_that_shares_are_divided_by_is_of_training(tmp_path: Path) -> None:
    """In training each track is played for 100 seconds or for 50, in the test for 400: a leak would make 0.25 of 1."""
    plays = [
        play._replace(seconds=400 if play.session >= 56 else 100 - 50 * (play.session % 2))
        for play in unpredictable(users=1, sessions=64)
    ]
    exports.spotify_short(tmp_path, plays)
    module = datamodule("spotify_short", tmp_path)
    module.setup()
    shares = {name: set(pairs.played_ratio.tolist()) for name, pairs in module.pairs.items()}
    assert shares["train"] == {0.5, 1.0}
    assert shares["test"] <= {1.0}


def test_a_track_is_rare_if_it_is_in_training(tmp_path: Path) -> None:
    """Track 0 is played ten times after all other sessions, which is in the test: these plays do not count."""
    plays = [play for play in listening(users=40, sessions=4) if play.track]
    last = plays[-1].start + 86_400
    for number in range(10):
        plays += [Play(39, 4 + number, last + number * 86_400, track, 60) for track in (0, 1)]
        plays[-1] = plays[-1]._replace(start=plays[-1].start + 61)
    research.music4all_onion(tmp_path, plays)
    kept = datamodule("music4all_onion", tmp_path)
    kept.setup()
    [first] = [row for row, text in enumerate(kept.catalog.track_ids) if text.endswith("P00")]
    assert first in kept.pairs["test"].previous
    assert kept.vocabulary.plays[first] == 0
    module = datamodule("music4all_onion", tmp_path, policies={**kept.rules.policies.__dict__, "min_count": 2})
    module.setup()
    assert first not in module.pairs["test"].previous
