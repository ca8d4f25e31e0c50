"""Before a service runs: check the settings, and load the release in a separate process."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from typing import Any

from src.errors import InputError
from src.serving.loading import ReleaseRequest, Warn, load_to_serve
from src.serving.release import Release
from src.serving.server import import_service
from src.serving.settings import ServiceSettings, address_of, check_token, free_port
from src.serving.stores import make_stores


def prepare_service(
    given: Mapping[str, Any], request: ReleaseRequest, *, warn: Warn, busy: Callable[[], AbstractContextManager[object]]
) -> tuple[ServiceSettings, Release]:
    """Check the settings, load the release, and write `serve.json`; if this fails, a store that it created is removed.

    Args:
        given: the composed config.
        request: the release that the command line names, if any.
        warn: prints a warning; it is called in another process and must therefore be a function of a module.
        busy: shows that work is in progress.

    Returns:
        The settings, and the release that will be served.

    Raises:
        InputError: a setting is out of range, or there is nothing to serve.
    """
    check_token()
    host = address_of(given["host"])
    settings = ServiceSettings.of({**given, "host": host}, port=free_port(host, given["port"]))
    store = make_stores(settings).local
    had_store = store.folder.exists()
    try:
        _load_and_import(request, settings, warn=warn, busy=busy)
    except BaseException:
        if not had_store:
            shutil.rmtree(store.folder, ignore_errors=True)
        raise
    release = store.open()
    settings.write()
    return settings, release


def _load_and_import(
    request: ReleaseRequest,
    settings: ServiceSettings,
    *,
    warn: Warn,
    busy: Callable[[], AbstractContextManager[object]],
) -> None:
    """Load in a separate process, whose libraries and memory the service does not keep; import the service meanwhile.

    SIGTERM stops both.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as loader:
        process = loader.submit(os.getpid).result()

        def stop(*_: object) -> None:
            os.kill(process, signal.SIGINT)  # as Ctrl-C reaches both processes
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, stop)
        loading = loader.submit(_load_elsewhere, request, settings, warn)
        with busy():
            import_service()
            loading.result()
    signal.signal(signal.SIGTERM, before)


def _load_elsewhere(request: ReleaseRequest, settings: ServiceSettings, warn: Warn) -> None:
    try:
        load_to_serve(request, settings, warn)
    except KeyboardInterrupt:  # the waiting process is interrupted as well and prints it
        raise InputError("interrupted") from None
