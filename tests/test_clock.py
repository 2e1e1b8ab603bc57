"""The loop of virtual time: asyncio's semantics on SimPy's queue, and both worlds on one clock."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

import testbed.clock
from testbed.clock import LIFE, Life, SimLoop, StalledError
from testbed.errors import UnknownNameError


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop()
    yield made
    made.close()


def run(main: Callable[[SimLoop], Awaitable[Any]]) -> Any:
    """The result of ``main`` on a fresh loop, by asyncio's own Runner."""
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SimLoop)

        async def whole() -> Any:
            return await main(loop)

        return runner.run(whole())


# -- time and order -----------------------------------------------------------------------------------------------


def test_a_year_of_sleeping_takes_no_time() -> None:
    async def main(loop: SimLoop) -> float:
        await asyncio.sleep(365 * 86_400)
        return loop.time()

    start = time.perf_counter()
    assert run(main) == 365 * 86_400
    assert time.perf_counter() - start < 1


@given(st.lists(st.floats(0, 1e9), max_size=20))
def test_timers_ring_at_exactly_the_time_asked_for_and_equal_ones_in_order_of_asking(
    times: list[float],
) -> None:
    loop = SimLoop()
    rung: list[tuple[float, int]] = []
    for number, when in enumerate(times):
        loop.call_at(when, lambda when=when, number=number: rung.append((loop.time(), number)))
    loop.run_to(2e9)
    loop.close()
    assert rung == sorted((when, number) for number, when in enumerate(times))


def test_a_time_that_addition_would_round_is_kept(loop: SimLoop) -> None:
    # 0.1 + (0.7 - 0.1) is 0.7000000000000001 - 1 ulp away: a delay from now would miss the instant.
    when, seen = 0.7, []
    loop.call_at(0.1, lambda: loop.call_at(when, lambda: seen.append(loop.time())))
    loop.run_to(1)
    assert seen == [when]


def test_a_timer_in_the_past_rings_now_and_says_what_was_asked(loop: SimLoop) -> None:
    seen = []
    loop.run_to(10)
    timer = loop.call_at(3, lambda: seen.append(loop.time()))
    assert timer.when() == 3
    loop.run_to(11)
    assert seen == [10]


def test_call_soon_is_first_in_first_out_and_its_results_come_before_the_next_event(loop: SimLoop) -> None:
    order: list[str] = []

    def parent() -> None:
        order.append("a")
        loop.call_soon(order.append, "a's child")

    loop.call_soon(parent)
    loop.call_soon(order.append, "b")
    loop.call_at(0, order.append, "timer at 0")
    loop.run_to(1)
    assert order == ["a", "b", "a's child", "timer at 0"]


def test_processes_and_tasks_at_one_instant_run_in_the_order_of_their_scheduling(loop: SimLoop) -> None:
    order: list[str] = []

    def process(name: str) -> Generator[simpy.Event, Any, None]:
        for _ in range(3):
            yield loop.env.timeout(1)
            order.append(name)

    async def task(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            order.append(name)

    loop.env.process(process("p1"))
    loop.create_task(task("t1"))
    loop.env.process(process("p2"))
    loop.create_task(task("t2"))
    loop.run_to(10)
    # Processes begin by urgent events of their own, tasks by call_soon: it is that first step that decides.
    assert order == ["t1", "t2", "p1", "p2"] * 3


def test_run_to_leaves_what_is_due_at_its_end_for_the_next_call(loop: SimLoop) -> None:
    seen: list[int] = []
    for second in range(4):
        loop.call_at(second, seen.append, second)
    loop.run_to(2)
    assert (seen, loop.time()) == ([0, 1], 2)
    loop.run_to(2)
    assert seen == [0, 1]
    loop.run_to(2.5)
    assert (seen, loop.time()) == ([0, 1, 2], 2.5)
    with pytest.raises(ValueError, match="past"):
        loop.run_to(1)


def test_time_passes_where_nothing_is_scheduled(loop: SimLoop) -> None:
    loop.run_to(3600)
    assert loop.time() == loop.env.now == 3600


def test_many_canceled_timers_are_swept_out_without_changing_the_order(loop: SimLoop) -> None:
    rung: list[int] = []
    kept = [loop.call_at(5000 - i // 2, rung.append, i) for i in range(300)]
    for timer in [loop.call_at(10_000 + i, rung.append, -1) for i in range(5000)]:
        timer.cancel()
    kept[7].cancel()
    assert len(loop.env._queue) < 1500
    loop.run_to(20_000)
    expected = sorted((i for i in range(300) if i != 7), key=lambda i: (5000 - i // 2, i))
    assert rung == expected
    assert kept[7].cancelled()


def test_canceling_a_timer_that_has_rung_does_nothing(loop: SimLoop) -> None:
    timer = loop.call_at(1, lambda: None)
    loop.run_to(2)
    timer.cancel()
    assert loop._canceled_timers == 0


# -- asyncio's semantics ------------------------------------------------------------------------------------------


async def test_wait_for_and_timeout_end_at_their_time() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.create_future(), 3)
    assert loop.time() == 3
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await asyncio.sleep(10)
    assert loop.time() == 5
    assert await asyncio.wait_for(asyncio.sleep(1, "in time"), 3) == "in time"
    assert loop.time() == 6


async def test_cancellation_reaches_a_task_where_it_waits_and_cleanup_may_wait_too() -> None:
    loop = asyncio.get_running_loop()
    story: list[tuple[str, float]] = []

    async def worker() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            story.append(("canceled", loop.time()))
            await asyncio.sleep(2)
            story.append(("cleaned", loop.time()))

    task = asyncio.create_task(worker())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert story == [("canceled", 1), ("cleaned", 3)]


async def test_gather_queue_event_and_lock_work_together() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
    got: list[tuple[float, int]] = []
    loop = asyncio.get_running_loop()
    lock, started = asyncio.Lock(), asyncio.Event()

    async def produce() -> None:
        await started.wait()
        for number in range(5):
            await queue.put(number)

    async def consume() -> None:
        for _ in range(5):
            async with lock:
                await asyncio.sleep(1)
                number = await queue.get()
                got.append((loop.time(), number))

    loop.call_later(10, started.set)
    await asyncio.gather(produce(), consume())
    assert got == [(10, 0), (11, 1), (12, 2), (13, 3), (14, 4)]


async def test_streams_talk_over_the_loop_s_network() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "localhost", 7)
    async with server:
        reader, writer = await asyncio.open_connection("localhost", 7)
        writer.write(b"hello\n")
        await writer.drain()
        assert await reader.read() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()


async def test_a_task_group_cancels_its_siblings_in_the_order_of_their_making() -> None:
    canceled: list[int] = []

    async def sibling(number: int) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            canceled.append(number)
            raise

    async def failing() -> None:
        await asyncio.sleep(1)
        raise LookupError("one fails")

    async def family() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(sibling(number))
            group.create_task(failing())

    with pytest.raises(ExceptionGroup) as caught:
        await family()
    assert caught.group_contains(LookupError)
    assert canceled == list(range(50))


async def test_context_variables_belong_to_the_task_or_callback_that_set_them() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    seen: list[str] = []
    loop = asyncio.get_running_loop()

    async def task(mine: str) -> None:
        name.set(mine)
        loop.call_later(1, lambda: seen.append(name.get()))
        await asyncio.sleep(0)
        seen.append(name.get())

    await asyncio.gather(task("a"), task("b"))
    context = contextvars.copy_context()
    context.run(name.set, "c")
    loop.call_soon(lambda: seen.append(name.get()), context=context)
    await asyncio.sleep(2)
    assert seen == ["a", "b", "c", "a", "b"]
    assert name.get() == "nobody"


async def test_an_async_generator_left_open_is_closed_on_this_loop() -> None:
    closed: list[float] = []
    loop = asyncio.get_running_loop()

    async def numbers() -> Any:
        try:
            for number in range(10):
                yield number
        finally:
            await asyncio.sleep(1)
            closed.append(loop.time())

    async for number in numbers():
        if number == 3:
            break
    gc.collect()
    await asyncio.sleep(5)
    assert closed == [1]


def test_async_generators_that_are_still_alive_are_closed_with_the_runner() -> None:
    closed: list[str] = []

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            closed.append("closed")

    keep = numbers()

    async def main(_: SimLoop) -> None:
        await anext(keep)

    run(main)
    assert closed == ["closed"]


def test_stop_lets_what_is_ready_by_now_run_and_nothing_after_it(loop: SimLoop) -> None:
    order: list[str] = []
    loop.call_soon(loop.stop)

    def ready() -> None:
        order.append("ready")
        loop.call_soon(order.append, "made after stop")

    loop.call_soon(ready)
    loop.call_at(1, order.append, "later")
    loop.run_forever()
    assert order == ["ready"]
    loop.call_at(2, loop.stop)
    loop.run_forever()
    assert order == ["ready", "made after stop", "later"]


def test_stop_ends_run_to_early_and_only_that_one(loop: SimLoop) -> None:
    loop.call_at(3, loop.stop)
    loop.run_to(10)
    assert loop.time() == 3
    loop.run_to(10)
    assert loop.time() == 10


def test_a_spinning_task_does_not_keep_run_until_complete_from_ending(loop: SimLoop) -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - a program that polls without pause is what is tested
            await asyncio.sleep(0)

    async def main() -> str:
        loop.create_task(spin())
        for _ in range(10):
            await asyncio.sleep(0)
        return "done"

    assert loop.run_until_complete(main()) == "done"


def test_a_closed_loop_takes_no_work_and_says_so() -> None:
    loop = SimLoop()
    loop.close()
    loop.close()
    assert loop.is_closed()
    for use in (
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.run_in_executor(None, print),
        lambda: loop.run_to(1),
        lambda: loop.run_forever(),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_a_running_loop_can_neither_be_run_nor_closed(loop: SimLoop) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="running"):
            loop.run_to(5)
        with pytest.raises(RuntimeError, match="running"):
            loop.close()

    loop.run_until_complete(main())


def test_close_ends_the_tasks_that_still_run_at_the_same_instant_in_order() -> None:
    loop = SimLoop()
    ended: list[tuple[int, float]] = []

    async def forever(number: int) -> None:
        try:
            await loop.create_future()
        finally:
            ended.append((number, loop.time()))
            raise LookupError("nobody is left to hear this")

    for number in range(5):
        loop.create_task(forever(number))
    loop.run_to(7)
    loop.close()
    gc.collect()
    assert ended == [(number, 7) for number in range(5)]


def test_the_loop_can_be_advanced_from_inside_a_callback_of_another_loop() -> None:
    """Live mode: the ordinary loop paces the virtual one."""
    virtual = SimLoop()
    seen: list[object] = []

    async def inner() -> None:
        await asyncio.sleep(5)
        seen.append(asyncio.get_running_loop())

    virtual.create_task(inner())

    async def main() -> None:
        real = asyncio.get_running_loop()
        done = real.create_future()

        def pace() -> None:
            virtual.run_to(6)
            seen.append(asyncio.get_running_loop())
            done.set_result(None)

        real.call_soon(pace)
        await done
        seen.append(asyncio.get_running_loop() is real)

    asyncio.run(main())
    virtual.close()
    assert seen[0] is virtual
    assert seen[1] is not virtual
    assert seen[2] is True


def test_whoever_steps_the_simpy_environment_directly_runs_the_loop_too() -> None:
    env = simpy.Environment(initial_time=100)
    loop = SimLoop(env)
    seen: list[tuple[str, float]] = []

    async def task() -> None:
        await asyncio.sleep(1)
        assert asyncio.get_running_loop() is loop
        seen.append(("task", loop.time()))

    loop.create_task(task())
    loop.wake(100.5, lambda what: seen.append((what, loop.time())), "wake-up")
    env.run(until=103)
    loop.close()
    assert seen == [("wake-up", 100.5), ("task", 101)]


def test_debug_mode_finds_what_it_finds_on_other_loops(loop: SimLoop) -> None:
    loop.set_debug(True)

    async def main() -> None:
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.call_soon(main)
        handle = loop.call_later(1, print)
        assert "created at" in repr(handle)
        handle.cancel()
        failure: list[BaseException] = []

        def elsewhere() -> None:
            try:
                loop.call_soon(print)
            except RuntimeError as error:
                failure.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "Non-thread-safe" in str(failure[0])

    loop.run_until_complete(main())


def test_tasks_are_named_by_their_loop_not_by_what_ran_before_in_the_process(loop: SimLoop) -> None:
    async def nothing() -> None: ...

    names = [loop.create_task(nothing()).get_name() for _ in range(2)]
    assert names == ["Task-1", "Task-2"]
    assert loop.create_task(nothing(), name="mine").get_name() == "mine"
    loop.run_to(1)


def test_a_task_factory_is_used(loop: SimLoop) -> None:
    made: list[asyncio.Task[Any]] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(asyncio.Task(coroutine, loop=loop, **options))
        return made[-1]

    loop.set_task_factory(factory)
    assert loop.run_until_complete(asyncio.sleep(1, "x")) == "x"
    assert len(made) == 1


def test_epoch_and_entropy_are_the_same_on_every_new_loop() -> None:
    first, second = SimLoop(), SimLoop()
    assert first.epoch == datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
    assert first.entropy.random() == second.entropy.random()


# -- errors -------------------------------------------------------------------------------------------------------


def broken() -> None:
    raise UnknownNameError("thing", "broken", ["whole"])  # SimPy cannot copy this one: other arguments


async def broken_task() -> None:
    await asyncio.sleep(3)
    broken()


def broken_process(env: simpy.Environment) -> Generator[simpy.Event, Any, None]:
    yield env.timeout(3)
    broken()


@pytest.mark.parametrize(
    "plant",
    [
        lambda loop: loop.call_at(3, broken),
        lambda loop: loop.wake(3, lambda _: broken()),
        lambda loop: loop.call_at(3, loop.call_soon, broken),
        lambda loop: loop.create_task(broken_task()) and None,
        lambda loop: loop.env.process(broken_process(loop.env)),
        lambda loop: loop.call_at(3, loop.event_of, broken_task()),
    ],
    ids=["timer", "wake-up", "callback", "unawaited task", "process", "coroutine as event"],
)
def test_an_error_ends_the_run_with_its_own_traceback(
    loop: SimLoop, plant: Callable[[SimLoop], object]
) -> None:
    late: list[float] = []
    loop.call_at(8, lambda: late.append(loop.time()))
    plant(loop)
    with pytest.raises(UnknownNameError) as caught:
        loop.run_to(10)
    assert "broken" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not late
    loop.run_to(10)  # whoever catches it may look at the rest
    assert late == [8]


def test_the_callbacks_after_the_failed_one_do_not_run_first(loop: SimLoop) -> None:
    order: list[str] = []
    loop.call_soon(broken)
    loop.call_soon(order.append, "next")
    with pytest.raises(UnknownNameError):
        loop.run_to(1)
    assert order == []


def test_an_exception_handler_of_one_s_own_is_asked_instead(loop: SimLoop) -> None:
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    loop.call_soon(broken)
    loop.run_to(1)
    assert isinstance(contexts[0]["exception"], UnknownNameError)


def test_keyboard_interrupt_passes_through(loop: SimLoop) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.call_at(1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_to(2)


def test_a_failed_process_that_somebody_awaits_is_theirs(loop: SimLoop) -> None:
    async def main() -> str:
        try:
            await loop.future_of(loop.env.process(broken_process(loop.env)))
        except UnknownNameError as error:
            return error.name
        return "nothing raised"

    assert loop.run_until_complete(main()) == "broken"


def test_nothing_left_to_happen_is_an_error_not_a_hang(loop: SimLoop) -> None:
    async def main() -> None:
        await asyncio.sleep(4)
        await loop.create_future()

    with pytest.raises(StalledError, match="t=4 s"):
        loop.run_until_complete(main())


def respawn(loop: SimLoop) -> None:
    loop.call_soon(respawn, loop)


def rearm(loop: SimLoop) -> None:
    loop.call_later(0, rearm, loop)


def idle(env: simpy.Environment) -> Generator[simpy.Event, Any, None]:
    while True:
        yield env.timeout(0)


@pytest.mark.parametrize(
    "plant",
    [lambda loop: respawn(loop), lambda loop: rearm(loop), lambda loop: loop.env.process(idle(loop.env))],
    ids=["call_soon", "call_later", "process"],
)
def test_a_loop_that_never_waits_is_an_error_not_a_hang(
    loop: SimLoop, plant: Callable[[SimLoop], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testbed.clock, "MOST_CALLBACKS_PER_INSTANT", 1000)
    loop.call_at(2, plant, loop)
    with pytest.raises(StalledError, match=r"t=2 s.*never waits"):
        loop.run_to(10)


def test_a_task_that_vanishes_while_it_waits_ends_the_run(loop: SimLoop) -> None:
    async def waits_for_what_nobody_holds() -> None:
        await loop.create_future()

    loop.call_at(1, lambda: loop.create_task(waits_for_what_nobody_holds()) and None)
    loop.call_at(2, gc.collect)
    with pytest.raises(RuntimeError, match=r"destroyed but it is pending.*waits_for_what_nobody_holds"):
        loop.run_to(3)


# -- threads ------------------------------------------------------------------------------------------------------


async def test_virtual_time_stands_still_while_a_job_runs_in_a_thread() -> None:
    loop = asyncio.get_running_loop()
    ticks: list[float] = []

    async def clock() -> None:
        while True:
            await asyncio.sleep(0.001)
            ticks.append(loop.time())

    task = asyncio.create_task(clock())
    await asyncio.sleep(0.0005)
    gate = threading.Event()
    threading.Timer(0.05, gate.set).start()
    assert await asyncio.to_thread(gate.wait, 10)
    assert loop.time() == 0.0005
    assert ticks == []
    task.cancel()


async def test_results_of_jobs_arrive_in_the_order_of_the_calls_whatever_ends_first() -> None:
    order: list[int] = []
    second_done = threading.Event()

    def first() -> None:
        assert second_done.wait(10)

    async def job(number: int, work: Callable[[], object]) -> None:
        await asyncio.to_thread(work)
        order.append(number)

    await asyncio.gather(job(1, first), job(2, second_done.set), job(3, lambda: None))
    assert order == [1, 2, 3]


async def test_what_a_job_raises_is_raised_where_it_is_awaited() -> None:
    with pytest.raises(UnknownNameError):
        await asyncio.to_thread(broken)
    context = contextvars.ContextVar("context", default=0)
    context.set(3)
    assert await asyncio.to_thread(context.get) == 3


async def test_a_canceled_job_does_not_disturb_those_after_it() -> None:
    gate = threading.Event()
    loop = asyncio.get_running_loop()
    first = loop.run_in_executor(None, gate.wait, 10)
    second = loop.run_in_executor(None, lambda: "second")
    first.cancel()
    gate.set()
    assert await second == "second"


async def test_a_job_may_call_the_loop_and_wait_for_its_answer() -> None:
    loop = asyncio.get_running_loop()

    async def answer() -> float:
        return loop.time()

    def job() -> float:
        return asyncio.run_coroutine_threadsafe(answer(), loop).result(10)

    await asyncio.sleep(2)
    assert await asyncio.to_thread(job) == 2


def test_a_job_that_waits_for_virtual_time_is_an_error_not_a_hang(
    loop: SimLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testbed.clock, "LONGEST_JOB", 0.05)
    gate = threading.Event()
    loop.run_in_executor(None, gate.wait, 10)
    loop.call_at(1, gate.set)
    with pytest.raises(StalledError, match="another thread"):
        loop.run_to(2)
    gate.set()


def test_a_foreign_thread_wakes_a_loop_with_nothing_to_do(
    loop: SimLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testbed.clock, "LONGEST_SILENCE", 10)
    threads: list[str] = []

    def arrived() -> None:
        threads.append(threading.current_thread().name)
        loop.stop()

    outside = threading.Thread(target=lambda: loop.call_soon_threadsafe(arrived))
    loop.call_soon(outside.start)
    loop.run_forever()
    outside.join()
    assert threads == [threading.current_thread().name]


def test_what_other_threads_said_before_the_run_is_heard_by_run_to(loop: SimLoop) -> None:
    seen: list[float] = []
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(lambda: seen.append(loop.time())))
    thread.start()
    thread.join()
    loop.run_to(1)
    assert seen == [0]


async def test_the_default_executor_is_shut_down_after_its_jobs() -> None:
    loop = asyncio.get_running_loop()
    job = loop.run_in_executor(None, lambda: "done")
    await loop.shutdown_default_executor()
    assert job.result() == "done"
    with pytest.raises(RuntimeError, match="shutdown"):
        loop.run_in_executor(None, print)


# -- SimPy and asyncio --------------------------------------------------------------------------------------------


async def test_a_task_awaits_a_process_and_a_process_a_coroutine() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)

    async def double(number: int) -> int:
        await asyncio.sleep(1)
        return 2 * number

    def process() -> Generator[simpy.Event, Any, int]:
        yield loop.env.timeout(2)
        answer = yield loop.event_of(double(21))
        return int(answer)

    assert await loop.future_of(loop.env.process(process())) == 42
    assert loop.time() == 3
    past = loop.env.event().succeed("past")
    await asyncio.sleep(1)
    assert await loop.future_of(past) == "past"


async def test_a_process_can_catch_what_a_coroutine_raises() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)

    async def refuse() -> None:
        raise ConnectionRefusedError("closed")

    def process() -> Generator[simpy.Event, Any, str]:
        try:
            yield loop.event_of(refuse())
        except ConnectionRefusedError:
            return "caught"
        return "nothing raised"

    assert await loop.future_of(loop.env.process(process())) == "caught"


def test_the_end_of_a_life_silences_its_tasks_and_timers_and_nothing_else(loop: SimLoop) -> None:
    told: list[str] = []
    context, life = contextvars.copy_context(), Life()
    context.run(LIFE.set, life)

    async def program(name: str) -> None:
        loop.call_at(5, told.append, f"timer of {name}")
        try:
            await asyncio.sleep(5)
            told.append(f"end of {name}")
        except asyncio.CancelledError:
            told.append(f"{name} canceled")
            await asyncio.sleep(1)
            told.append("the dead speak")

    loop.create_task(program("mortal"), context=context)
    loop.create_task(program("other"))
    loop.call_at(2, loop.end_life, life)
    loop.run_to(10)
    assert told == ["mortal canceled", "timer of other", "end of other"]


# -- containment and determinism ----------------------------------------------------------------------------------


async def test_everything_that_needs_the_operating_system_is_refused() -> None:
    loop: Any = asyncio.get_running_loop()
    with socket.socket() as own:
        own.setblocking(False)
        calls: list[Callable[[], Any]] = [
            lambda: loop.add_reader(0, print),
            lambda: loop.add_writer(0, print),
            lambda: loop.remove_reader(0),
            lambda: loop.remove_writer(0),
            lambda: loop.add_signal_handler(2, print),
            lambda: loop.sock_recv(own, 1),
            lambda: loop.sock_recv_into(own, bytearray(1)),
            lambda: loop.sock_recvfrom(own, 1),
            lambda: loop.sock_sendall(own, b"x"),
            lambda: loop.sock_sendto(own, b"x", ("127.0.0.1", 9)),
            lambda: loop.sock_connect(own, ("127.0.0.1", 9)),
            lambda: loop.sock_accept(own),
            lambda: loop.create_unix_connection(asyncio.Protocol, "/nowhere"),
            lambda: loop.create_unix_server(asyncio.Protocol, "/nowhere"),
            lambda: loop.connect_accepted_socket(asyncio.Protocol, own),
            lambda: loop.connect_read_pipe(asyncio.Protocol, sys.stdin),
            lambda: loop.connect_write_pipe(asyncio.Protocol, sys.stdout),
            lambda: loop.subprocess_exec(asyncio.SubprocessProtocol, "true"),
            lambda: loop.subprocess_shell(asyncio.SubprocessProtocol, "true"),
            lambda: loop.create_connection(asyncio.Protocol, sock=own),
            lambda: loop.create_server(asyncio.Protocol, sock=own),
            lambda: loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=own),
        ]

        async def attempt(call: Callable[[], Any]) -> None:
            result = call()
            if asyncio.iscoroutine(result):
                await result

        for call in calls:
            with pytest.raises(NotImplementedError):
                await attempt(call)


async def test_names_are_resolved_without_the_machine_s_resolver() -> None:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo("localhost", 502)
    assert found[0][4] == ("10.0.0.2", 502)
    assert await loop.getnameinfo(("10.0.0.9", 502)) == ("10.0.0.9", "502")
    with pytest.raises(socket.gaierror):
        await loop.getaddrinfo("example.org", 80)


def test_a_loop_without_a_network_says_so(loop: SimLoop) -> None:
    with pytest.raises(OSError, match="no network"):
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "plc", 502))


SCENE = textwrap.dedent(
    """
    import asyncio
    from testbed.clock import SimLoop

    loop, order = SimLoop(), []

    async def worker(name, delay):
        for _ in range(3):
            await asyncio.sleep(delay)
            order.append((loop.time(), name))

    async def main():
        names = {f"worker {n}" for n in range(20)}
        tasks = [asyncio.create_task(worker(n, 1 + int(n[7:]) % 3)) for n in sorted(names)]
        for task in asyncio.as_completed(tasks):
            await task
        async with asyncio.TaskGroup() as group:
            for name in sorted(names):
                group.create_task(worker(name, 1))
            await asyncio.sleep(1.5)
            for task in group._tasks:
                task.cancel()
                task.add_done_callback(lambda task: order.append(task.get_name()))

    loop.run_until_complete(main())
    loop.close()
    print(order)
    """
)


def test_the_order_is_the_same_in_every_process_and_under_every_hash_seed() -> None:
    root = Path(__file__).parent.parent
    told = {
        subprocess.run(
            [sys.executable, "-c", SCENE],
            cwd=root,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(told) == 1
    assert b"worker 19" in told.pop()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("tpw"), st.integers(0, 4), st.integers(1, 3)), max_size=12))
def test_tasks_processes_and_wakeups_never_go_back_in_time(plan: list[tuple[str, int, int]]) -> None:
    loop = SimLoop()
    seen: list[float] = []

    def process(delay: int, times: int) -> Generator[simpy.Event, Any, None]:
        for _ in range(times):
            yield loop.env.timeout(delay)
            seen.append(loop.time())

    async def task(delay: int, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(delay)
            seen.append(loop.time())

    for kind, delay, times in plan:
        if kind == "t":
            loop.create_task(task(delay, times))
        elif kind == "p":
            loop.env.process(process(delay, times))
        else:
            loop.wake(delay, lambda _: seen.append(loop.time()))
    loop.run_to(100)
    loop.close()
    assert seen == sorted(seen)
    assert len(seen) == sum(times if kind != "w" else 1 for kind, _, times in plan)
