"""The layouts of each preset, and its datamodule as a run builds it."""

from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate

from segue.datamodules.pair_datamodule import PairDataModule
from tests.contracts.building import composed
from tests.datamodules.presets import exports, research
from tests.datamodules.presets.plays import Layout, Play, listening


@dataclass(frozen=True)
class Case:
    """A layout of a preset.

    Args:
        preset: value of `datamodule=`.
        layout: writes its files.
        is_export: whether it has one listener.
        file: what to give as path, below the folder.
    """

    preset: str
    layout: Layout
    is_export: bool = False
    file: str = "."

    def plays(self) -> list[Play]:
        """Plays of 160 sessions, by one listener or by several."""
        users = 1 if self.is_export else 40
        return listening(users=users, sessions=160 // users)


ZIP = "listenbrainz_me_1700000000.zip"
CASES = {
    "lastfm_1k": Case("lastfm_1k", exports.lastfm_1k),
    "listenbrainz": Case("listenbrainz", exports.listenbrainz, is_export=True),
    "listenbrainz_zip": Case("listenbrainz", exports.listenbrainz_zip, is_export=True, file=ZIP),
    "listenbrainz_dump": Case("listenbrainz", exports.listenbrainz_dump),
    "listenbrainz_spark": Case("listenbrainz_spark", exports.listenbrainz_spark),
    "spotify": Case("spotify", exports.spotify, is_export=True),
    "spotify_short": Case("spotify_short", exports.spotify_short, is_export=True),
    **{
        layout.__name__: Case(layout.__name__, layout)
        for layout in (
            *(research.yambda, research.yambda_sequential, research.playlists_mpd, research.thirty_music),
            *(research.nowplaying, research.nowplaying_sessions, research.music4all_onion, research.recbole),
            research.kkbox,
        )
    },
}
PRESETS = sorted({case.preset for case in CASES.values()})
"""Each is also the name of a case."""

WITHOUT_CLOCK = ("playlists_mpd", "kkbox", "nowplaying_sessions")


def datamodule(name: str, folder: Path, **settings: object) -> PairDataModule:
    """The datamodule of a preset, as a run builds it; rejected rows go to `out/` of the folder."""
    case = CASES[name]
    places = {"path": str(folder / case.file), "rejected_path": str(folder / "out/rejected.jsonl")}
    config = composed(f"datamodule={case.preset}").datamodule
    built: PairDataModule = instantiate(config, **places, **settings, _convert_="all")
    return built
