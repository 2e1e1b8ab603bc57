"""SimPy is the asyncio event loop.

Real protocol libraries are written for asyncio; the plant is written for SimPy. Here both share one clock and one
queue: ``loop.time()`` is ``env.now``, timers are SimPy events, and nothing waits for the wall clock. A day of protocol
traffic then takes as long as its computation and always happens in the same order:

- events run by time, at equal times in the order in which they were scheduled;
- what an event makes ready (``call_soon``, a future's waiters, a task's next step) runs right after it, first in first
  out, before the next event.

What a callback raises ends the run with its own traceback, because a testbed that carries on after a broken device
would report numbers of a world that does not exist.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import socket
import sys
import threading
from asyncio import events, futures
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import simpy
from simpy.events import NORMAL

from testbed.errors import OtlabError

T = TypeVar("T")

#: Date of virtual second 0 unless a site says otherwise: a Monday morning, so that shifts begin with a run.
EPOCH = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
#: After everything else that happens at the same instant (SimPy's own priorities are 0 and 1).
LAST = 9
#: So many callbacks or events within one instant mean a loop that never waits, and virtual time would stand still for
#: ever. Assumption: no world has as many things to do at once.
MOST_CALLBACKS_PER_INSTANT = 1_000_000
#: Canceled timers are swept out of the queue once there are this many and they are half of it.
SWEEP_FROM = 1_000
#: Rounds of ready callbacks that canceled tasks get for cleaning up before the loop closes. Assumption.
CLEANING_ROUNDS = 100
#: Wall-clock seconds: how long a job in another thread may take while virtual time waits for it, and how long an
#: empty queue waits for another thread to call back. Assumptions; neither shows in a run that goes on.
LONGEST_JOB = 300.0
LONGEST_SILENCE = 0.05


class StalledError(OtlabError):
    """Virtual time cannot go on: nothing is scheduled, or a callback keeps rescheduling itself without waiting."""


class Life:
    """A machine's running from power-on to power-off; its tasks end and its timers stay silent once it is over."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


#: The life that the running code belongs to: inherited, as any context variable, by the tasks and timers it makes.
LIFE: ContextVar[Life] = ContextVar("life")
_IMMORTAL = Life()


class Wakeup:
    """A SimPy event reduced to one call of ``action(data)``.

    SimPy's own ``Event`` costs about three times as much to make, and the network makes one per segment.
    """

    __slots__ = ("_loop", "action", "data")

    _ok = True  # what Environment.step looks at after the callbacks

    def __init__(self, action: Callable[[Any], object], data: Any, loop: SimLoop) -> None:
        self.action = action
        self.data = data
        self._loop = loop

    @property
    def callbacks(self) -> Any:
        """For ``Environment.step``; the loop's own stepping calls ``action`` at once."""
        return (self._loop._fire,)

    @callbacks.setter
    def callbacks(self, _: None) -> None:
        pass


class _Timer(asyncio.TimerHandle):
    """A timer handle that is also the SimPy event that fires it."""

    __slots__ = ()

    _ok = True
    _scheduled: bool

    @property
    def callbacks(self) -> Any:
        return (cast("SimLoop", self._loop)._fire,)  # type: ignore[attr-defined]

    @callbacks.setter
    def callbacks(self, _: None) -> None:
        pass


class SimTask(asyncio.Task[T]):
    """A task whose hash is its number on the loop.

    ``asyncio.TaskGroup``, ``wait`` and ``all_tasks`` walk sets of tasks; hashed by address, as usual, they would
    cancel and resume them in another order in every process. (``asyncio.as_completed`` makes a set of the very
    coroutines it is given: give it tasks.)
    """

    __slots__ = ("life", "number")

    if TYPE_CHECKING:
        _log_destroy_pending: bool

    def __init__(
        self, number: int, life: Life | None, coroutine: Coroutine[Any, Any, T], **options: Any
    ) -> None:
        self.number = number
        self.life = life
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.number


class Stack(Protocol):
    """What the loop needs of a network; ``testbed.network.Network`` is one."""

    async def open_connection(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **options: Any
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]: ...

    async def open_server(
        self, factory: Callable[[], asyncio.BaseProtocol], host: Any, port: int, **options: Any
    ) -> asyncio.AbstractServer: ...

    async def open_datagrams(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        local: tuple[str, int] | None,
        remote: tuple[str, int] | None,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]: ...

    def resolve(self, name: str) -> str: ...

    def close(self) -> None: ...


class SimLoop(asyncio.BaseEventLoop):
    """An asyncio event loop whose time and queue are a ``simpy.Environment``.

    Use it as any loop (``asyncio.Runner(loop_factory=SimLoop)``), or advance it together with SimPy processes by
    ``loop.run_to(seconds)``. Connections go through ``loop.stack``, an in-memory network: this loop has no way to
    open a socket of the operating system, so nothing that runs on it can address anything outside the process.

    ``epoch`` is the date (with time zone) of virtual second 0. ``entropy`` is where code that would ask the operating
    system for random bytes gets them instead; whoever builds a run replaces it by a stream of that run's seed.
    """

    if TYPE_CHECKING:  # what asyncio.BaseEventLoop has and its stubs leave out
        _closed: bool
        _debug: bool
        _stopping: bool
        _thread_id: int | None
        _task_factory: object
        _executor_shutdown_called: bool

        def _check_closed(self) -> None: ...
        def _check_thread(self) -> None: ...
        def _check_callback(self, callback: object, method: str) -> None: ...
        def _check_default_executor(self) -> None: ...
        def _set_coroutine_origin_tracking(self, enabled: bool) -> None: ...
        def _asyncgen_firstiter_hook(self, agen: Any) -> None: ...
        def _asyncgen_finalizer_hook(self, agen: Any) -> None: ...

    def __init__(self, env: simpy.Environment | None = None) -> None:
        super().__init__()
        self.env = env if env is not None else simpy.Environment()
        self.stack: Stack | None = None
        self.epoch: datetime = EPOCH
        self.entropy = random.Random("simloop")
        self._callbacks: deque[asyncio.Handle] = deque()
        #: true while somebody is going to run the ready callbacks, so that call_soon need not schedule it
        self._attended = False
        self._failure: BaseException | None = None
        self._ended = False
        self._task_numbers = count(1)
        self._deaths = False
        self._canceled_timers = 0
        self._inbox: deque[asyncio.Handle] = deque()
        self._outside = threading.Condition()
        self._jobs: deque[tuple[concurrent.futures.Future[Any], asyncio.Future[Any]]] = deque()
        self._jobs_due = False
        self._workers: concurrent.futures.ThreadPoolExecutor | None = None

    # -- time and the queue ------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the environment's start."""
        return self.env._now

    def schedule(self, when: float, event: Any, priority: int = NORMAL) -> None:
        """Put a SimPy event on the queue at the exact instant ``when``.

        ``Environment.schedule`` takes a delay, and ``now + (when - now)`` is not always ``when`` in floating point.
        """
        env = self.env
        heappush(env._queue, (when, priority, next(env._eid), event))  # type: ignore[misc]

    def wake(
        self, when: float, action: Callable[[Any], object], data: Any = None, priority: int = NORMAL
    ) -> None:
        """Call ``action(data)`` at ``when`` as part of this loop: cheaper than ``call_at``, cannot be canceled."""
        env = self.env
        heappush(env._queue, (when, priority, next(env._eid), Wakeup(action, data, self)))  # type: ignore[misc]

    async def until(self, when: float) -> None:
        """Wait until virtual second ``when``: ``asyncio.sleep`` at half its cost, for what sleeps every second."""
        if when > self.env._now:
            waiter = self.create_future()
            self.wake(when, _awaken, waiter)
            await waiter

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self._closed or self._debug:
            self._check(callback, "call_soon")
        handle = asyncio.Handle(callback, args, self, context)
        self._callbacks.append(handle)
        if not self._attended:
            self._attend()
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self._closed or self._debug:
            self._check(callback, "call_at")
        timer = _Timer(when, callback, args, self, context)
        timer._scheduled = True
        now = self.env._now
        self.schedule(when if when > now else now, timer)
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.env._now + delay, callback, *args, context=context)

    def _check(self, callback: object, method: str) -> None:
        self._check_closed()
        self._check_thread()
        self._check_callback(callback, method)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # Taking one timer out of a heap costs more than letting its time pass; a library that arms a long time-out
        # for each request would fill the queue, though.
        if cast(_Timer, handle)._scheduled:
            self._canceled_timers += 1
            queue = cast(list[Any], self.env._queue)
            if self._canceled_timers >= SWEEP_FROM and self._canceled_timers * 2 > len(queue):
                queue[:] = [entry for entry in queue if not _is_canceled(entry[3])]
                # Entries are totally ordered, so what is left runs in the same order as before.
                heapify(queue)
                self._canceled_timers = 0

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        if self._task_factory is not None:
            return super().create_task(coro, name=name, context=context)
        self._check_closed()
        number = next(self._task_numbers)
        life = context.get(LIFE) if context is not None else LIFE.get(None)
        # asyncio's own default names count through the whole process, so a second run would log others.
        name = f"Task-{number}" if name is None else name
        return SimTask(number, life, coro, loop=self, name=name, context=context)

    # -- stepping ----------------------------------------------------------------------------------------------

    def _advance(self, until: float) -> None:
        """Let everything before ``until`` happen; returns early once stopped, or with nothing left to happen."""
        env = self.env
        queue = cast(list[Any], env._queue)
        callbacks = self._callbacks
        left = MOST_CALLBACKS_PER_INSTANT
        outer, self._attended = self._attended, True
        try:
            if self._inbox:
                self._take_inbox()
            if callbacks:
                self._drain()
            while queue and not self._stopping:
                when = queue[0][0]
                if when >= until:
                    break
                event = heappop(queue)[3]
                if when > env._now:
                    env._now = when
                    left = MOST_CALLBACKS_PER_INSTANT
                else:
                    left -= 1
                    if not left:
                        raise StalledError(
                            f"at t={when:g} s time stands still: {_described(event)} never waits"
                        )
                kind = type(event)
                if kind is Wakeup:
                    event.action(event.data)
                elif kind is _Timer:
                    self._ring(event)
                else:
                    _process(event)
                if self._inbox:
                    self._take_inbox()
                if callbacks:
                    self._drain()
                if self._failure is not None:
                    self._raise_failure()
        finally:
            self._attended = outer
            if callbacks and not outer:
                self._attend()

    def _ring(self, timer: _Timer) -> None:
        timer._scheduled = False
        if timer._cancelled:
            self._canceled_timers -= 1
        elif not (self._deaths and timer._context.get(LIFE, _IMMORTAL).over):  # type: ignore[attr-defined]
            timer._run()

    def _drain(self) -> None:
        """Run ready callbacks, and those they make ready, until none is left, one fails or the loop is stopped."""
        callbacks = self._callbacks
        left = MOST_CALLBACKS_PER_INSTANT
        while callbacks:
            # In rounds, as asyncio does: after stop() the callbacks that are ready by now still run, no others.
            for _ in range(len(callbacks)):
                handle = callbacks.popleft()
                if not handle._cancelled:
                    handle._run()
                    if self._failure is not None:
                        self._raise_failure()
            if self._stopping:
                return
            left -= 1
            if not left:
                raise StalledError(f"at t={self.env.now:g} s time stands still: {handle!r} never waits")

    def _attend(self) -> None:
        """Have the ready callbacks run by an event, for when nothing else is going to."""
        self._attended = True
        self.wake(self.env._now, _nothing)

    def _fire(self, event: Wakeup | _Timer) -> None:
        """Run one event of this loop on behalf of somebody who steps the environment directly."""
        with self._running():
            self._attended = True
            try:
                if isinstance(event, _Timer):
                    self._ring(event)
                else:
                    event.action(event.data)
                self._drain()
                if self._failure is not None:
                    self._raise_failure()
            finally:
                self._attended = False
                if self._callbacks:
                    self._attend()

    # -- running -----------------------------------------------------------------------------------------------

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Be the running loop of this thread, also inside a callback of another loop."""
        previous, thread = events._get_running_loop(), self._thread_id
        hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook,
            finalizer=self._asyncgen_finalizer_hook,
        )
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(previous)
            self._thread_id = thread

    def _run_once(self) -> None:
        """All turns of ``run_forever`` until it is stopped, waiting for other threads when nothing is scheduled."""
        self._advance(inf)
        if not self._stopping and not self._wait_outside(LONGEST_SILENCE):
            raise StalledError(
                f"nothing is left to happen after t={self.env.now:g} s, yet something still waits"
            )

    def run_to(self, until: float) -> None:
        """Let SimPy processes and asyncio tasks run until virtual second ``until``.

        What is due at ``until`` itself is left for the next call. Returns early if the loop is stopped.
        Raises whatever a callback or an unawaited task raised, with its own traceback.
        """
        self._check_closed()
        if self.is_running():
            raise RuntimeError("the loop is already running")
        if until < self.env.now:
            raise ValueError(f"t={until:g} s is past already: it is t={self.env.now:g} s")
        self._set_coroutine_origin_tracking(self._debug)
        try:
            with self._running():
                self._advance(until)
            if not self._stopping:
                self.env._now = until
        finally:
            self._stopping = False
            self._set_coroutine_origin_tracking(False)

    def fail(self, error: BaseException) -> None:
        """End the run with ``error`` as soon as the current callback returns; the first of several counts."""
        if self._failure is None and not self._ended:
            self._failure = error
            if not self._attended:
                self._attend()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        assert failure is not None
        raise failure

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            what = context.get("message", "unhandled error in the loop")
            error = RuntimeError(f"{what} {context.get('task', '')}".rstrip())
        self.fail(error)

    def end_life(self, life: Life) -> None:
        """End what belongs to ``life``: its tasks are canceled, in the order of their making, its timers ignored."""
        life.over = True
        self._deaths = True
        for task in self._tasks():
            if isinstance(task, SimTask) and task.life is life:
                # What waits for a peer that will never be heard again stays pending, and that is no defect.
                task._log_destroy_pending = False
                task.cancel()

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=lambda task: getattr(task, "number", 0))

    def close(self) -> None:
        """End all connections, cancel the tasks that still run, let them clean up at this instant, and close.

        asyncio leaves all but the last to ``asyncio.Runner`` and the programs; a world that was driven by ``run_to``
        has no Runner. Errors of the cleaning up are dropped: the run is over.
        """
        if self.is_running():
            raise RuntimeError("cannot close a running loop")
        if self._closed:
            return
        self._ended = True
        self._failure = None
        if self.stack is not None:
            self.stack.close()
        with self._running():
            for task in self._tasks():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                task.cancel()
            self._attended = True
            self._stopping = (
                True  # makes each drain one round: what reschedules itself for ever must not keep us
            )
            for _ in range(CLEANING_ROUNDS):
                self._drain()
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)
            self._workers = None
        self._callbacks.clear()
        self._inbox.clear()
        self._jobs.clear()
        super().close()

    def __del__(self, _warn: object = None) -> None:
        """Nothing: unlike a loop with a selector, this one holds nothing of the operating system."""

    # -- other threads -----------------------------------------------------------------------------------------

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() == self._thread_id:
            return self.call_soon(callback, *args, context=context)
        self._check_closed()
        handle = asyncio.Handle(callback, args, self, context)
        with self._outside:
            self._inbox.append(handle)
            self._outside.notify_all()
        return handle

    def _take_inbox(self) -> None:
        while self._inbox:
            self._callbacks.append(self._inbox.popleft())

    def _wait_outside(self, seconds: float) -> bool:
        """Wait (wall clock) for another thread to call back; False if none did."""
        with self._outside:
            return self._outside.wait_for(lambda: bool(self._inbox), seconds)

    def run_in_executor(  # type: ignore[override]
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run ``func`` in a thread while virtual time stands still; results arrive in the order of the calls."""
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None:
            self._check_default_executor()
            if self._workers is None:
                self._workers = concurrent.futures.ThreadPoolExecutor(4, thread_name_prefix="simloop")
            executor = self._workers
        result: asyncio.Future[T] = futures.Future(loop=self)
        job = executor.submit(func, *args)
        self._jobs.append((job, result))
        job.add_done_callback(self._job_done)
        if not self._jobs_due:
            self._jobs_due = True
            self.wake(self.env._now, self._wait_for_jobs, None, LAST)
        return result

    def _job_done(self, _job: object) -> None:
        with self._outside:
            self._outside.notify_all()

    def _wait_for_jobs(self, _: object) -> None:
        """Take what the oldest job, or another thread, has to say; runs after all else of this instant."""
        with self._outside:
            heard = self._outside.wait_for(
                lambda: bool(self._inbox) or self._jobs[0][0].done(), timeout=LONGEST_JOB
            )
        if not heard:
            raise StalledError(f"a job in another thread has not ended in {LONGEST_JOB:g} s of real time")
        self._take_inbox()
        while self._jobs and self._jobs[0][0].done():
            job, result = self._jobs.popleft()
            if result.cancelled():
                continue
            if job.cancelled():
                result.cancel()
            elif (error := job.exception()) is not None:
                result.set_exception(error)
            else:
                result.set_result(job.result())
        self._jobs_due = bool(self._jobs)
        if self._jobs:
            self.wake(self.env._now, self._wait_for_jobs, None, LAST)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own signature
        self._executor_shutdown_called = True
        if self._jobs:
            await asyncio.wait([result for _, result in self._jobs])
        if self._workers is not None:
            self._workers.shutdown(wait=True)
            self._workers = None

    # -- SimPy from asyncio and back ---------------------------------------------------------------------------

    def future_of(self, event: simpy.Event) -> asyncio.Future[Any]:
        """A future with the outcome of a SimPy event: ``await loop.future_of(env.process(...))``.

        A failed event is raised where the future is awaited, and then no longer ends the run by itself.
        """
        future: asyncio.Future[Any] = self.create_future()

        def happened(event: simpy.Event) -> None:
            if future.done():
                return
            if event.ok:
                future.set_result(event.value)
            else:
                event.defused = True
                future.set_exception(cast(BaseException, event.value))

        if event.processed:
            happened(event)
        else:
            event.callbacks.append(happened)
        return future

    def event_of(self, coroutine: Coroutine[Any, Any, Any]) -> simpy.Event:
        """A SimPy event with the outcome of a coroutine: ``result = yield loop.event_of(client.read())``."""
        event = self.env.event()

        def done(task: asyncio.Task[Any]) -> None:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is None:
                event.succeed(task.result())
            else:
                event.fail(cast(Exception, error))

        self.create_task(coroutine).add_done_callback(done)
        return event

    # -- the network -------------------------------------------------------------------------------------------

    def _network(self, options: dict[str, Any]) -> Stack:
        if options.get("sock") is not None:
            raise NotImplementedError("this loop does not take sockets of the operating system")
        if self.stack is None:
            raise OSError("this loop has no network: make one with testbed.network.Network(loop)")
        return self.stack

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        **options: Any,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Connect through the in-memory network from the host that the calling task runs on."""
        stack = self._network(options)
        if host is None or port is None:
            raise ValueError("a simulated connection needs a host and a port")
        return await stack.open_connection(protocol_factory, host, int(port), **options)

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: int | None = None,
        **options: Any,
    ) -> asyncio.AbstractServer:
        """Listen on the host that the calling task runs on."""
        return await self._network(options).open_server(protocol_factory, host, int(port or 0), **options)

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        **options: Any,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Open a UDP endpoint on the host that the calling task runs on."""
        return await self._network(options).open_datagrams(protocol_factory, local_addr, remote_addr)

    async def getaddrinfo(  # type: ignore[override]
        self, host: str | None, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        """Names of simulated hosts only; the machine's resolver is never asked."""
        address = self._network({}).resolve(host or "localhost")
        kind = type or socket.SOCK_STREAM
        return [(socket.AF_INET, kind, proto, "", (address, int(port or 0)))]

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """The numbers as they are; no resolver is asked."""
        return str(sockaddr[0]), str(sockaddr[1])


def _process(event: simpy.Event) -> None:
    """What ``Environment.step`` does with an event of SimPy's own, but for one thing.

    SimPy raises a copy of the exception that a process died of, made by calling its class with ``args``: the
    traceback is lost, and classes with another signature cannot be copied at all.
    """
    callbacks: Any = event.callbacks
    event.callbacks = None  # type: ignore[assignment]
    for callback in callbacks:
        callback(event)
    if not event._ok and not event.defused:
        raise event._value


def _is_canceled(event: object) -> bool:
    return type(event) is _Timer and event.cancelled()


def _described(event: object) -> str:
    return repr(event.action if isinstance(event, Wakeup) else event)


def _awaken(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _nothing(_: object) -> None:
    """The action of a wake-up that only has the ready callbacks run."""
