"""One trunk that coordinates, and blocking leaves: coroutines on one thread, everything that waits on threads of a
pool.

Owns tasks, waiting and stopping. Knows nothing of graphs. It stands in for asyncio, whose import (with ssl) costs more
than a whole cached build may take, and it is stricter: a trunk is one nursery. The first exception that leaves any
task ends the run. The cancel event is set, no coroutine is resumed any more, leaves are waited for, and only then that
exception is raised. So nothing of a build runs on behind its end.

    how a run goes
      ready tasks are stepped in order of becoming ready, until none is left
      a task that awaits an unfinished future is parked with that future
      a leaf's thread posts its outcome to the inbox; the trunk sleeps on the inbox when nothing is ready
      nothing ready and no leaf running while the main task is unfinished: a cycle of waiters, which is a bug
      a signal whose handler raises (Ctrl-C) ends the run as an error of a task does; while the trunk counts leaves it
      is put into the inbox instead, for a leaf that is counted twice or never would be waited for without an end
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Generic, TypeAlias, TypeVar, cast

from kedge.model.errors import Cancelled

T = TypeVar("T")
MOST_LEAVES = 256  # threads; far above any build's useful width, so that sleeping steps never queue behind each other
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNAL_GRAIN = 0.5  # seconds between two looks for signals that came at a bad moment


class Future(Generic[T]):
    """A value to come. Awaiting it gives the value or raises what its maker raised. Touched on the trunk's thread
    only.
    """

    __slots__ = ("_error", "_value", "done", "waiters")

    def __init__(self) -> None:
        self.done = False
        self.waiters: list[Task[Any]] = []
        self._value: T | None = None
        self._error: BaseException | None = None

    def __await__(self) -> Generator["Future[Any]", None, T]:
        if not self.done:
            yield self
        return self.result()

    def result(self) -> T:
        """The value; raises what the maker raised. Only when done."""
        if self._error is not None:
            raise self._error
        return cast(T, self._value)

    def settle(self, value: T | None, error: BaseException | None) -> None:
        self._value, self._error, self.done = value, error, True


class Task(Future[T]):
    """A coroutine under way."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self.coroutine = coroutine


Outcome: TypeAlias = tuple[Future[Any] | None, Any, BaseException | None]  # of no future: the run is to end


class Trunk:
    """Runs coroutines to the end of one main coroutine. One use; not shared between threads, except for `stop`."""

    def __init__(self, cancel: threading.Event | None = None) -> None:
        self.cancel = cancel or threading.Event()
        self._ready: deque[Task[Any]] = deque()
        self._parked: set[Task[Any]] = set()
        self._inbox: SimpleQueue[Outcome] = SimpleQueue()
        self._pool = _Pool()
        self._leaves = 0
        self._counting = False  # no exception may break in
        self._failure: BaseException | None = None

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` and all it spawns; returns its value, or raises the first error of any task.

        Raises Cancelled after `stop`, or when `cancel` was set by another. A KeyboardInterrupt stops it too and is
        raised again.
        """
        task = self.spawn(main)
        try:
            with self._signals_at_good_moments():
                self._loop(task)
        except BaseException as error:
            self._failure = error
        self._finish()
        if self._failure is not None:
            raise self._failure
        return task.result()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Start a task; it runs when the caller next waits."""
        task = Task(coroutine)
        self._ready.append(task)
        return task

    def call(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Start blocking work on a thread of its own; await the result for its value."""
        future: Future[T] = Future()
        self._counting = True
        try:
            self._pool.submit(lambda: self._leaf(future, function, arguments))
            self._leaves += 1
        finally:
            self._counting = False
        return future

    async def gather(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """The values of all, worked on at the same time, in the given order."""
        return [await task for task in [self.spawn(coroutine) for coroutine in coroutines]]

    def stop(self) -> None:
        """End the run with Cancelled. From any thread, at any time."""
        self.cancel.set()
        self._inbox.put((None, None, Cancelled("the build was stopped")))

    def _leaf(self, future: Future[T], function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        try:
            outcome: Outcome = (future, function(*arguments), None)
        except BaseException as error:
            outcome = (future, None, error)
        self._inbox.put(outcome)

    def _loop(self, main: Task[Any]) -> None:
        while not main.done:
            while self._ready and self._inbox.empty():
                self._step(self._ready.popleft())
                if self._failure or main.done:
                    return
            if not self._ready and not self._leaves:
                raise RuntimeError("every task waits for another")
            self._receive()

    def _step(self, task: Task[Any]) -> None:
        self._parked.discard(task)
        try:
            awaited = task.coroutine.send(None)
        except StopIteration as stop:
            self._settle(task, stop.value, None)
        except BaseException as error:
            self._failure = error
        else:
            awaited.waiters.append(task)
            self._parked.add(task)

    def _receive(self) -> None:
        self._counting = True
        future, value, error = self._next()
        self._leaves -= future is not None
        self._counting = False
        if future is None:
            raise error or Cancelled("the build was stopped")
        self._settle(future, value, error)

    def _next(self) -> Outcome:
        """What comes next into the inbox. A signal that comes just before the main thread sleeps does not wake it."""
        while True:
            try:
                return self._inbox.get(timeout=_SIGNAL_GRAIN if _is_main() else None)
            except Empty:
                continue

    def _settle(self, future: Future[Any], value: Any, error: BaseException | None) -> None:
        future.settle(value, error)
        self._ready.extend(future.waiters)
        future.waiters.clear()

    @contextmanager
    def _signals_at_good_moments(self) -> Iterator[None]:
        """What signal handlers raise ends the run, but nothing is raised while leaves are counted."""
        handlers = {number: signal.getsignal(number) for number in _SIGNALS} if _is_main() else {}
        before = {number: handler for number, handler in handlers.items() if callable(handler)}

        def handle(number: int, frame: FrameType | None) -> None:
            try:
                before[signal.Signals(number)](number, frame)
            except BaseException as error:
                if not self._counting:
                    raise
                self._failure = error
                self._inbox.put((None, None, error))

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _finish(self) -> None:
        if self._failure is not None:
            self.cancel.set()
        # Leaves may still hold files or processes: a build has ended when they have.
        while self._leaves:
            future, _, _ = self._next()
            self._leaves -= future is not None
        for task in (*self._ready, *self._parked):
            task.coroutine.close()
        self._pool.close()


def _is_main() -> bool:
    """Are we the thread that runs signal handlers?"""
    return threading.current_thread() is threading.main_thread()


class _Pool:
    """Threads made on demand and reused; concurrent.futures would import logging."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, job: Callable[[], None]) -> None:
        if not self._idle.acquire(blocking=False) and len(self._threads) < MOST_LEAVES:
            thread = threading.Thread(target=self._work, name="kedge-leaf", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            self._idle.release()

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
