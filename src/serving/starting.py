"""Before a service runs: check the settings, and load the release in a separate process."""

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from segue.errors import InputError
from segue.serving.loading import ReleaseRequest, Warn, load_to_serve
from segue.serving.release import Release
from segue.serving.server import import_service
from segue.serving.settings import ServiceSettings, check_token
from segue.serving.stop_signals import interruptible, stop_signals_recorded
from segue.serving.stores import make_store


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
    settings = ServiceSettings.of({**given, "host": address_of(given["host"])})
    with hold_port(settings.host, settings.port) as held, stop_signals_recorded():
        settings = replace(settings, port=held.getsockname()[1])
        folder = make_store(settings).local.folder
        had_store = folder.exists()
        try:
            _load_and_import(request, settings, warn=warn, busy=busy)
        except BaseException:
            if not had_store:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        settings.write()
        yield settings, make_store(settings).local.open()


def address_of(host: object) -> str:
    """The IP address of a host; IPv4 if it has one.

    Raises:
        InputError: it has no address.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, UnicodeError):
            if isinstance(host, str) and host:
                return str(socket.getaddrinfo(host, None, family)[0][4][0])
    raise InputError(f"host must be an address of this machine, such as 127.0.0.1 or 0.0.0.0, got {host!r}")


def hold_port(host: str, port: int) -> socket.socket:
    """Reserve a port for the workers, which listen at it one by one, also while none of them does.

    Args:
        host: an address of this machine.
        port: the port; 0 for a free one.

    Returns:
        A socket that is bound and does not listen. Only a socket of the same user that shares the port on purpose
        (`SO_REUSEPORT`), as those of the workers do, can be bound to the port as well.

    Raises:
        InputError: another program listens at the port, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        remedy = "choose another port=, or 0 for a free one"
        raise InputError(f"cannot listen at {host}:{port}: {error.strerror}; {remedy}") from None
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # which would let any program bind it as well
    return held


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
