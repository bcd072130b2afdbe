"""Making things before they are asked for, so that whoever uses them does not wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from typing import TypeVar

_Item = TypeVar("_Item")


def ahead(items: Iterable[_Item], depth: int) -> Generator[_Item, None, None]:
    """The same items, made by a thread of its own.

    Args:
        items: What to make.
        depth: So many are made before they are asked for.

    Yields:
        The items in their order. What making one raises is raised here; the thread ends when this generator is closed.
    """
    made: queue.Queue[Future[_Item] | None] = queue.Queue()
    room = threading.Semaphore(depth)
    stop = threading.Event()

    def make() -> None:
        source = iter(items)
        while not stop.is_set():
            one: Future[_Item] = Future()
            try:
                one.set_result(next(source))
            except StopIteration:
                break
            except Exception as error:
                one.set_exception(error)
            made.put(one)
            if one.exception() is not None:
                break
            room.acquire()
        made.put(None)

    thread = threading.Thread(target=make, daemon=True, name="ahead")
    thread.start()
    try:
        while (one := made.get()) is not None:
            room.release()
            yield one.result()
    finally:
        stop.set()
        room.release()
        thread.join()
