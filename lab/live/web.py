"""The pages of a live lab: the operator's screen for whoever has the student's token, the console for the instructor.

Who may do what is decided here and nowhere else: a session by cookie (``HttpOnly``, ``SameSite=Strict``), a token in a
header for everything that changes anything, and a ``Host`` that is this machine's own. Pages load nothing from anywhere
but here, and say so in a content security policy. Files are a fixed table, so that no path of a request opens one.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast
from urllib.parse import parse_qs

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from controls.catalogue import SecurityLevels
from controls.selection import select
from lab.live import views
from lab.live.engine import BusyError, Engine
from lab.live.mimic import draw
from lab.live.session import Session
from scenarios.experiment import Experiment
from testbed.errors import OtlabError

Role: TypeAlias = Literal["instructor", "student"]

#: Most bytes of a request's body, and the seconds within which it has to be there.
MOST_BODY: Final = 65_536
BODY_TIME: Final = 10.0
#: Log-ins that are remembered, the oldest forgotten first; streams at once.
MOST_SESSIONS: Final = 64
MOST_STREAMS: Final = 48
#: Seconds between two signs of life of a stream in which nothing changes.
STREAM_ALIVE: Final = 15.0
#: Seconds that an answer of the run is waited for.
PATIENCE: Final = 20.0
CSRF: Final = "x-lab-token"
#: What a station's screen may do to the run.
STATION_INPUTS: Final = frozenset({"seat", "log_in", "log_out", "touch", "write", "acknowledge", "shelve"})
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    # One request a connection: what a client leaves open, it leaves open once.
    (b"connection", b"close"),
)
_KINDS: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class _Refusal(Exception):
    """A request that gets ``status`` and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True, slots=True)
class Tokens:
    """What lets people in; made anew for each lab."""

    instructor: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    student: str = field(default_factory=lambda: secrets.token_urlsafe(18))

    def role_of(self, given: str) -> Role | None:
        """Whose token it is; both are compared, in a time that tells nothing."""
        mine = given.encode("utf-8", "surrogatepass")
        instructor = hmac.compare_digest(mine, self.instructor.encode())
        student = hmac.compare_digest(mine, self.student.encode())
        return "instructor" if instructor else "student" if student else None


@dataclass(frozen=True, slots=True)
class _LoggedIn:
    role: Role
    csrf: str


class Streams:
    """Wakes whoever shows a page when a new view is there; each client is sent the latest and misses the rest."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.count = 0
        self.over = False
        self._waiting: dict[asyncio.Event, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        engine.on_publish.append(self._from_engine)

    def _from_engine(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    def end(self) -> None:
        """The lab closes: every stream ends."""
        self.over = True
        self._wake()

    async def send(self, name: str, receive: Receive, send: Send) -> None:
        """Send views of ``name`` as server-sent events until the client leaves."""
        if self.count >= MOST_STREAMS:
            raise _Refusal(503, f"{MOST_STREAMS} pages are open already")
        self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._waiting[event] = None
        self.count += 1
        leaving = asyncio.create_task(_left(receive, event))
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            last = -1
            while not self.over and not leaving.done():
                event.clear()
                data = b": alive\n\n"
                if self.engine.sequence != last:
                    last = self.engine.sequence
                    data = b"data: " + self.engine.published.get(name, b"{}") + b"\n\n"
                await send({"type": "http.response.body", "body": data, "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(STREAM_ALIVE):
                        await event.wait()
            await send({"type": "http.response.body", "body": b""})
        finally:
            leaving.cancel()
            self.count -= 1
            del self._waiting[event]


async def _left(receive: Receive, event: asyncio.Event) -> None:
    """Wait until the client is gone, and wake who writes to it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    event.set()


class Web:
    """The application; ``ports`` are those under which it is reached, filled in once it listens."""

    def __init__(self, engine: Engine, tokens: Tokens) -> None:
        self.engine, self.tokens = engine, tokens
        self.streams = Streams(engine)
        self.ports: set[int] = set()
        self.site = engine.session.world.site
        self.stations = tuple(engine.session.world.hmis)
        if not self.stations:
            raise OtlabError(f"site {self.site.name!r} has no operator station to show")
        self.pictures = {name: draw(self.site, name) for name in self.stations}
        self._people: dict[str, _LoggedIn] = {}
        folder = Path(str(files("lab"))) / "live" / "assets"
        self.files = {
            path.name: (path.read_bytes(), _KINDS[path.suffix])
            for path in sorted(folder.iterdir())
            if path.suffix in _KINDS
        }
        pages = Environment(autoescape=True, undefined=StrictUndefined)
        self.pages = {
            path.stem: pages.from_string(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("*.html"))
        }
        views.offered(self.site.name)  # now, because it takes a second
        self.app = self._guard(Starlette(routes=self._routes(), exception_handlers={_Refusal: _refused}))

    @property
    def cookie(self) -> str:
        """Name of the cookie: browsers know cookies by address and not by port, and two labs may run side by side."""
        return f"otlab-{min(self.ports, default=0)}"

    def _routes(self) -> list[Route]:
        page = self._page
        return [
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/logout", page(self.logout, "student", changes=True), methods=["POST"]),
            Route("/assets/{name}", self.asset, methods=["GET"]),
            Route("/", page(self.home, "student"), methods=["GET"]),
            Route("/hmi/{station}", page(self.hmi, "student"), methods=["GET"]),
            Route("/api/hmi/{station}", page(self.described, "student"), methods=["GET"]),
            Route("/api/hmi/{station}/events", page(self.station_events, "student"), methods=["GET"]),
            Route("/api/hmi/{station}/trend", page(self.trend, "student"), methods=["GET"]),
            Route("/api/hmi/{station}/card", page(self.card, "student"), methods=["GET"]),
            Route(
                "/api/hmi/{station}/input",
                page(self.station_input, "student", changes=True),
                methods=["POST"],
            ),
            Route("/console", page(self.console, "instructor"), methods=["GET"]),
            Route("/api/console", page(self.catalogue, "instructor"), methods=["GET"]),
            Route("/api/console/events", page(self.console_events, "instructor"), methods=["GET"]),
            Route("/api/console/timeline", page(self.timeline, "instructor"), methods=["GET"]),
            Route("/api/console/people", page(self.people, "instructor"), methods=["GET"]),
            Route(
                "/api/console/input", page(self.console_input, "instructor", changes=True), methods=["POST"]
            ),
            Route("/api/console/clock", page(self.clock, "instructor", changes=True), methods=["POST"]),
            Route("/api/console/rewind", page(self.rewind, "instructor", changes=True), methods=["POST"]),
        ]

    # -- the guard ---------------------------------------------------------------------------------------------

    def _guard(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]]
    ) -> Callable[..., Awaitable[None]]:
        """What holds for every request, before anything else looks at it."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
                return
            if scope["type"] != "http":
                return  # web sockets are closed without a word

            async def sealed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
                await send(message)

            try:
                self._check_host(scope)
            except _Refusal as refusal:
                answer = JSONResponse({"refused": refusal.sentence}, refusal.status)
                await answer(scope, receive, sealed)
                return
            await app(scope, receive, sealed)

        return guarded

    def _check_host(self, scope: Scope) -> None:
        """A name that leads here from elsewhere (DNS rebinding) is no name of this lab's."""
        headers = [value for name, value in scope["headers"] if name == b"host"]
        wanted = {
            f"{name}:{port}".encode() for port in self.ports for name in ("127.0.0.1", "localhost", "[::1]")
        }
        if len(headers) != 1 or headers[0].lower() not in wanted:
            raise _Refusal(421, "this lab is reached by its loopback address only")

    def _page(
        self, endpoint: Callable[..., Awaitable[Response | None]], role: Role, *, changes: bool = False
    ) -> Any:
        """An endpoint for people of a role; one that changes anything also asks for the token of its page."""

        class Endpoint:
            """Called as an ASGI application, so that streams can answer by themselves."""

            async def __call__(_self, scope: Scope, receive: Receive, send: Send) -> None:
                request = Request(scope, receive, send)
                who = self._people.get(request.cookies.get(self.cookie, ""))
                if who is None:
                    if request.method == "GET" and not request.url.path.startswith("/api/"):
                        await RedirectResponse("/login", 303)(scope, receive, send)
                        return
                    raise _Refusal(401, "log in first")
                if role == "instructor" and who.role != "instructor":
                    raise _Refusal(403, "this is the instructor's")
                if changes:
                    self._check_change(request, who)
                request.state.who = who
                answer = await endpoint(request)
                if answer is not None:
                    await answer(scope, receive, send)

        return Endpoint()

    def _check_change(self, request: Request, who: _LoggedIn) -> None:
        given = request.headers.get(CSRF, "")
        if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), who.csrf.encode()):
            raise _Refusal(403, "the page's token is missing")
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{request.headers['host']}":
            raise _Refusal(403, "this came from another page")

    # -- log-in ------------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        if request.method != "POST":
            return self._render("login", wrong=False)
        fields = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=4)
        role = self.tokens.role_of(fields.get("token", [""])[0])
        if role is None:
            return self._render("login", 403, wrong=True)
        key = secrets.token_urlsafe(24)
        self._people[key] = _LoggedIn(role, secrets.token_urlsafe(24))
        while len(self._people) > MOST_SESSIONS:
            del self._people[next(iter(self._people))]
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, key, httponly=True, samesite="strict", path="/")
        return answer

    async def logout(self, request: Request) -> Response:
        self._people.pop(request.cookies.get(self.cookie, ""), None)
        answer = JSONResponse({"done": True})
        answer.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict")
        return answer

    # -- pages -------------------------------------------------------------------------------------------------

    def _render(self, page: str, status: int = 200, **known: Any) -> Response:
        text = self.pages[page].render(title=self.site.title, **known)
        return Response(text, status, media_type="text/html")

    async def asset(self, request: Request) -> Response:
        found = self.files.get(request.path_params["name"])
        if found is None:
            raise _Refusal(404, "there is no such file")
        return Response(found[0], media_type=found[1])

    async def home(self, request: Request) -> Response:
        who: _LoggedIn = request.state.who
        return RedirectResponse("/console" if who.role == "instructor" else f"/hmi/{self.stations[0]}", 303)

    async def hmi(self, request: Request) -> Response:
        name, who = self._station(request), request.state.who
        return self._render(
            "hmi",
            station=name,
            stations=self.stations,
            csrf=who.csrf,
            instructor=who.role == "instructor",
            picture=Markup(self.pictures[name]),
        )

    async def console(self, request: Request) -> Response:
        return self._render("console", csrf=request.state.who.csrf, stations=self.stations)

    def _station(self, request: Request) -> str:
        name = str(request.path_params["station"])
        if name not in self.stations:
            raise _Refusal(404, "there is no such station")
        return name

    # -- a station ---------------------------------------------------------------------------------------------

    async def described(self, request: Request) -> Response:
        name = self._station(request)
        return await self._asked(lambda session: views.described(session, name))

    async def station_events(self, request: Request) -> None:
        await self.streams.send(self._station(request), request.receive, cast(Any, request)._send)

    async def trend(self, request: Request) -> Response:
        name = self._station(request)
        tags = [one for one in request.query_params.get("tags", "").split(",") if one][:64]
        seconds = _number(request.query_params.get("seconds", "600"), 10, 3600)
        return await self._asked(lambda session: views.trend(session, name, tags, seconds))

    async def card(self, request: Request) -> Response:
        name = self._station(request)
        return await self._asked(lambda session: views.card(session, name))

    async def station_input(self, request: Request) -> Response:
        what = await _object(request)
        kind = what.pop("kind", None)
        if kind not in STATION_INPUTS:
            raise _Refusal(400, "kind: not what a station's screen does")
        what["hmi"] = self._station(request)
        return await self._put(str(kind), what)

    # -- the console -------------------------------------------------------------------------------------------

    async def catalogue(self, _request: Request) -> Response:
        return await self._asked(views.catalogue_of)

    async def console_events(self, request: Request) -> None:
        await self.streams.send("console", request.receive, cast(Any, request)._send)

    async def timeline(self, request: Request) -> Response:
        begin = int(_number(request.query_params.get("from", "0"), 0, 1e9))
        return await self._asked(lambda session: views.events(session, begin))

    async def people(self, _request: Request) -> Response:
        return await self._asked(views.people)

    async def console_input(self, request: Request) -> Response:
        what = await _object(request)
        kind = what.pop("kind", None)
        if kind not in ("launch", "fault", "stop"):
            raise _Refusal(400, "kind: launch, fault or stop")
        return await self._put(str(kind), what)

    async def clock(self, request: Request) -> Response:
        """``speed``, ``paused`` or ``step`` seconds."""
        what = await _object(request)
        if what.keys() == {"speed"}:
            return await self._ordered(self.engine.set_speed, _given(what, "speed"))
        if what.keys() == {"paused"} and isinstance(what["paused"], bool):
            return await self._ordered(self.engine.pause, what["paused"])
        if what.keys() == {"step"}:
            return await self._ordered(self.engine.step, _given(what, "step"))
        raise _Refusal(400, "give one of speed, paused and step")

    async def rewind(self, request: Request) -> Response:
        """Go back ``to`` a moment; with ``sl``, ``add`` or ``remove``, under other controls."""
        what = await _object(request)
        to = _given(what, "to")
        del what["to"]
        experiment = self._other(what) if what else None
        return await self._ordered(self.engine.rewind, to, experiment)

    def _other(self, what: Mapping[str, Any]) -> Experiment:
        """The experiment of now with other requirements in force."""
        if not what.keys() <= {"sl", "add", "remove"}:
            raise _Refusal(400, "give to, and sl, add and remove for other controls")
        level, add, remove = what.get("sl", "0"), what.get("add", []), what.get("remove", [])
        if not isinstance(level, str) or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in (add, remove)
        ):
            raise _Refusal(400, "sl is text, add and remove are lists of requirements")
        now = self.engine.session.setup.experiment
        try:
            chosen = select(SecurityLevels.parse(level), tuple(add), tuple(remove))
        except OtlabError as error:
            raise _Refusal(400, str(error)) from None
        return Experiment.of(
            now.site,
            chosen,
            now.scenario,
            now.seed,
            now.duration,
            now.overrides,
            now.attacker,
            now.response,
            now.human,
            now.mfa,
        )

    # -- the engine --------------------------------------------------------------------------------------------

    async def _asked(self, question: Callable[[Session], Any]) -> Response:
        return await self._ordered(self.engine.ask, question)

    async def _put(self, kind: str, data: Mapping[str, Any]) -> Response:
        if not all(isinstance(key, str) for key in data) or data.keys() & {"t", "kind"}:
            raise _Refusal(400, "t and kind are not given")

        def put() -> Future[Any]:
            return self.engine.put(kind, **data)

        return await self._ordered(put)

    async def _ordered(self, order: Callable[..., Future[Any]], *what: Any) -> Response:
        """Order something of the engine and answer with what comes of it."""
        try:
            future = order(*what)
            waiter = asyncio.ensure_future(asyncio.wrap_future(future))
            patience = 1.0 if self.engine.state == "paused" else PATIENCE
            done, _ = await asyncio.wait({waiter}, timeout=patience)
            if not done:
                # It stays ordered: what takes virtual time takes it once there is some.
                waiter.add_done_callback(_looked_at)
                return JSONResponse({"pending": True, "note": "time stands still, or the lab is busy"}, 202)
            found = waiter.result()
        except BusyError as error:
            raise _Refusal(503, str(error)) from None
        except OtlabError as error:
            raise _Refusal(400, str(error)) from None
        except asyncio.CancelledError:
            if self.engine.over:
                raise _Refusal(503, "the lab is closing") from None
            raise
        return JSONResponse({"done": True} if found is None else found)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refusal)
    return JSONResponse({"refused": error.sentence}, error.status)


def _looked_at(waiter: asyncio.Future[Any]) -> None:
    """So that nobody complains about an answer that came too late."""
    if not waiter.cancelled():
        waiter.exception()


async def _body(request: Request) -> bytes:
    """A request's body, if it is small and comes soon."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIME):
            async for part in request.stream():
                size += len(part)
                if size > MOST_BODY:
                    raise _Refusal(413, f"more than {MOST_BODY} bytes")
                parts.append(part)
    except TimeoutError:
        raise _Refusal(408, "the request did not come in time") from None
    return b"".join(parts)


async def _object(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Refusal(415, "application/json is wanted")
    try:
        found = json.loads(await _body(request))
    except (ValueError, RecursionError):
        raise _Refusal(400, "this is no JSON") from None
    if not isinstance(found, dict):
        raise _Refusal(400, "a JSON object is wanted")
    return found


def _given(what: Mapping[str, Any], key: str) -> float:
    """A number of a JSON object."""
    value = what.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    raise _Refusal(400, f"{key}: a number is wanted")


def _number(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise _Refusal(400, f"a number between {low:g} and {high:g} is wanted")
    return value
