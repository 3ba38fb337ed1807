"""The end of a command by Ctrl-C or by the system: within two seconds, with a line that says how to go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from sys import UnraisableHookArgs

INTERRUPTED = 130  # status of a command that was interrupted
_SECONDS_TO_TIDY = 0.8
_SAYS = (
    "\nStopped. Run the same command again to go on: slides that are done, and finished parts of others, are kept.\n"
)


@contextmanager
def end_at_a_signal() -> Iterator[None]:
    """End the process within a second when Ctrl-C or SIGTERM comes.

    Python runs handlers in the main thread only, which may be compiling, decoding or waiting for threads that compute. So
    a thread of its own learns of the signal; the others get a second for what they do when they are interrupted, such as
    removing files that are half written. A command that is killed loses nothing that is done.
    """
    stopping = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.unraisablehook = _report_unless_interrupted

    def end() -> None:
        number = os.read(reader, 1)[0]
        while number not in {signal.SIGINT, signal.SIGTERM}:
            number = os.read(reader, 1)[0]
        stopping.set()
        sys.stderr.write(_SAYS)
        sys.stderr.flush()
        time.sleep(_SECONDS_TO_TIDY)
        os._exit(128 + number)

    threading.Thread(target=end, name="histocell-signals", daemon=True).start()
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) == INTERRUPTED
        if interrupted or stopping.is_set():  # a library may turn an interrupt into an error of its own
            time.sleep(2 * _SECONDS_TO_TIDY)  # the thread says so and ends the process
        raise


def _report_unless_interrupted(ignored: UnraisableHookArgs) -> None:
    """An interrupt in a finaliser or a callback of a weak reference goes no further; the thread ends the process anyway."""
    if not issubclass(ignored.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
