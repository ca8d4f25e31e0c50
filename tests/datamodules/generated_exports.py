"""Exports that nobody tuned for, drawn with a seed: names, languages, formats and defects, with what is right."""

import csv
import gzip
import io
import json
import random
import string
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import pandas as pd

START = datetime(2025, 1, 6, 8, tzinfo=UTC)
Row = dict[str, Any]
Write = Callable[[datetime], object]
LANGUAGES = {
    "German": ("Hörer", "Zeitpunkt", "Titel", "Künstler", "Spielzeit (s)", "Länge (s)"),
    "French": ("utilisateur", "date d'écoute", "morceau", "artiste", "temps écouté", "durée"),
    "Spanish": ("usuario", "fecha y hora", "canción", "intérprete", "tiempo_escuchado", "duración"),
    "Portuguese": ("ouvinte", "data e hora", "faixa", "cantor", "tempo_ouvido", "duração"),
    "Italian": ("utente", "data e ora", "brano", "cantante", "tempo ascolto", "durata"),
    "Russian": ("слушатель", "время", "название", "исполнитель", "прослушано секунд", "длительность"),
    "Polish": ("użytkownik", "data", "utwór", "wykonawca", "czas odtwarzania", "długość"),
    "Turkish": ("kullanıcı", "tarih", "şarkı", "sanatçı", "dinleme süresi", "süre"),
    "Japanese": ("yuzaa", "saisei_nichiji", "kyokumei", "kashu", "saisei_jikan", "nagasa"),
    "English": ("customer_id", "started_at", "tune", "band", "listening_time", "song_length"),
}
ROLES = ("user", "timestamp", "title", "artist", "played", "duration")
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
_TITLES = {
    "German": "Über den Wolken", "French": "Où est l'été", "Spanish": "¿Dónde está el niño?", "Italian": "Perché no",
    "Portuguese": "Coração, não", "Russian": "Звезда", "Polish": "Zażółć gęślą jaźń", "Turkish": "Işıl ışıl, güneş",
    "Japanese": "Ue o muite", "English": "Song; \u201cquoted\u201d",
}  # fmt: skip


class Play(NamedTuple):
    """A play, and whether it is read."""

    user: str
    at: datetime
    title: str
    artist: str
    played: int
    length: int
    is_read: bool = True


def plays(num: int = 300, *, seed: int = 1, block: int = 60, title: str = "Song") -> list[Play]:
    """Plays of five listeners in the order of time, with a night after each block of them."""
    rng = random.Random(seed)
    now, rows = START, []
    for n in range(num):
        now += timedelta(seconds=rng.randint(20, 400), hours=10 * (n % block == block - 1))
        song = rng.randrange(40)
        length = 120 + 7 * song
        played = length if rng.random() < 0.5 else rng.randint(1, length)
        rows.append(Play(f"L{rng.randrange(5)}", now, f"{title} {song}", f"Band {song // 3}", played, length))
    return rows


def iso(time: datetime) -> str:
    """A time as in ISO 8601, in UTC."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def local(format_: str, zone: str = "UTC") -> Write:
    """Times of a format of strftime, in a zone."""
    return lambda time: time.astimezone(ZoneInfo(zone)).strftime(format_)


WRITTEN: dict[str, tuple[Write, str]] = {
    "iso": (iso, "iso"),
    "seconds": (lambda time: int(time.timestamp()), "s"),
    "milliseconds": (lambda time: int(time.timestamp() * 1000), "ms"),
    "microseconds": (lambda time: int(time.timestamp() * 1e6), "us"),
}
"""How times are written, and the unit that they are seen to have."""


@dataclass(kw_only=True)
class Export:
    """An export, and what is right.

    Args:
        path: the file or the folder.
        names: the column of each role.
        plays: all plays.
        says: pattern of a line that a run prints.
        refused: pattern of the refusal; None if it is read.
    """

    path: Path
    names: dict[str, str]
    plays: list[Play]
    says: list[str] = field(default_factory=list)
    refused: str | None = None


class _Writer:
    """Draws an export and writes it to a folder."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = rng = random.Random(seed)
        language = [*LANGUAGES][(seed + seed // 10) % len(LANGUAGES)]  # twenty seeds in a row have all of them
        self.defect = _DEFECTS[seed % len(_DEFECTS)]
        format_ = rng.choice(_FORMATS)
        names = [name if rng.random() < 0.8 else self.random_name() for name in LANGUAGES[language]]
        names[2] = LANGUAGES[language][2] if rng.random() < 0.9 else names[2]
        self.names = dict(zip(ROLES, names, strict=True))
        self.format = format_
        self.plays = plays(rng.randint(300, 500), seed=seed, block=15, title=_TITLES[language])
        self.export = Export(path=folder / f"export.{format_}", names=self.names, plays=self.plays)
        self.encoding = rng.choice(_ENCODINGS)
        self.delimiter = rng.choice(",;\t|")
        self.end = rng.choice(["\n", "\r\n", "\r"])
        quotings: list[Literal[0, 1]] = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL]
        self.quoting = rng.choice(quotings)
        self.way = rng.choice([*WRITTEN])
        if format_ == "spreadsheet":
            self.encoding, self.delimiter, self.end, self.way = "utf-8-sig", ";", "\r\n", "iso"
        self.write_time = WRITTEN[self.way][0]
        self.has_minutes = rng.random() < 0.3 and format_ in _OF_TEXT  # 3:25

    def random_name(self) -> str:
        return "q" + "".join(self.rng.choices(string.ascii_lowercase, k=4))

    def some(self, num: int) -> list[int]:
        """Places of plays in the middle."""
        return sorted(self.rng.sample(range(20, len(self.plays) - 20), num))

    def rows(self) -> list[Row]:
        """The plays as rows."""
        names, found = self.names, []
        device = self.rng.random() < 0.5
        for n, play in enumerate(self.plays):
            row: Row = {names["user"]: play.user, names["timestamp"]: self.write_time(play.at)}
            amounts = [f"{n // 60}:{n % 60:02}" if self.has_minutes else n for n in (play.played, play.length)]
            row |= {names["title"]: play.title, names["artist"]: play.artist}
            row |= {names["played"]: amounts[0], names["duration"]: amounts[1]}
            found.append({**row, **({"device": ["phone", "car"][n % 2], "bpm": 90 + n % 50} if device else {})})
        return found

    def as_text(self, rows: Sequence[Row]) -> str:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(
            out, list(rows[0]), delimiter=self.delimiter, quoting=self.quoting, lineterminator=self.end
        )
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def write(self) -> Export:
        getattr(self, f"_{self.defect}")()
        rows = self.rows()
        getattr(self, f"_{self.defect}_rows", lambda _: None)(rows)
        path, format_ = self.export.path, self.format
        if format_ == "parquet":
            frame = pd.DataFrame(rows)
            frame = frame.astype({name: str for name in frame if frame[name].map(type).nunique() > 1})
            if self.rng.random() < 0.5:  # nested
                inner = [self.names["title"], self.names["artist"]]
                frame["track"] = pd.Series(frame[inner].to_dict("records"))
                frame = frame.drop(columns=inner)
                self.names |= {role: f"track.{self.names[role]}" for role in ("title", "artist")}
            frame.to_parquet(path, index=False)
        elif format_ in ("json", "jsonl"):
            texts = [json.dumps(row, ensure_ascii=False) for row in rows]
            text = "[" + ",\n".join(texts) + "]" if format_ != "jsonl" else "".join(text + self.end for text in texts)
            path.write_bytes(text.encode())
        else:
            self._write_text(rows)
        if self.names["title"].rpartition(".")[2].startswith("q"):
            self.export.refused = r"has the columns .*; give datamodule.columns.track= or datamodule.columns.title="
        return self.export

    def _write_text(self, rows: Sequence[Row]) -> None:
        path, format_ = self.export.path, self.format
        text = self.as_text(rows)
        if format_ == "spreadsheet":
            self.export.path = path = path.with_suffix(".csv")
        content = text.encode(self.encoding)
        if format_ == "csv.gz":
            content = gzip.compress(content, 1)
        elif format_ == "zip":
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as file:
                file.writestr("My Export/plays.csv", content)
                file.writestr("My Export/README.md", "x")
            content = packed.getvalue()
            self.export.says.append(r"files +not read: My Export/README.md; datamodule.files.pattern=")
        elif format_ == "folder":
            path.mkdir()
            half = len(rows) // 2
            (path / "2024.csv").write_bytes(self.as_text(rows[:half]).encode(self.encoding))
            (path / "README.txt").write_text("x")
            path, content = path / "2025.csv", self.as_text(rows[half:]).encode(self.encoding)
            self.export.says.append(r"files +not read: README.txt; datamodule.files.pattern=")
        path.write_bytes(content)

    # defects: what they change, and what is said

    def _none(self) -> None:
        pass

    def _future(self) -> None:
        for n in range(2):
            at = datetime(2090, 5, 4, 20, n, tzinfo=UTC)
            self.plays.append(self.plays[n]._replace(at=at, is_read=False))
        self.export.says.append(r"warning +2 plays .* are later than today, .*datamodule.policies.until=")

    def _repeated(self) -> None:
        for n in reversed(self.some(15)):
            self.plays.insert(n, self.plays[n]._replace(is_read=False))
        self.export.says.append(r"left out +15 by duplicates")

    def _missing(self) -> None:
        for n in self.some(2):
            self.plays[n] = self.plays[n]._replace(title="", is_read=False)
        self.export.says.append(r"row|line \d+: .* is empty")

    def _no_time(self) -> None:
        for n in self.some(2):
            self.plays[n] = self.plays[n]._replace(is_read=False)
        self.export.says.append(r"(row|line) \d+: .* must be .*, got ")

    def _no_time_rows(self, rows: list[Row]) -> None:
        for play, row in zip(self.plays, rows, strict=True):
            if not play.is_read:
                row[self.names["timestamp"]] = "unknown"


_OF_TEXT = ("csv", "txt", "csv.gz", "zip", "folder", "spreadsheet")
_FORMATS = (*_OF_TEXT, "jsonl", "json", "parquet", "parquet")
_DEFECTS = ("none", "future", "repeated", "missing", "no_time")


def generated_export(seed: int, folder: Path) -> Export:
    """Draw an export and write it.

    Args:
        seed: the same seed gives the same export.
        folder: where it is written.
    """
    return _Writer(seed, folder).write()
