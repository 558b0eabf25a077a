"""The trunk by itself: order, errors, and that nothing outlives a run."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from kedge.model.errors import Cancelled
from kedge.solver.trunk import Trunk


def run(main, trunk=None):
    trunk = trunk or Trunk()
    return trunk.run(main(trunk))


def test_a_value_comes_back():
    async def main(trunk):
        return 42

    assert run(main) == 42


def test_gather_keeps_the_order_and_works_at_the_same_time():
    async def main(trunk):
        async def one(n):
            return await trunk.call(lambda: (together.wait(), time.sleep(0.2 - n / 20)) and n)

        return await trunk.gather(one(n) for n in range(4))

    together = threading.Barrier(4, timeout=60)
    assert run(main) == [0, 1, 2, 3]


def test_coroutines_run_on_one_thread_and_leaves_on_others():
    async def main(trunk):
        return threading.get_ident(), await trunk.call(threading.get_ident)

    trunk_thread, leaf_thread = run(main)
    assert trunk_thread == threading.get_ident() != leaf_thread


def test_threads_are_reused_and_gone_afterwards():
    async def main(trunk):
        return {await trunk.call(threading.get_ident) for _ in range(50)}

    before = threading.active_count()  # other tests of this process may have left some
    assert len(run(main)) == 1
    assert threading.active_count() <= before


def test_the_first_error_wins_and_the_others_are_dropped():
    def fail(after, text):
        time.sleep(after)
        raise ValueError(text)

    async def main(trunk):
        await trunk.gather([trunk_call(trunk, fail, 0.2, "late"), trunk_call(trunk, fail, 0.05, "early")])

    async def trunk_call(trunk, *arguments):
        return await trunk.call(*arguments)

    before = threading.active_count()
    with pytest.raises(ValueError, match="early"):
        run(main)
    assert threading.active_count() <= before


def test_an_error_in_a_task_nobody_waits_for_ends_the_run():
    async def bad():
        raise ValueError("unheard")

    async def main(trunk):
        trunk.spawn(bad())
        await trunk.call(time.sleep, 0.1)
        await trunk.call(time.sleep, 0.1)

    with pytest.raises(ValueError, match="unheard"):
        run(main)


def test_a_leafs_error_can_be_handled_where_it_is_awaited():
    def fail():
        raise ValueError

    async def main(trunk):
        try:
            await trunk.call(fail)
        except ValueError:
            return "handled"

    assert run(main) == "handled"


def test_leaves_are_told_to_stop_and_waited_for():
    ended = []

    async def slow(trunk):
        await trunk.call(lambda: ended.append(trunk.cancel.wait(10)))

    async def main(trunk):
        trunk.spawn(slow(trunk))
        await trunk.call(time.sleep, 0.05)
        raise ValueError

    with pytest.raises(ValueError):
        run(main)
    assert ended == [True]


def test_finally_blocks_of_unfinished_tasks_run():
    seen = []

    async def waiting(trunk):
        try:
            await trunk.call(trunk.cancel.wait, 10)
            seen.append("resumed")
        finally:
            seen.append("closed")

    async def main(trunk):
        trunk.spawn(waiting(trunk))
        await trunk.call(time.sleep, 0.05)
        raise ValueError

    with pytest.raises(ValueError):
        run(main)
    assert seen == ["closed"]


def test_stop_from_another_thread_and_before_the_start():
    async def main(trunk):
        await trunk.call(trunk.cancel.wait, 10)

    trunk = Trunk()
    threading.Timer(0.05, trunk.stop).start()
    with pytest.raises(Cancelled):
        run(main, trunk)
    trunk = Trunk()
    trunk.stop()
    with pytest.raises(Cancelled):
        run(main, trunk)


def test_an_interrupt_stops_the_leaves_and_is_raised_again():
    async def main(trunk):
        def interrupt():
            raise KeyboardInterrupt

        await trunk.call(interrupt)

    with pytest.raises(KeyboardInterrupt):
        run(main)


INTERRUPTED = """
import os, signal, sys, threading
from kedge.solver.trunk import Trunk
def interrupt(thread=threading.get_ident()):
    signal.pthread_kill(thread, signal.SIGINT)
def asleep():  # the main thread is not woken: as if the signal had come just before it went to sleep
    interrupt(threading.get_ident())
    trunk.cancel.wait()
def before_submit(job):
    interrupt()
    submit(job)
class Inbox:  # the signal comes with an outcome
    def __init__(self, real):
        self.put, self.empty, self.real = real.put, real.empty, real
    def get(self, *arguments, **named):
        got = self.real.get(*arguments, **named)
        if got[0] is not None and not trunk.cancel.is_set():
            interrupt()
        return got
async def main():
    return await trunk.call(asleep if sys.argv[1] == "asleep" else int)
trunk = Trunk()
submit = trunk._pool.submit
if sys.argv[1] == "submitting":
    trunk._pool.submit = before_submit
elif sys.argv[1] == "receiving":
    trunk._inbox = Inbox(trunk._inbox)
try:
    trunk.run(main())
except KeyboardInterrupt:
    handler = signal.getsignal(signal.SIGINT)
    print("interrupted", threading.active_count(), handler is signal.default_int_handler)
"""


@pytest.mark.parametrize("moment", ["asleep", "submitting", "receiving"])
def test_an_interrupt_at_any_moment_ends_the_run(moment):
    program = [sys.executable, "-c", INTERRUPTED, moment]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, preexec_fn=_interruptible)
    assert (done.stdout, done.stderr) == ("interrupted 1 True\n", "")


def _interruptible():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_tasks_that_wait_for_each_other_are_a_bug_and_no_hang():
    async def main(trunk):
        tasks = []

        async def wait_for(n):
            await tasks[n]

        tasks += [trunk.spawn(wait_for(1)), trunk.spawn(wait_for(0))]
        await tasks[0]

    with pytest.raises(RuntimeError, match="waits for another"):
        run(main)


def test_ten_thousand_tasks_are_quick():
    async def main(trunk):
        async def one(n):
            return n

        return sum(await trunk.gather(one(n) for n in range(10_000)))

    begun = time.process_time()  # of this process: what others do meanwhile does not count
    assert run(main) == 49_995_000
    assert time.process_time() - begun < 20
