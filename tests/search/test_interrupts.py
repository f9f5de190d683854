from __future__ import annotations

import signal
import threading

import pytest

from sparsefront.search.interrupts import held_interrupts


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_waits_until_it_is_allowed() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts() as interrupts:
        interrupt()
        done.append("written")
        with interrupts.allowed():
            done.append("not reached")
    assert done == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_it_is_allowed_it_comes_at_once() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts() as interrupts, interrupts.allowed():
        interrupt()
        done.append("not reached")
    assert done == []


def test_one_that_was_never_allowed_comes_at_the_end() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        interrupt()
        done.append("written")
    assert done == ["written"]


def test_a_second_one_does_not_cut_short_what_follows_the_first() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts() as interrupts:
        try:
            with interrupts.allowed():
                interrupt()
        finally:
            interrupt()
            done.append("tidied")
    assert done == ["tidied"]


def test_a_handler_of_somebody_else_stays() -> None:
    arrived = []
    before = signal.signal(signal.SIGINT, lambda *_: arrived.append(1))
    try:
        with held_interrupts():
            interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
    assert arrived == [1]


def test_other_threads_hold_nothing() -> None:
    found: list[object] = []

    def run() -> None:
        with held_interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
