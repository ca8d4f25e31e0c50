"""Which previews may be heard."""

import json
from pathlib import Path
from typing import Any

import pytest

from segue.errors import InputError
from segue.serving.room.previews import LOCAL, Previews
from segue.serving.room.proxy import RoomSettings


def catalogue(folder: Path, audio: list[Any]) -> Path:
    lines = (json.dumps({"track": track, "title": "", "artist": None, "audio": one}) for track, one in enumerate(audio))
    (folder / "tracks.json").write_text("\n".join(lines))
    return folder / "tracks.json"


def test_only_what_the_operator_allows_is_heard(tmp_path: Path) -> None:
    heard, secret = tmp_path / "heard", tmp_path / "secret"
    for folder in (heard, secret):
        folder.mkdir()
        (folder / "a.mp3").write_bytes(b"sound of " + folder.name.encode())
    (heard / "link.mp3").symlink_to(secret / "a.mp3")
    (heard / "a.txt").write_text("no sound")
    allowed = {"heard/a.mp3": LOCAL, "https://a.example/x.mp3": "https://a.example/x.mp3"}
    refused = (
        "secret/a.mp3",
        "heard/../secret/a.mp3",
        str(secret / "a.mp3"),
        "heard/link.mp3",
        "heard/a.txt",
        "heard/none.mp3",
        "http://a.example/x.mp3",
        "https://a.example.evil.example/x.mp3",
        "https://a.example@evil.example/x.mp3",
        "https://a.example:444/x.mp3",
        "javascript://a.example/%0aalert(1)",
        "file:///etc/passwd",
    )
    file = catalogue(tmp_path, [*allowed, *refused, None, "", 7])
    previews = Previews(file, [str(heard), "https://a.example"])
    assert [previews.of(track) for track in range(len(allowed) + len(refused) + 4)] == [
        *allowed.values(),
        *[None] * (len(refused) + 4),
    ]
    assert previews.num_refused == len(refused)
    assert previews.read(0) == ("audio/mpeg", b"sound of heard")
    assert previews.read(1) is previews.read(2) is previews.read(99) is None
    (heard / "a.mp3").unlink()
    (heard / "a.mp3").symlink_to(secret / "a.mp3")
    assert previews.read(0) is None, "what is read is checked again"


def test_a_catalogue_without_a_preview_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'no track has a preview; a line of it is \{"track": 1, …, "audio": "1.mp3"'):
        Previews(catalogue(tmp_path, [None]), [str(tmp_path)])


@pytest.mark.parametrize(
    "host", ["https://a.example/", "https://a.example; script-src *", "https://*.example", "a.example", "https://"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InputError, match=r"room\.audio_from: .* is neither a folder nor a host such as"):
        RoomSettings(audio_from=[host])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"audio": __file__}, "room.audio plays nothing without room.audio_from"),
        ({"audio": "gone.json", "audio_from": ["https://a.example"]}, "there is no file gone.json"),
        ({"audio_from": "https://a.example"}, "room.audio_from must be a list"),
        ({"mlflow": "127.0.0.1:5000"}, "room.mlflow must be the address of an MLflow UI, such as"),
    ],
)
def test_settings_that_play_or_link_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RoomSettings(**given)
