"""Ctrl-C while a library works: held, told to its callbacks, and raised when it has returned."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.interrupts import ended_by_interrupt, held_interrupts


def held(work: Callable[[Callable[[], bool]], None]) -> None:
    with held_interrupts() as interrupted:
        work(interrupted)


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_raised_when_the_block_has_ended(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    told = []

    def work(interrupted: Callable[[], bool]) -> None:
        told.append(interrupted())
        interrupt(number)
        told.extend((interrupted(), interrupted()))

    with pytest.raises(KeyboardInterrupt):
        held(work)
    assert told == [False, True, True]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_without_one_nothing_happens() -> None:
    with held_interrupts() as interrupted:
        assert not interrupted()


def test_an_error_of_the_stopped_work_gives_way() -> None:
    def work(interrupted: Callable[[], bool]) -> None:
        interrupt()
        raise EngineError("the build was cancelled")

    with pytest.raises(KeyboardInterrupt):
        held(work)


def test_any_other_error_passes() -> None:
    with pytest.raises(EngineError, match="no memory"), held_interrupts():
        raise EngineError("no memory")


def test_a_callback_on_another_thread_is_told_while_the_main_thread_is_inside_a_library() -> None:
    told = []

    def library(interrupted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not interrupted() and time.monotonic() < deadline:
            time.sleep(0.01)
        told.append(interrupted())

    def work(interrupted: Callable[[], bool]) -> None:
        thread = threading.Thread(target=library, args=(interrupted,))
        thread.start()
        interrupt()
        thread.join()

    with pytest.raises(KeyboardInterrupt):
        held(work)
    assert told == [True]


def test_on_another_thread_nothing_is_held() -> None:
    found = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with held_interrupts() as interrupted:
            found.append((interrupted(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, True)]


def test_a_second_one_ends_the_process_at_once() -> None:
    code = (
        "import os, signal, time\n"
        "from ntre_deploy.interrupts import held_interrupts\n"
        "with held_interrupts():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=False, timeout=20)
    assert done.returncode == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_work_and_the_second_does_what_it_did(number: int) -> None:
    came: list[int] = []
    before = signal.signal(number, lambda n, frame: came.append(n))
    try:
        with ended_by_interrupt() as ended:
            assert not ended()
            os.kill(os.getpid(), number)
            assert ended()
            assert came == []
            os.kill(os.getpid(), number)
            assert came == [number]
        os.kill(os.getpid(), number)
        assert came == [number] * 2
    finally:
        signal.signal(number, before)


def test_another_thread_is_never_ended() -> None:
    told = []

    def work() -> None:
        with ended_by_interrupt() as ended:
            told.append(ended())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [False]
