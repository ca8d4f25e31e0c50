"""A model that is fitted to plays and recommends what follows. It holds a run folder, and nothing else."""

import difflib
import html
import io
import json
import operator
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int64

from segue.catalog import Id, id_problem, quoted
from segue.errors import InputError
from segue.runs.folder import REFIT, RunRecord
from segue.verbs.api.calling import Folder, call, refuse_used, words_of
from segue.verbs.api.plays import Plays, plays_of
from segue.verbs.train import read_data, train

if TYPE_CHECKING:
    from segue.models.fitted import FittedModel

_LAST = "last.ckpt"
_OF_DATA = "datamodule__"
_USUAL = {"model": "convex", "context": None, "seed": 1}
# Beginnings of words of a run that say what it read and where it wrote.
_NOT_OPTIONS = ("datamodule", "hydra.", "run_dir", "resume", "trust", "parent_run_id", "swept", "trial")
_SHOWN = ("recall_at_10", "ndcg_at_10", "mrr")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of a model on one split, with its floors and rivals.

    Args:
        table: a line for the model, each floor and each rival; for each metric its mean, and the ends `<metric>_lower`
            and `<metric>_upper` of the interval over sessions, which floors do not have.
        metrics: all metrics of the model by name, as `train.py` reports them.
        queries: a line for each query of the model: session, previous and following track, rank, metrics.
        split: `val` or `test`.
        notes: what is left out, and what the model may have learned, where the plays are not those of the fit.
    """

    table: pd.DataFrame
    metrics: Mapping[str, float]
    queries: pd.DataFrame
    split: str
    notes: Sequence[str] = ()

    def _shown(self) -> pd.DataFrame:
        names = [name for name in self.table.columns if f"{name}_lower" in self.table]
        cells = {
            name: [
                f"{mean:.4f}" + ("" if np.isnan(lower) else f" [{lower:.4f}, {upper:.4f}]")
                for mean, lower, upper in self.table[[name, f"{name}_lower", f"{name}_upper"]].itertuples(index=False)
            ]
            for name in names
        }
        return type(self.table)(cells, index=self.table.index)

    def __repr__(self) -> str:
        sessions = self.queries["session"].nunique()
        head = f"{self.split}: {len(self.queries):,} queries of {sessions:,} sessions"
        return "\n".join([head, *self.notes, self._shown().to_string()])

    def _repr_html_(self) -> str:
        lines = repr(self).splitlines()[: 1 + len(self.notes)]
        return f"<p>{'<br>'.join(map(html.escape, lines))}</p>{self._shown().to_html()}"


class Gain(NamedTuple):
    """How much better one run ranks the next tracks of sessions than another, in ndcg@10.

    Attributes:
        difference: the mean of one less that of the other, over the same queries.
        lower: lower end of its 95 % interval over sessions; NaN with one session.
        upper: upper end.
    """

    difference: float
    lower: float
    upper: float


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the name that Python accepts: `model__alpha`."""
    return {name.replace(".", "__"): value for name, value in options.items()}


def _whole(name: str, value: Any, most: int) -> int:
    """A number of results.

    Raises:
        InputError: it is no whole number from 1 to `most`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if not 1 <= number <= most:
        raise InputError(f"{name} must be a whole number in [1, {most}], got {value!r}: there are no more candidates")
    return number


def _differing(params: Mapping[str, Any], without: Sequence[str] = ()) -> list[str]:
    """The settings that differ from the usual ones."""
    return [
        f"{name}={value!r}"
        for name, value in params.items()
        if name not in without and (name not in _USUAL or value != _USUAL[name])
    ]


def _chosen(run_dir: Path) -> dict[str, str]:
    """The model, recipe and context that the command of a run named, or that `recipe=auto` chose for it."""
    pairs = (word.partition("=") for word in RunRecord.read(run_dir).overrides)
    return {key: value for key, _, value in pairs if key in ("model", "recipe", "context")}


class Recommender:
    """A model and its settings; `fit` trains it, as `train.py` does.

    Args:
        model: a head, such as `convex`, or a baseline, such as `popular`: the choices of `model=`. None: validation
            chooses among recipes and counting models, as `train.py` does where no model is named.
        context: what a query is made of, `last`, `session`, `gru4rec`, `sasrec` or `listener`; None: as the recipe of
            the plays says. With `listener`, `next` and `explain` are of the session alone: they have no listener.
        seed: decides every random number; 0 or more.
        random_state: another name of `seed`.
        options: any option of `train.py` by name: `model__alpha=0.9` is `model.alpha=0.9`. Columns of a table in memory
            are `datamodule__columns={"user": "listener"}`, or are given to `read_plays`.

    Raises:
        InputError: `seed` and `random_state` are both given.

    `get_params` and `sklearn.base.clone` work as in scikit-learn. A fitted model can be pickled and
    copied. It writes nothing outside of the folder that `fit` or `save` names, and nothing to MLflow, unless
    `logger="mlflow"` asks for it.
    """

    def __init__(
        self,
        model: str | None = "convex",
        *,
        context: str | None = None,
        seed: int = 1,
        random_state: int | None = None,
        **options: Any,
    ) -> None:
        if random_state is not None:
            if seed != _USUAL["seed"]:
                raise InputError(f"seed={seed} and random_state={random_state} are two names of one option; give one")
            seed = random_state
        self._params: dict[str, Any] = {"model": model, "context": context, "seed": seed, **_named(options)}
        self._of_fit: dict[str, Any] = {}  # the settings that the files are of
        self._place: Folder | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 - the name is that of scikit-learn
        """Return the settings.

        Args:
            deep: ignored; no setting has settings of its own.

        Returns:
            Values by name: what the constructor takes.
        """
        return dict(self._params)

    def _words(self, params: Mapping[str, Any]) -> list[str]:
        if named := [name for name in params if name.startswith(("run_dir", "hydra", "datamodule__path"))]:
            raise InputError(f"{named[0]} is no option of fit; folder= names the run folder, and plays are the data")
        left_out = {name for name in ("model", "context") if params.get(name) is None}
        return words_of({name: value for name, value in params.items() if name not in left_out})

    def fit(self, plays: Any, folder: str | Path | None = None) -> "Recommender":
        """Train on plays, choose the best epoch on validation sessions, test it, and keep the run.

        Where the newest sessions test, a model of the same recipe then learns all sessions, and this one recommends;
        the metrics are those of the model that was tested. `refit="none"` keeps that one.

        Args:
            plays: what `read_plays` returned, or what it takes.
            folder: where the run is written, which must be empty or missing; a temporary folder by default.

        Returns:
            Itself, fitted.

        Raises:
            InputError: the plays cannot be read, or an option is unknown or out of range.
        """
        plays = self._read(plays)
        place = Folder(None if folder is None else refuse_used(folder), str(self._params["model"]))
        logger = [] if "logger" in self._params else ["logger=none"]
        call(train, [*plays.words, *logger, *self._words(self._params)], place, plays.names)
        self._forget()
        self._place = place
        of_auto = ("recipe", "recipe__candidates") if self._params.get("recipe") == "auto" else ()
        usual = {name: value for name, value in self._params.items() if name not in of_auto}
        self._of_fit = {**usual, "model": self._params["model"] or _USUAL["model"], **_chosen(place.path)}
        return self

    def _read(self, plays: Any) -> Plays:
        """Plays as they are, or read with the settings `datamodule__…`."""
        own = {name.removeprefix(_OF_DATA): value for name, value in self._params.items() if name.startswith(_OF_DATA)}
        return plays if isinstance(plays, Plays) else plays_of(plays, None, own)

    def _forget(self) -> None:
        for name in ("_model", "_evaluated", "metrics"):
            self.__dict__.pop(name, None)

    @property
    def folder(self) -> Path:
        """The run folder of the fitted model.

        Raises:
            InputError: it is not fitted.
        """
        if self._place is None:
            raise InputError(f"{self!r} is not fitted; call fit(plays) first")
        return self._place.path

    @cached_property
    def metrics(self) -> dict[str, int | float]:
        """What the run measured, by name: `val/…` of the best epoch, `test/…`, and how long training took."""
        found = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    @cached_property
    def _model(self) -> "FittedModel":
        from segue.models.fitted import FittedModel

        return FittedModel.read(self.folder, str(self._of_fit["model"]), trust=self._of_fit.get("trust"))

    @cached_property
    def _evaluated(self) -> "FittedModel":
        """The model that was tested: it has learned the training sessions alone."""
        from segue.models.fitted import FittedModel

        given = self._of_fit
        return FittedModel.read(self.folder, str(given["model"]), evaluated=True, trust=given.get("trust"))

    @property
    def tracks(self) -> pd.DataFrame:
        """The tracks that it can recommend: id, title, artist and plays in training."""
        return self._frame(np.arange(len(self._model.catalog))).assign(plays=self._model.plays)

    def _frame(self, rows: Int64[np.ndarray, "n"]) -> pd.DataFrame:
        catalog = self._model.catalog
        columns = {"id": catalog.track_ids[rows], "title": catalog.titles[rows]}
        return pd.DataFrame({**columns, "artist": catalog.artists[catalog.artist_of[rows]]})

    def _rows_of(self, session: Id | Sequence[Id] | np.ndarray) -> Int64[np.ndarray, "n"]:
        """Rows of the tracks of a session, oldest first."""
        given: Any = session
        several = not isinstance(given, str) and hasattr(given, "__iter__") and getattr(given, "ndim", 1) == 1
        ids: list[Any] = [one.item() if isinstance(one, np.generic) else one for one in (given if several else [given])]
        if wrong := [(one, why) for one in ids if (why := id_problem(one))]:
            raise InputError(f"{wrong[0][0]!r} is no id of a track: it {wrong[0][1]}")
        if not ids:
            raise InputError("a session needs at least one track")
        rows = self._model.catalog.rows_of(ids)
        if unknown := [one for one, row in zip(ids, rows.tolist(), strict=True) if row < 0]:
            num = len(self._model.catalog)
            raise InputError(f"track {quoted(unknown[0])} is not among the {num:,} tracks of this model (model.tracks)")
        return rows

    def next(
        self, session: Id | Sequence[Id] | np.ndarray, k: int = 10, *, played: Sequence[float] | None = None
    ) -> pd.DataFrame:
        """Recommend what should follow a track or a session.

        Args:
            session: id of a track, or ids of the tracks of a session, oldest first. A model of one previous track uses
                the last one.
            k: number of recommendations, 1 <= k < N.
            played: share of each track of the session that was played, in [0, 1]; unknown by default.

        Returns:
            A line for each recommendation, best first: `id`, `title`, `artist`, `score`.

        Raises:
            InputError: a track is not in the catalogue, or `k` or a share is out of range.
        """
        rows = self._rows_of(session)
        try:
            shares = np.full(len(rows), np.nan) if played is None else np.asarray(played, float)
        except (TypeError, ValueError):
            shares = np.empty(0)
        if shares.shape != rows.shape or ((shares < 0) | (shares > 1)).any():
            raise InputError(f"played={played!r} must have a share in [0, 1] for each of the {len(rows)} tracks")
        k = _whole("k", k, len(self._model.catalog) - 1)
        found, scores = self._model.top(rows, shares.astype(np.float32), k)
        return self._frame(found).assign(score=scores)

    def evaluate(self, plays: Any, split: str = "test", rivals: Sequence[str] = ()) -> Evaluation:
        """Rank the tracks that followed in sessions that the model has not learned, among all tracks.

        Args:
            plays: the plays that it was fitted to, from `read_plays` or as it takes them: the model that has not
                learned the split is tested. Or other plays, such as those of later days: the model that recommends is
                tested on all of their sessions; plays of tracks that it does not know are left out and counted.
            split: `test`, or `val`: the sessions that chose the epoch. Other plays are a test as a whole.
            rivals: models that are fitted to the same plays, with the same seed and the same query, the last track or
                the session, such as `popular`, `rules` or `vstan`.

        Returns:
            Metrics with intervals over sessions, also of the floors `popular` (the most played tracks) and, for the
            plays of the fit, `counts` (what followed most often), and of the rivals.

        Raises:
            InputError: the model knows none of the tracks, `split` is unknown, a rival cannot be fitted, or `val` or
                rivals are asked for with other plays than those of the fit.
        """
        if split not in ("val", "test"):
            raise InputError(f"split must be val or test, got {split!r}")
        plays = self._read(plays)
        rivals = [rivals] if isinstance(rivals, str) else rivals
        means, queries, notes = self._measure(plays, split, has_rivals=bool(rivals))
        lines = {self._name(): means}
        for floor in ("popular", "counts"):
            ending = f"_{floor}_floor"
            lines[f"{floor} (floor)"] = {
                name.removesuffix(ending): value for name, value in means.items() if name.endswith(ending)
            }
        for rival in rivals:
            is_last = self._evaluated.ranker.context.is_last
            context = self._of_fit["context"] if is_last else "session"  # all that a baseline knows of it
            params = {"context": context, "seed": self._of_fit["seed"], "refit": "none"}
            lines[rival] = Recommender(rival, **params).fit(plays)._measure(plays, split)[0]
        table: dict[str, dict[str, float]] = {}
        for line, values in lines.items():
            for name in _SHOWN:
                if name in values:
                    half = values.get(f"{name}_half_width", np.nan)
                    table.setdefault(line, {}).update(
                        {name: values[name], f"{name}_lower": values[name] - half, f"{name}_upper": values[name] + half}
                    )
        return Evaluation(pd.DataFrame.from_dict(table, orient="index"), means, queries, split, notes)

    def _measure(
        self, plays: Plays, split: str, *, has_rivals: bool = False
    ) -> tuple[dict[str, float], pd.DataFrame, list[str]]:
        """Means, queries and notes; see `Evaluation`."""
        from segue.callbacks.ranking_metrics import measured
        from segue.datamodules.other_model import as_test_of

        (data, settings), _ = call(read_data, [*plays.words, *self._words(self._of_fit)], names=plays.names)
        if self._was_fitted_to(data):
            return *measured(self._evaluated.ranker, data, split, settings), []
        data.path = plays.names.get(data.path, data.path)  # for messages
        if split != "test" or has_rivals:
            what = "rivals are fitted to" if has_rivals else "split='val' is of"
            raise InputError(f"{what} the plays of the fit, and {data.path} has others")
        if data.cut is None:
            raise InputError(f"{data.path} has other pairs than those of the fit; evaluate the files, not their shards")
        test = as_test_of(data, self._model.catalog, self._model.plays)
        return *measured(self._model.ranker, test, split, settings), self._notes_on(data, test.dropped["unknown"])

    def _was_fitted_to(self, data: Any) -> bool:
        return bool(data.digest() == RunRecord.read(self.folder).data_digest)

    def _notes_on(self, data: Any, num_unknown: int) -> list[str]:
        """What is left out of other plays than those of the fit, and how many of their sessions may be known."""
        num_plays, sessions, notes = len(data.sessions.listens.track), data.sessions, []
        if num_unknown:
            notes.append(f"{num_unknown:,} of {num_plays:,} plays are left out: the model does not know their tracks")
        if (record := self.folder / REFIT).is_file() and sessions.has_clock:
            until = json.loads(record.read_text(encoding="utf-8"))["until"]
            began = sessions.timestamp[sessions.place == 0]
            if num := int((began <= datetime.fromisoformat(f"{until}+00:00").timestamp() * 1000).sum()):
                notes.append(f"{num:,} of {len(began):,} sessions began by {until}: the model may have learned them")
        return notes

    def gain_over(self, other: "Recommender", plays: Any = None) -> Gain:
        """Compare with another run on the newest sessions of the plays of this one: those that test it.

        The tested model of each run ranks the tracks of its run, because the models that recommend have learned these
        sessions. A query counts 0 for the other run if it does not know the track that followed, or none before it.

        Args:
            other: a run that was tested on no later sessions, such as that of yesterday.
            plays: those that this run was fitted to; None reads them again, where the run found them.

        Returns:
            The mean of this run less that of the other, paired by query; of at most 10,000 queries.

        Raises:
            InputError: the plays are others, not the newest sessions test, or a file of a run cannot be read.
        """
        from segue.callbacks.query_sample import QuerySample

        source = [word for word in RunRecord.read(self.folder).overrides if word.startswith("datamodule")]
        words, names = (source, {}) if plays is None else ((plays := self._read(plays)).words, plays.names)
        (data, _), _ = call(read_data, [*words, *self._words(self._of_fit)], names=names)
        queries, theirs = QuerySample(data, "test"), other._evaluated
        if not self._was_fitted_to(data) or not data.is_by_time or not len(queries.session):
            path = names.get(data.path, data.path)
            raise InputError(f"{path} must be the plays of the fit, whose newest sessions test (datamodule.split=time)")
        rows = theirs.catalog.rows_of(data.catalog.track_ids)
        found = queries.gain(self._evaluated.ranker, theirs.ranker, rows)
        return Gain(found.difference, found.lower, found.upper)

    def similar_artists(self, artist: str, k: int = 10) -> pd.DataFrame:
        """Find the artists whose vectors are nearest.

        Args:
            artist: name of an artist.
            k: largest number of artists.

        Returns:
            A line for each artist, nearest first: `artist`, and `score`, the cosine of the vectors, in [-1, 1].

        Raises:
            InputError: the model has no vectors, or does not know the artist.
        """
        import torch

        from segue.models.head_ranker import artist_vectors

        artists = self._model.catalog.artists
        artist, k = str(artist), _whole("k", k, len(artists))
        [rows] = np.nonzero(artists == artist)
        if not artist or not len(rows):
            close = difflib.get_close_matches(artist, artists.tolist(), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"no track of this model is by {artist!r}{hint}")
        if (scorer := self._model.ranker.scorer) is None:
            raise self._model.has_no_vectors
        with torch.inference_mode():
            units = torch.nn.functional.normalize(artist_vectors(scorer, self._model.catalog.artist_of))
            cosines = (units @ units[int(rows[0])]).numpy()
        [others] = np.nonzero((artists != "") & (artists != artist))
        best = others[np.argsort(-cosines[others], kind="stable")[:k]]
        return pd.DataFrame({"artist": artists[best], "score": cosines[best]})

    def explain(self, session: Id | Sequence[Id] | np.ndarray, track: Id) -> pd.DataFrame:
        """Explain a score: what each track of a session adds to each part of it.

        Args:
            session: id of a track, or ids of the tracks of a session, oldest first.
            track: id of the track that may follow.

        Returns:
            `id`, `part` and `added`: a line for each track of the session and each part of the score, such as `track`,
            `artist`, `order` and `counted`, with how much less the part would be without the track. In the lines
            without an `id` is what no single track adds: the `bias` of the candidate, and what several tracks add
            together. The score is the sum of `added`.

        Raises:
            InputError: the model has no vectors, or a track is not in the catalogue.
        """
        from segue.picking.session_scores import SessionScores

        rows, [item] = self._rows_of(session), self._rows_of([track])
        scores, unknown = SessionScores(self._model.vectors, self._model.catalog.artist_of), np.full(len(rows), np.nan)
        parts = scores.explain(rows[::-1], unknown.astype(np.float32), int(item))
        added = {name: (part[0] - part[1:]).tolist() for name, part in parts.items()}
        ids = self._model.catalog.track_ids[rows[::-1]].tolist()[: self._model.vectors.num_newest]
        lines = [(track, name, each[age]) for age, track in enumerate(ids) for name, each in added.items()]
        lines += [(None, name, float(parts[name][0]) - sum(each)) for name, each in added.items()]
        frame = pd.DataFrame(lines, columns=["id", "part", "added"], dtype=object).astype({"added": float})
        return frame[~np.isclose(frame["added"], 0, atol=1e-6)].reset_index(drop=True)

    def save(self, folder: str | Path) -> Path:
        """Copy the run folder; `segue.load` and `serve.py` take it.

        Args:
            folder: where to; it must be empty or missing.

        Raises:
            InputError: the model is not fitted, or the folder has files.
        """
        source, target = self.folder, refuse_used(folder)
        return Path(shutil.copytree(source, target, dirs_exist_ok=True))

    def export(self, folder: str | Path, format: str) -> Path:
        """Write the vectors for programs without Segue.

        Args:
            folder: where the files go; created if missing.
            format: `onnx` for `query.onnx`, `item.onnx` and `tracks.json`; `parquet` for `vectors.parquet`, with a row
                for each track.

        Raises:
            InputError: the model has no vectors, `format` is unknown, or a library is missing.
        """
        from segue.runs.vector_rows import write_vector_rows
        from segue.verbs.api.onnx_files import write_onnx

        vectors, writers = self._model.vectors, {"onnx": write_onnx, "parquet": write_vector_rows}
        if format not in writers:
            raise InputError(f"format must be {' or '.join(writers)}, got {format!r}")
        if vectors.counted is not None or vectors.listener is not None or (vectors.orders and format == "onnx"):
            raise InputError(
                f"format={format} has vectors alone, and this run has a counted part, the listener's own past, or an "
                "encoder of the order; train it with model=convex counted=none context=session"
            )
        writers[format](vectors, self._model.catalog, Path(folder))
        return Path(folder)

    def _name(self) -> str:
        return " ".join([str(self._of_fit["model"]), *_differing(self._of_fit, ("model",))])

    def __repr__(self) -> str:
        return f"Recommender({', '.join(_differing(self._params))})"

    def _repr_html_(self) -> str:
        if self._place is None:
            return f"<code>{html.escape(repr(self))}</code> (not fitted)"
        shown = {name: self.metrics[name] for name in (f"test/{one}" for one in _SHOWN) if name in self.metrics}
        rows = "".join(f"<tr><td>{name}</td><td>{value:.4f}</td></tr>" for name, value in shown.items())
        return f"<code>{html.escape(repr(self))}</code><table>{rows}</table>"

    def __getstate__(self) -> dict[str, Any]:
        if self._place is None:
            return {"params": self._params, "of_fit": {}, "files": None}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(self.folder, ".", filter=lambda file: None if file.name.endswith(_LAST) else file)
        return {"params": self._params, "of_fit": self._of_fit, "files": packed.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._params, self._of_fit, self._place = state["params"], state["of_fit"], None
        if state["files"] is not None:
            self._place = Folder(content=str(self._of_fit["model"]))
            with tarfile.open(fileobj=io.BytesIO(state["files"])) as archive:
                archive.extractall(self._place.path, filter="data")

    def __copy__(self) -> "Recommender":
        return self.__deepcopy__({})

    def __deepcopy__(self, _: dict[int, Any]) -> "Recommender":
        copy = Recommender.__new__(type(self))
        copy._params, copy._of_fit = dict(self._params), self._of_fit
        copy._place = self._place  # the files of a run do not change
        return copy


def fit(
    plays: Any,
    model: str | None = "convex",
    *,
    context: str | None = None,
    seed: int = 1,
    random_state: int | None = None,
    folder: str | Path | None = None,
    **options: Any,
) -> Recommender:
    """Train a model on plays, as `train.py` does: the same options give the same numbers.

    Args:
        plays: what `read_plays` returned, or what it takes: a path, a DataFrame, a mapping from roles to columns.
        model: a head, such as `convex`, or a baseline, such as `popular`: the choices of `model=`. None: validation
            chooses among recipes and counting models, as `train.py` does where no model is named.
        context: what a query is made of, `last`, `session`, `gru4rec`, `sasrec` or `listener`; None: as the recipe of
            the plays says. With `listener`, `next` and `explain` are of the session alone: they have no listener.
        seed: decides every random number; 0 or more.
        random_state: another name of `seed`.
        folder: where the run is written, which must be empty or missing; a temporary folder by default.
        options: any option of `train.py` by name: `model__alpha=0.9` is `model.alpha=0.9`.

    Raises:
        InputError: the plays cannot be read, or an option is unknown or out of range.

    Examples:
        >>> import segue
        >>> model = segue.fit("examples/plays.csv", model="popular")
        >>> list(model.next(model.tracks["id"][0], k=3).columns)
        ['id', 'title', 'artist', 'score']
    """
    made = Recommender(model, context=context, seed=seed, random_state=random_state, **options)
    return made.fit(plays, folder)


def load(run: str | Path, *, trust: str | Sequence[str] | None = None) -> Recommender:
    """Load the model of a run of `train.py`, or one that was saved.

    Args:
        run: the run folder, or `run:<id>` of a run in MLflow.
        trust: a package, or several, whose models, contexts and baselines the run may have besides those of Segue.
            Loading runs their code.

    Returns:
        The fitted model. Its files are read where they are.

    Raises:
        InputError: there is no such run, it has not finished, or it was not trained.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from segue.models.export import OF_EVALUATED
    from segue.models.fitted import FILES, LISTS
    from segue.models.restoring import REFITTED
    from segue.runs.catalog_files import PLAYS
    from segue.runs.session_vectors import FILE
    from segue.runs.tracking.named_runs import FilesOfRun

    files = FilesOfRun(str(run), str(run))
    place = Folder(files.folder)
    of_refit = (REFITTED, *(f"{OF_EVALUATED}/{name}" for name in (LISTS, FILE, PLAYS)))
    more = (REFIT, *of_refit) if files.find(REFIT, place.path) is not None else ()
    for name in (*FILES, "metrics.json", "run.json", FILE, PLAYS, *more):
        is_needed = name in (*FILES, "metrics.json", "run.json", REFITTED)
        found = files.path(name, place.path) if is_needed else files.find(name, place.path)
        if found is not None and not (place.path / name).exists():
            (place.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, place.path / name)
    words = [word for word in RunRecord.read(place.path).overrides if not word.startswith(_NOT_OPTIONS)]
    given: dict[str, Any] = {
        one.get_key_element(): one.value() for one in OverridesParser.create().parse_overrides(words)
    }
    given.pop("logger", None)
    given |= {} if trust is None else {"trust": trust}
    recommender = Recommender(**given)
    recommender._place, recommender._of_fit = place, recommender.get_params()
    return recommender
