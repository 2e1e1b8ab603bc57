"""SimPy is the asyncio event loop.

Real protocol libraries are written for asyncio; the plant is written for SimPy. Here both share one clock and one
queue: every asyncio callback is a SimPy event, ``loop.time()`` is ``env.now``, and nothing waits for the wall clock.
A day of protocol traffic then takes as long as its computation and always happens in the same order.

What a callback raises ends the run with its own traceback, because a testbed that carries on after a broken device
would report numbers of a world that does not exist.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
from asyncio import events, futures
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from heapq import heappush
from typing import Any, Protocol, TypeVar

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL

from testbed.errors import OtlabError

T = TypeVar("T")

#: After everything else that happens at the same instant (SimPy's own priorities are 0 and 1).
LAST = 9
#: So many callbacks within one instant mean a loop that never waits, and virtual time would stand still for ever.
MOST_CALLBACKS_PER_INSTANT = 5_000_000


class StalledError(OtlabError):
    """Virtual time cannot go on: nothing is scheduled, or a callback keeps rescheduling itself without waiting."""


class Wakeup:
    """A SimPy event reduced to what ``Environment.step`` touches: it calls ``action(data)`` once.

    SimPy's own ``Event`` costs about three times as much to make, and the network makes one per segment.
    """

    __slots__ = ("_ok", "action", "callbacks", "data")

    def __init__(self, action: Callable[[Any], object], data: Any, fire: Callable[[Any], None]) -> None:
        self.callbacks: Any = (fire,)
        self._ok = True
        self.action = action
        self.data = data


class _Timer(asyncio.TimerHandle):
    """A timer handle that is also the SimPy event that fires it."""

    __slots__ = ("_ok", "callbacks")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: SimLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.callbacks: Any = (loop._fire_timer,)
        self._ok = True


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


class SimLoop(asyncio.BaseEventLoop):
    """An asyncio event loop whose time and queue are a ``simpy.Environment``.

    Use it as any loop (``asyncio.Runner(loop_factory=SimLoop)``), or advance it together with SimPy processes by
    ``loop.run_to(seconds)``. Connections go through ``loop.stack``, an in-memory network: this loop has no way to
    open a socket of the operating system, so nothing that runs on it can address anything outside the process.
    """

    def __init__(self, env: simpy.Environment | None = None) -> None:
        super().__init__()
        self.env = env if env is not None else simpy.Environment()
        self.stack: Stack | None = None
        self._callbacks: deque[asyncio.Handle] = deque()
        self._drain_due = False
        self._failure: BaseException | None = None
        self._inbox: deque[asyncio.Handle] = deque()
        self._outside = threading.Condition()
        self._jobs: deque[tuple[concurrent.futures.Future[Any], asyncio.Future[Any]]] = deque()
        self._jobs_due = False
        self._workers: concurrent.futures.ThreadPoolExecutor | None = None

    # -- time and the queue ------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the environment's start."""
        return self.env.now

    def schedule(self, when: float, event: Any, priority: int = NORMAL) -> None:
        """Put a SimPy event on the queue at the exact instant ``when``.

        ``Environment.schedule`` takes a delay, and ``now + (when - now)`` is not always ``when`` in floating point.
        """
        heappush(self.env._queue, (when, priority, next(self.env._eid), event))  # type: ignore[misc]

    def wake(
        self, when: float, action: Callable[[Any], object], data: Any = None, priority: int = NORMAL
    ) -> None:
        """Call ``action(data)`` at ``when`` as part of this loop: cheaper than ``call_at``, cannot be canceled."""
        self.schedule(when, Wakeup(action, data, self._fire_wakeup), priority)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._callbacks.append(handle)
        if not self._drain_due:
            self._drain_due = True
            self.schedule(self.env.now, Wakeup(_nothing, None, self._fire_wakeup))
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        now = self.env.now
        timer = _Timer(when if when > now else now, callback, args, self, context)
        self.schedule(timer._when, timer)  # type: ignore[attr-defined]
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.env.now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A canceled timer stays queued and does nothing: taking it out of a heap costs more than passing it."""

    def _fire_timer(self, timer: _Timer) -> None:
        if not timer._cancelled:
            previous = events._get_running_loop()
            if previous is not self:
                events._set_running_loop(self)
            try:
                timer._run()
                self._drain()
            finally:
                if previous is not self:
                    events._set_running_loop(previous)

    def _fire_wakeup(self, event: Wakeup) -> None:
        previous = events._get_running_loop()
        if previous is not self:
            events._set_running_loop(self)
        try:
            event.action(event.data)
            self._drain()
        finally:
            if previous is not self:
                events._set_running_loop(previous)

    def _drain(self) -> None:
        callbacks = self._callbacks
        # While draining, call_soon need not schedule: whatever it appends is taken by this very loop.
        self._drain_due = True
        left = MOST_CALLBACKS_PER_INSTANT
        try:
            while callbacks:
                handle = callbacks.popleft()
                if not handle._cancelled:
                    handle._run()
                left -= 1
                if not left:
                    raise StalledError(
                        f"a callback reschedules itself for ever at t={self.env.now:g} s: {handle!r}"
                    )
        finally:
            self._drain_due = False
            if callbacks:
                self._drain_due = True
                self.schedule(self.env.now, Wakeup(_nothing, None, self._fire_wakeup))
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # -- running -----------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """One turn of ``run_forever``: one SimPy event, or a wait for another thread when none is left."""
        if self._inbox:
            self._take_inbox()
        try:
            self.env.step()
        except EmptySchedule:
            if not self._wait_outside(0.05) and not self._stopping:
                raise StalledError(
                    f"nothing is left to happen after t={self.env.now:g} s, yet something still waits"
                ) from None

    def run_to(self, until: float) -> None:
        """Let SimPy processes and asyncio tasks run until virtual second ``until``.

        Raises whatever a callback or an unawaited task raised, with its own traceback.
        """
        if self.is_running():
            raise RuntimeError("the loop is already running")
        self._check_closed()  # type: ignore[attr-defined]
        previous = events._get_running_loop()
        events._set_running_loop(self)
        self._thread_id = threading.get_ident()
        try:
            self.env.run(until=until)
        finally:
            self._thread_id = None  # type: ignore[assignment]
            events._set_running_loop(previous)

    def stop(self) -> None:
        self._stopping = True
        self.call_soon(_nothing, None)

    def fail(self, error: BaseException) -> None:
        """End the run with ``error`` as soon as the current callback returns."""
        if self._failure is None:
            self._failure = error
        if not self._drain_due:
            self.call_soon(_nothing, None)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.fail(
            error
            if error is not None
            else RuntimeError(context.get("message", "unhandled error in the loop"))
        )

    # -- other threads -----------------------------------------------------------------------------------------

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() == self._thread_id:
            return self.call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        with self._outside:
            self._inbox.append(handle)
            self._outside.notify_all()
        return handle

    def _take_inbox(self) -> None:
        while self._inbox:
            self._callbacks.append(self._inbox.popleft())
        if self._callbacks and not self._drain_due:
            self._drain_due = True
            self.schedule(self.env.now, Wakeup(_nothing, None, self._fire_wakeup))

    def _wait_outside(self, seconds: float) -> bool:
        with self._outside:
            if not self._inbox:
                self._outside.wait(seconds)
            found = bool(self._inbox)
        self._take_inbox()
        return found

    def run_in_executor(  # type: ignore[override]
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run ``func`` in a thread while virtual time stands still; results arrive in the order of the calls."""
        self._check_closed()  # type: ignore[attr-defined]
        if executor is None:
            if self._workers is None:
                self._workers = concurrent.futures.ThreadPoolExecutor(4, thread_name_prefix="simloop")
            executor = self._workers
        result: asyncio.Future[T] = futures.Future(loop=self)
        job = executor.submit(func, *args)
        job.add_done_callback(self._job_done)
        self._jobs.append((job, result))
        if not self._jobs_due:
            self._jobs_due = True
            self.wake(self.env.now, self._wait_for_jobs, None, LAST)
        return result

    def _job_done(self, _job: object) -> None:
        with self._outside:
            self._outside.notify_all()

    def _wait_for_jobs(self, _: object) -> None:
        with self._outside:
            self._outside.wait_for(lambda: bool(self._inbox) or self._jobs[0][0].done())
        self._take_inbox()
        while self._jobs and self._jobs[0][0].done():
            job, result = self._jobs.popleft()
            if not result.cancelled():
                error = job.exception()
                if error is not None:
                    result.set_exception(error)
                else:
                    result.set_result(job.result())
        self._jobs_due = bool(self._jobs)
        if self._jobs:
            self.wake(self.env.now, self._wait_for_jobs, None, LAST)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own signature
        if self._workers is not None:
            self._workers.shutdown(wait=True)
            self._workers = None

    def close(self) -> None:
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)
            self._workers = None
        self._callbacks.clear()
        super().close()

    # -- the network -------------------------------------------------------------------------------------------

    def _network(self) -> Stack:
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
        if host is None or port is None:
            raise ValueError("a simulated connection needs a host and a port")
        return await self._network().open_connection(protocol_factory, host, int(port), **options)

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: int | None = None,
        **options: Any,
    ) -> asyncio.AbstractServer:
        """Listen on the host that the calling task runs on."""
        return await self._network().open_server(protocol_factory, host, int(port or 0), **options)

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        **_options: Any,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Open a UDP endpoint on the host that the calling task runs on."""
        return await self._network().open_datagrams(protocol_factory, local_addr, remote_addr)

    async def getaddrinfo(  # type: ignore[override]
        self, host: str | None, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        """Names of simulated hosts only; the machine's resolver is never asked."""
        address = self._network().resolve(host or "localhost")
        kind = type or socket.SOCK_STREAM
        return [(socket.AF_INET, kind, proto, "", (address, int(port or 0)))]

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        return str(sockaddr[0]), str(sockaddr[1])


def _nothing(_: object) -> None:
    """The action of a wake-up that only drains the ready callbacks."""
