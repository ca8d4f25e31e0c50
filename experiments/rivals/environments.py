"""Python environments of libraries that are not installed beside Segue, such as those that need an older pandas."""

import subprocess
import sys
import venv

from segue.runs.provenance import ROOT

PACKAGES = {
    "rectools": ["rectools[torch]", "pandas<3"],
    "recbole": ["recbole", "pandas<3", "numpy<2", "scipy<1.14"],  # RecBole 1.2.1 uses names of NumPy 1
    "lightfm": ["lightfm-next"],  # the maintained fork; LightFM 1.17 does not build on Python 3.11
}
"""What is installed for each library."""


def python_of(library: str) -> str:
    """The Python of a library. It is created in `outputs/rivals/` on first use, which takes minutes.

    Args:
        library: a name of PACKAGES.

    Returns:
        Path of the interpreter.

    Raises:
        SystemExit: pip cannot install it.
    """
    folder = ROOT / "outputs" / "rivals" / f"python-{library}"
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"Installing {library} into {folder.relative_to(ROOT)}; this takes minutes", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        if subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[library]], check=False).returncode:
            raise SystemExit(f"pip could not install {', '.join(PACKAGES[library])}; the error is printed above")
        (folder / "installed").touch()
    return str(python)
