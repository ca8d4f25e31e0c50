"""Serves recommendations over HTTP; also loads and rolls back the releases of a running service."""

from segue.verbs.serve import serve

if __name__ == "__main__":
    serve()
