"""Before a service runs: check the settings, and load the release in a separate process."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from typing import Any

from segue.errors import InputError
from segue.serving.loading import ReleaseRequest, Warn, load_to_serve
from segue.serving.release import Release
from segue.serving.server import import_service
from segue.serving.settings import ServiceSettings, address_of, check_token, hold_port
from segue.serving.stop_signals import interruptible, stop_signals_recorded
from segue.serving.stores import make_stores


@contextlib.contextmanager
def prepared_service(
    given: Mapping[str, Any], request: ReleaseRequest, *, warn: Warn, busy: Callable[[], AbstractContextManager[object]]
) -> Iterator[tuple[ServiceSettings, Release]]:
    """Check the settings, load the release, and write `serve.json`; if this fails, a store that it created is removed.

    SIGTERM and SIGINT interrupt the loading. Within the block they wait for the supervisor, which then stops at once.

    Args:
        given: the composed config.
        request: the release that the command line names, if any.
        warn: prints a warning; it is called in another process and must therefore be a function of a module.
        busy: shows that work is in progress.

    Yields:
        The settings, and the release that will be served.

    Raises:
        InputError: a setting is out of range, or there is nothing to serve.
        KeyboardInterrupt: a signal arrived before everything was loaded.
    """
    check_token()
    host = address_of(given["host"])
    with hold_port(host, given["port"]) as port, stop_signals_recorded():
        settings = ServiceSettings.of({**given, "host": host}, port=port.getsockname()[1])
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
        yield settings, release


def _load_and_import(
    request: ReleaseRequest,
    settings: ServiceSettings,
    *,
    warn: Warn,
    busy: Callable[[], AbstractContextManager[object]],
) -> None:
    """Load in a separate process, whose libraries and memory the service does not keep; import the service meanwhile.

    A signal interrupts the loading, once the imports are complete: interrupted imports print errors of libraries. The
    loading process has ended when this function ends.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as loader:
        process = loader.submit(os.getpid).result()  # forked while signals are recorded: none ends it before its work
        try:
            with busy():
                loading = loader.submit(_load_elsewhere, request, settings, warn)
                import_service()
                with interruptible():
                    loading.result()
        except KeyboardInterrupt:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGINT)  # as Ctrl-C reaches both processes
            raise


def _load_elsewhere(request: ReleaseRequest, settings: ServiceSettings, warn: Warn) -> None:
    try:
        with interruptible():
            load_to_serve(request, settings, warn)
    except KeyboardInterrupt:  # the waiting process is interrupted as well and prints it
        raise InputError("interrupted") from None
