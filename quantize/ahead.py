"""Work in threads ahead of whoever uses it, with the results in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    work: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: Callable[[], int],
    name: str,
) -> Generator[tuple[Item, Future[Made]], None, None]:
    """Work on items in threads; each comes with its finished future, in the order of the items.

    An error or interrupt in `items` waits until what was begun before it has been handed out.
    Closing the generator ends its threads as soon as the items in their hands are done.

    Args:
        work: called in the threads.
        items: taken in the caller's thread.
        threads: how many.
        ahead: how many items may be in work or done beyond the one that is handed out; asked anew
            each time.
        name: how the threads' names begin.
    """
    todo = iter(items)
    failed: list[BaseException] = []
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def refill() -> None:
        if failed:
            return
        try:
            for item in itertools.islice(todo, max(0, ahead() - len(waiting))):
                waiting.append((item, pool.submit(work, item)))
        except BaseException as error:  # an interrupt, too: what was begun is not lost
            failed.append(error)

    try:
        refill()
        while waiting:
            item, future = waiting.popleft()
            future.exception()  # waits; what the work raised is the consumer's
            refill()
            yield item, future
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if failed:
        raise failed[0]
