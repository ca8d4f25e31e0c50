"""What happens before a service runs: checks, and loading in a process of its own."""

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
    """Check the settings, load what was named, and leave `serve.json`; a store made in vain is removed.

    Args:
        given: the composed config.
        request: the release that was named, if any.
        warn: shows what the user should know; is called in another process, and so must be a function of a module.
        busy: shows that something goes on.

    Returns:
        The settings to run with, and the release that will be served.

    Raises:
        InputError: a setting is out of its bounds, or there is nothing to serve.
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
    """Load in a process of its own, so that the service keeps nothing that only loading needs; import it meanwhile.

    SIGTERM ends both.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as loader:
        process = loader.submit(os.getpid).result()

        def stop(*_: object) -> None:
            os.kill(process, signal.SIGINT)  # as Ctrl-C does to both
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
    except KeyboardInterrupt:  # the process that waits for this one has it too, and says so
        raise InputError("interrupted") from None
