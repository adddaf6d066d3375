"""Threads run ahead, results come in order, and nothing begun is lost."""

import threading
import time

import pytest

from quantize.ahead import in_order


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def results(work, items, threads=3, ahead=5):
    made = in_order(work, items, threads=threads, ahead=lambda: ahead, name="ahead")
    return ((item, future.result()) for item, future in made)


def test_results_come_in_order_whoever_is_first():
    def slow_first(item):
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(results(slow_first, range(20))) == [(i, i * i) for i in range(20)]
    assert not running()


def test_an_error_of_the_work_belongs_to_its_item():
    made = in_order(lambda i: 1 // i, [1, 0, 1], threads=2, ahead=lambda: 2, name="ahead")
    futures = [future for _, future in made]
    assert [future.exception() is None for future in futures] == [True, False, True]


def test_an_error_of_the_items_comes_after_what_was_begun():
    def items():
        yield from range(4)
        raise OSError("no more")

    seen = []

    def consume():
        for item, _ in in_order(abs, items(), threads=2, ahead=lambda: 3, name="ahead"):
            seen.append(item)

    with pytest.raises(OSError, match="no more"):
        consume()
    assert seen == [0, 1, 2, 3]
    assert not running()


def test_closing_ends_the_threads():
    made = in_order(abs, range(1000), threads=3, ahead=lambda: 5, name="ahead")
    next(made)
    assert running()
    made.close()
    assert not running()


def test_how_far_ahead_is_asked_anew():
    taken = []
    far = [2]

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    made = in_order(abs, items(), threads=2, ahead=lambda: far[0], name="ahead")
    next(made)
    assert len(taken) == 3
    far[0] = 7
    next(made)
    assert len(taken) == 2 + 7
    made.close()
