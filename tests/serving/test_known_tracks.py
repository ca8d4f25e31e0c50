"""From release to release an id keeps its meaning: new ones, kept ones, changed ones, and rollbacks."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.catalog import Catalog, Id, key_of
from segue.errors import InputError
from segue.picking.arm import Arm
from segue.serving.known_tracks import change_of, with_kept
from segue.serving.recommender import Recommender
from segue.serving.release import Release
from segue.serving.release_store import FolderStore
from segue.serving.session_memory import Played
from tests.conftest import make_search, make_vectors
from tests.serving.conftest import arm, lists_of, make_release

Songs = Mapping[Id, tuple[str, str | None]]
"""Title and artist of each id."""


def released(folder: Path, songs: Songs, **changes: Any) -> Release:
    """Each track is followed by all others."""
    catalog = Catalog.from_columns(
        list(songs), [title for title, _ in songs.values()], [artist for _, artist in songs.values()], source="a test"
    )
    num = len(songs)
    rows = [[(row + step) % num for step in range(1, num)] for row in range(num)]
    given: dict[str, Any] = {"arms": {"C": arm()}, "lists": {"C": lists_of(rows)}, "top_tracks": range(num)}
    return make_release(folder, catalog=catalog, **given | changes)


def kept_in(old: Release, new: Release, folder: Path) -> Release:
    folder.mkdir(exist_ok=True)
    return with_kept(change_of(old, new), old, new, folder)


def ids_at(release: Release, rows: Any) -> list[Id]:
    return [release.id_of(row) for row in rows.tolist()]


def songs_of(release: Release) -> dict[Id, tuple[str, str | None]]:
    records = map(release.track, range(len(release)))
    return {record["track"]: (record["title"], record["artist"]) for record in records}


IDS = st.sampled_from(["7", "12", "a", "b", "ü/1", "c" * 36])
SONGS = st.dictionaries(
    IDS, st.tuples(st.sampled_from(["", "One", "Two", "Ñ"]), st.sampled_from([None, "Ann", "Bob", "🎵"])), min_size=1
)


@settings(max_examples=30)
@given(before=SONGS, after=SONGS)
def test_ids_are_compared_and_kept_as_a_loop_does(before: Any, after: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        old, new = released(Path(name, "old"), before), released(Path(name, "new"), after)
        change = change_of(old, new)
        changed = [
            one
            for one in before.keys() & after.keys()
            if any(was and now and was != now for was, now in zip(before[one], after[one], strict=True))
        ]
        assert change.num_new == len(after.keys() - before.keys())
        assert {str(old.id_of(row)) for row in change.missing.tolist()} == before.keys() - after.keys()
        assert {str(new.id_of(row)) for row in change.changed.tolist()} == set(changed)
        assert (old.catalogue == new.catalogue) == ({**before} == {**after})
        release = kept_in(old, new, Path(name, "kept"))
        known = {**before, **after}
        assert {str(one): song for one, song in songs_of(release).items()} == known
        assert (np.diff(release.keys) > 0).all()
        assert [key_of(release.id_of(row)) for row in range(len(release))] == release.keys.tolist()
        assert {str(release.id_of(row)) for row in release.kept.tolist()} == before.keys() - after.keys()
        for row in range(len(release)):
            one = str(release.id_of(row))
            listed = [str(entry["track"]) for entry in release.recommended("C", row)]
            assert listed == ([] if one not in after else list(map(str, new.recommended_ids(new.row_of(key_of(one))))))
            artist = known[one][1]
            own = {other for other in after if artist and after[other][1] == artist} | ({one} & after.keys())
            assert set(map(str, ids_at(release, release.artists.by(int(release.artist_of[row]))))) == own
        assert [*map(str, ids_at(release, release.top_tracks))] == [*map(str, ids_at(new, new.top_tracks))]
        again = kept_in(release, new, Path(name, "again"))
        assert again.version == release.version, "the next start of the same release changes nothing"


NEW: Songs = {f"t{number}": (f"Title {number}", ["Ann", "Bob"][number % 2]) for number in range(6)}
OLD: Songs = {"gone": ("Gone", "Ann"), **NEW}


@pytest.mark.parametrize(
    "how",
    [
        arm(),
        arm(pick="ranked", artist_gap=1),
        arm("random"),
        arm("popular"),
        arm("sticky_artist"),
        arm(context="session", num_lists=2, pick="ranked"),
        arm(context="session", num_lists=2, pick="uniform"),
    ],
    ids=lambda how: how.describe(),
)
def test_a_kept_track_is_answered_and_never_recommended(tmp_path: Path, how: Arm) -> None:
    """Also where nothing but the fallbacks is left, and beside other tracks of a session."""
    rng = np.random.default_rng(0)
    vectors = {"C": make_vectors(6)} if how.is_of_session else {}
    lists = lists_of([[(row + 1) % 6] for row in range(6)])
    given = {"arms": {"C": how}, "lists": {"C": lists} if how.has_lists else {}, "vectors": vectors}
    old, new = released(tmp_path / "old", OLD), released(tmp_path / "new", NEW, **given)
    release = kept_in(old, new, tmp_path / "kept")
    recommender, gone = Recommender(release, rng), release.row_of(key_of("gone"))
    assert release.kept.tolist() == [gone]
    sources = set()
    for length in (1, 3, 9):
        for _ in range(40):
            keys = [*rng.permutation(release.keys)[: length - 1].tolist(), int(release.keys[gone])]
            found = recommender.follow("C", 1, gone, Played(keys, [1.0] * len(keys)))
            assert found.row != gone
            assert found.propensity > 0
            sources.add(found.fallback)
    if how.has_lists and not how.is_of_session:
        assert sources <= {"artist", "popular", "random"}
        assert "artist" in sources


def test_a_kept_track_adds_nothing_to_a_query_and_the_bias_of_items_stays(tmp_path: Path) -> None:
    vectors = make_vectors(6)
    vectors.queries[:, -1] = 1
    given = {"arms": {"C": arm(context="session", num_lists=2)}, "vectors": {"C": vectors}}
    old, new = released(tmp_path / "old", OLD), released(tmp_path / "new", NEW, **given)
    release = kept_in(old, new, tmp_path / "kept")
    gone, rows = release.row_of(key_of("gone")), [release.row_of(key_of(f"t{number}")) for number in (0, 3)]
    found, expected = (
        make_search(one.vectors["C"], one.lists["C"], one.artist_of, num_lists=3).best(
            np.array([[first, *others]]), np.ones((1, 3), np.float32), 5
        )[0]
        for one, first, others in (
            (release, gone, rows),
            (new, -1, [new.row_of(key_of(f"t{number}")) for number in (0, 3)]),
        )
    )
    assert ids_at(release, found[found >= 0]) == ids_at(new, expected[expected >= 0])
    assert (found >= 0).any()


def write(songs: Songs) -> Any:
    def write_into(folder: Path) -> str:
        released(folder, songs)
        return ""

    return write_into


def test_a_store_keeps_ids_through_loads_and_rollbacks(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", keep=5)
    first = store.load_next(write({"a": ("One", "Ann"), "b": ("Two", "Bob")}))
    assert first.change is None
    second = store.load_next(write({"b": ("Two", "Bob"), "c": ("Three", "Cy")}))
    assert str(second.change) == "1 new, 1 kept without lists"
    with pytest.raises(InputError, match=r"^track a is 'Another' by 'Ann' in the new release and 'One' by 'Ann'"):
        store.load_next(write({"a": ("Another", "Ann")}))
    assert store.index().current == second.version
    back = store.rollback()
    assert store.index().versions == [back, second.version], "it takes the place of the first one"
    release = store.open()
    assert songs_of(release).keys() == {"a", "b", "c"}
    assert ids_at(release, release.kept) == ["c"]
    assert release.extends == [first.version]
    assert {path.name for path in store.folder.iterdir() if path.is_dir()} == {back, second.version}
    changed = store.load_next(write({"a": ("Another", "Ann")}), accept_changes=True)
    assert str(changed.change) == "0 new, 2 kept without lists, 1 changed"
    assert store.rollback() == back, "which knows all ids of the one after it"
    again = store.load_next(write({"a": ("One", "Ann"), "b": ("Two", "Bob"), "c": ("Three", "Cy")}))
    assert not again.change


def test_a_load_is_refused_if_another_command_changed_the_store_meanwhile(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", keep=5)
    first = store.load_next(write(OLD))

    def write_late(folder: Path) -> None:
        other = store.load_next(write({**NEW, "x": ("X", None)}))
        assert other.version != first.version
        released(folder, NEW)

    with pytest.raises(InputError, match=r"another command changed .* while this one ran; type this one"):
        store.load_next(write_late)
    assert len(store.index().versions) == 2
