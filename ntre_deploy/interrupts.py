"""Ctrl-C during work that an exception must not tear: that of a compiled library, and a camera's, which it ends."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """Keep SIGINT and SIGTERM from raising until the block ends, and raise KeyboardInterrupt then.

    Yields a function that tells whether one has come: callbacks of the library ask it, on whichever thread, and have
    the work stopped.  A second signal ends the process at once.  An error of the work that was stopped gives way to the
    KeyboardInterrupt.  On another thread than the main one, to which Python gives no signals, nothing is held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        # who asks again will not wait for the library's next step
        signal.signal(number, signal.SIG_DFL)

    # Python calls handlers between two steps of the main thread alone; the socket is written at once
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)

    def interrupted() -> bool:
        try:
            if set(reader.recv(256)) & set(_SIGNALS):
                came.set()
        except BlockingIOError:
            pass
        return came.is_set()

    handlers = {number: signal.signal(number, note) for number in _SIGNALS}
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield interrupted
    except Exception:
        if not interrupted():
            raise
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        stopped = interrupted()
        reader.close()
        writer.close()
    if stopped:
        raise KeyboardInterrupt


@contextmanager
def ended_by_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first SIGINT or SIGTERM end the work of the block, which has no other end, as if it were done.

    Yields a function that tells whether one has come.  A second one does what it did before the block.  On another
    thread than the main one, to which Python gives no signals, the function tells False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        restore()

    handlers = {number: signal.signal(number, note) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    try:
        yield came.is_set
    finally:
        restore()
