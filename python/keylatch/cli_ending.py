"""Lets a command that others end clean up. Knows no command."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _EndedError(BaseException):
    """As KeyboardInterrupt is for Ctrl-C."""


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Ends by SIGTERM and SIGHUP as always, but after what stands in between has cleaned up."""
    # Whoever ignores one, as nohup does, goes on to; and only the main thread has a say.
    heard = [
        each
        for each in (signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(each) is signal.SIG_DFL
    ]

    def end(number: int, _: FrameType | None) -> None:
        for each in heard:
            signal.signal(each, signal.SIG_IGN)
        raise _EndedError(number)

    for each in heard:
        signal.signal(each, end)
    try:
        yield
    except _EndedError as ended:
        (number,) = ended.args
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    finally:
        for each in heard:
            signal.signal(each, signal.SIG_DFL)
