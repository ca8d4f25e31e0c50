#!/bin/sh
# deploy/install.sh <folder> <wheel or clone>: installs what serves into a new virtual environment.
#
# A clone without git has the version of SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SEGUE, or the fallback version.
# The versions and hashes are those of requirements-serve.lock. The Dockerfile calls this script, and segue.service runs
# what it has installed. It needs Python 3.11 to 3.14 with venv; PYTHON names another one than python3.
set -eu
[ $# -eq 2 ] || { echo "usage: $0 <new folder> <wheel or clone of Segue>" >&2; exit 2; }
locks=$(dirname "$0")/..
"${PYTHON:-python3}" -m venv "$1"
install="$1/bin/python -m pip install --disable-pip-version-check --quiet --no-cache-dir --no-deps"

# antlr4-python3-runtime has no wheel; it and a clone are built by the setuptools of the lock, as `make setup` does
awk '/^[^ #]/ {keep = /^(setuptools|setuptools-scm|vcs-versioning|packaging|typing-extensions)==/} keep' "$locks/requirements.lock" > "$1/build.txt"
$install --require-hashes --requirement "$1/build.txt"
$install --require-hashes --no-build-isolation --use-pep517 --requirement "$locks/requirements-serve.lock"
$install --no-index --no-build-isolation "$(realpath "$2")"

"$1/bin/python" -m pip uninstall --quiet --yes --root-user-action=ignore setuptools setuptools-scm vcs-versioning pip   # nothing that serves needs them
rm "$1/build.txt"
"$1/bin/segue" --version
