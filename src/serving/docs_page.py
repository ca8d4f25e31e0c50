"""The page at `/docs`: all endpoints, to read and to try. It is one file and loads nothing else but `/openapi.json`."""

import base64
import hashlib
import re
from pathlib import Path

DOCS = Path(__file__).with_name("docs.html").read_text(encoding="utf-8")
"""The page."""


def _hash_of(element: str) -> str:
    """The hash by which the policy knows the one script or style of the page."""
    found = re.search(f"<{element}>(.*?)</{element}>", DOCS, re.DOTALL)
    assert found is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the page: only its own script and style, by their hashes."""
