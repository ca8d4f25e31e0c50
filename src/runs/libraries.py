"""A library that is not installed: the line that says which command installs it."""

from segue.runs.provenance import CLONE

LIBRARIES = {
    "": (
        *("duckdb", "faiss", "filelock", "hydra", "jaxtyping", "matplotlib", "mlflow", "mmh3", "numpy", "omegaconf"),
        *("onnxruntime", "onnxscript", "pandas", "psutil", "pyarrow", "pydantic", "pytorch_lightning", "rich", "scipy"),
        *("torch", "tqdm", "typing_extensions", "yaml"),
    ),
    "serve": ("aiohttp", "fastapi", "granian", "prometheus_client", "redis", "uvloop"),
    "room": ("rapidfuzz",),
    "sweep": ("hydra_joblib_launcher", "optuna"),
    "spark": ("pyspark",),
    "rivals": ("gensim", "implicit"),
    "slurm": ("hydra_submitit_launcher",),
    "ray": ("hydra_ray_launcher",),
}
"""The libraries that Segue imports, by the extra of `pyproject.toml` that installs them; "" is what every installation
has, except a machine that only serves."""


def installing(extra: str) -> str:
    """The command that installs an extra here; "" is Segue with what it always needs."""
    if CLONE is None:
        return f'pip install "segue[{extra}]"' if extra else "pip install segue"
    return f'pip install -e ".[{extra}]"' if extra else "make setup"


def line_of_missing(library: str) -> str | None:
    """The line for a library that is not installed; None for one that Segue does not import."""
    extra = next((extra for extra, libraries in LIBRARIES.items() if library in libraries), None)
    return None if extra is None else f"{library} is not installed; install it with: {installing(extra)}"


def line_of_import(error: BaseException | None) -> str | None:
    """The line for an error that a missing library of Segue's caused; None for any other error."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    return line_of_missing(str(getattr(error, "name", None)).partition(".")[0])
