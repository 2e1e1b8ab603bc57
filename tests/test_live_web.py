"""The live lab's pages from outside: who may do what, and that nothing that comes by the wire breaks them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_lab import Browser, Lab, lab

pytestmark = pytest.mark.realtime


@pytest.fixture(scope="module")
def here() -> Iterator[Lab]:
    with lab(level=1) as made:
        yield made


@pytest.fixture
def student(here: Lab) -> Browser:
    return Browser(here, here.place.tokens.student)


@pytest.fixture
def instructor(here: Lab) -> Browser:
    return Browser(here, here.place.tokens.instructor)


def test_without_a_token_there_is_only_the_log_in(here: Lab) -> None:
    nobody = Browser(here)
    for path in ("/", "/hmi/hmi1", "/console"):
        status, headers, _ = nobody.ask("GET", path)
        assert (status, headers["location"]) == (303, "/login")
    for path in ("/api/hmi/hmi1", "/api/hmi/hmi1/events", "/api/console/events", "/api/console/people"):
        assert nobody.ask("GET", path)[0] == 401
    assert nobody.ask("POST", "/api/hmi/hmi1/input", b"{}")[0] == 401
    wrong = nobody.ask("POST", "/login", b"token=wrong", kind="application/x-www-form-urlencoded")
    assert wrong[0] == 403
    assert "set-cookie" not in wrong[1]


def test_the_cookie_is_no_scripts_and_no_other_sites(here: Lab) -> None:
    _, headers, _ = Browser(here).ask(
        "POST",
        "/login",
        f"token={here.place.tokens.student}".encode(),
        kind="application/x-www-form-urlencoded",
    )
    assert {"HttpOnly", "SameSite=strict"} <= set(headers["set-cookie"].split("; "))


def test_a_student_is_no_instructor(student: Browser) -> None:
    for path in (
        "/console",
        "/api/console",
        "/api/console/events",
        "/api/console/people",
        "/api/console/timeline",
    ):
        assert student.ask("GET", path)[0] == 403
    for path in ("/api/console/input", "/api/console/clock", "/api/console/rewind"):
        assert student.ask("POST", path, b"{}", headers={"x-lab-token": student.csrf})[0] == 403


def test_a_change_takes_the_pages_token_and_this_origin(instructor: Browser) -> None:
    body = b'{"speed": 1}'
    for headers in (
        {},
        {"x-lab-token": "wrong"},
        {"x-lab-token": instructor.csrf, "origin": "http://evil.example"},
        {"x-lab-token": instructor.csrf, "origin": "null"},
    ):
        assert instructor.ask("POST", "/api/console/clock", body, headers=headers)[0] == 403
    right = {"x-lab-token": instructor.csrf, "origin": f"http://127.0.0.1:{instructor.where.port}"}
    assert instructor.ask("POST", "/api/console/clock", body, headers=right)[0] == 200
    form = instructor.ask("POST", "/api/console/clock", b"speed=1", kind="text/plain", headers=right)
    assert form[0] == 415


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "192.168.0.1:{port}", ""])
def test_a_name_that_leads_here_is_not_enough(here: Lab, host: str) -> None:
    host = host.format(port=here.port)
    assert Browser(here).ask("GET", "/login", headers={"host": host})[0] in (400, 421)


def test_pages_load_nothing_from_elsewhere(here: Lab, instructor: Browser) -> None:
    for path in ("/login", "/hmi/hmi1", "/console"):
        _, headers, body = instructor.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        page = body.decode()
        assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in page
        assert "style=" not in page
        assert " onclick=" not in page
    for name, (data, _) in here.live.web.files.items():
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in "".join(line for line in text.splitlines() if "http" in line), name


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../web.py",
        "/assets/..%2fweb.py",
        "/assets/%2e%2e/web.py",
        "/assets//etc/passwd",
        "/assets/....//web.py",
        "/assets/login.html",
        "/hmi/../console/x",
        "/hmi/%2e%2e%2fpasswd",
        "/api/hmi/hmi9",
        "/api/hmi/hmi1%00",
    ],
)
def test_no_path_opens_a_file(instructor: Browser, path: str) -> None:
    assert instructor.ask("GET", path)[0] == 404


def test_the_station_is_worked_through_the_page(here: Lab) -> None:
    student = Browser(here, here.place.tokens.student)
    known = student.get("/api/hmi/hmi1")
    assert known["tags"]["MV101"]["kind"] == "valve"
    assert known["tags"]["LIT101"]["setpoints"] == ["LIT101_L_SP", "LIT101_H_SP"]
    path = "/api/hmi/hmi1/input"
    assert student.order(path, kind="seat", taken=True) == {"done": True}
    assert student.order(path, kind="log_out") == {"done": True}
    assert student.order(path, kind="write", tag="MV101_AUTO", value=0) == {"refused": "nobody is logged in"}
    card = student.get("/api/hmi/hmi1/card")
    wrong = student.order(path, kind="log_in", user=card["user"], password="x" + card["password"])
    assert wrong == {"refused": "log-in failed"}
    right = student.order(
        path, kind="log_in", user=card["user"], password=card["password"], code=card["code"]
    )
    assert right == {"done": True}
    assert student.order(path, kind="write", tag="MV101_AUTO", value=0) == {"done": True}
    assert student.order(path, kind="launch", scenario="wire-spoof")["refused"].startswith("kind")
    assert "refused" in student.order(path, kind="write", tag="MV101_AUTO", value="1; drop")
    trend = student.get("/api/hmi/hmi1/trend?tags=LIT101,NOSUCH&seconds=60")
    assert set(trend["values"]) == {"LIT101"}
    assert len(trend["t"]) == len(trend["values"]["LIT101"]) > 10


def read_views(here: Lab, who: Browser, path: str, count: int) -> list[dict[str, Any]]:
    with socket.create_connection(("127.0.0.1", here.port), timeout=30) as made:
        made.sendall(
            f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{here.port}\r\ncookie: {who.cookie}\r\n\r\n".encode()
        )
        got = b""
        while got.count(b"data: ") <= count:
            got += made.recv(65536)
    return [json.loads(part.partition(b"\n\n")[0]) for part in got.split(b"data: ")[1 : count + 1]]


def test_views_stream_while_time_passes(here: Lab, student: Browser) -> None:
    views = read_views(here, student, "/api/hmi/hmi1/events", 3)
    assert views[0]["t"] < views[2]["t"]
    assert views[0]["values"]["LIT101"] is not None


def test_the_console_launches_stops_and_tells(here: Lab, instructor: Browser) -> None:
    known = instructor.get("/api/console")
    assert {"name", "title", "attacker", "summary"} <= known["scenarios"][0].keys()
    number = instructor.order("/api/console/input", kind="launch", scenario="unauthorized-write")["launch"]
    fault = next(one for one in known["faults"] if one["text"] == "LIT301 gives no signal")
    assert "launch" in instructor.order("/api/console/input", kind="fault", step=fault["step"])
    assert instructor.order("/api/console/input", kind="stop", launch=number) == {"done": True}
    told = instructor.get("/api/console/timeline?from=0")
    assert {"lab.launched", "lab.stopped"} <= {event["kind"] for event in told["events"]}
    assert instructor.get(f"/api/console/timeline?from={told['next']}")["next"] >= told["next"]
    view = read_views(here, instructor, "/api/console/events", 1)[0]
    assert [one["name"] for one in view["launched"]][:1] == ["unauthorized-write"]
    for what in (
        {"kind": "launch", "scenario": "../../etc/passwd"},
        {"kind": "launch", "scenario": "nosuch"},
        {"kind": "seat"},
    ):
        assert "refused" in instructor.order("/api/console/input", **what)
    assert instructor.get("/api/console/people")[0]["password"]


def test_every_fault_that_the_console_offers_can_happen(instructor: Browser) -> None:
    for fault in instructor.get("/api/console")["faults"]:
        found = instructor.order("/api/console/input", kind="fault", step={**fault["step"], "lasting": 0.1})
        assert "launch" in found, (fault, found)


def test_time_is_the_instructors() -> None:
    with lab(paused=True) as made:
        boss = Browser(made, made.place.tokens.instructor)
        at = made.engine.session.now
        assert boss.order("/api/console/clock", step=10) == {"done": True}
        _until(lambda: made.engine.session.now == at + 10)
        assert boss.order("/api/console/rewind", to=at) == {"done": True}
        assert made.engine.session.now == at
        assert boss.order("/api/console/rewind", to=at, sl="1", add=["SR 2.1"], remove=[]) == {"done": True}
        assert "SR 1.1" in made.engine.session.world.requirements
        assert boss.order("/api/console/clock", speed=10) == {"done": True}
        assert boss.order("/api/console/clock", paused=False) == {"done": True}
        _until(lambda: made.engine.session.now > at + 2)
        for path, what in (
            ("clock", {"speed": 0}),
            ("clock", {"speed": "fast"}),
            ("clock", {"speed": 10**400}),
            ("clock", {"step": -1}),
            ("clock", {}),
            ("rewind", {"to": 1e9}),
            ("rewind", {"to": None}),
            ("rewind", {"to": 1, "sl": "9"}),
            ("rewind", {"to": 1, "add": ["SR 99"]}),
            ("rewind", {"to": 1, "add": "SR 1.1"}),
            ("rewind", {"to": 1, "more": 1}),
        ):
            assert "refused" in boss.order(f"/api/console/{path}", **what), (path, what)


def _until(true: Any) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("never")


def test_an_order_that_needs_time_says_so_while_there_is_none() -> None:
    with lab(paused=True) as made:
        student = Browser(made, made.place.tokens.student)
        assert (
            student.order("/api/hmi/hmi1/input", kind="write", tag="MV101_AUTO", value=0)["pending"] is True
        )


# -- bad clients -------------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_long_is_not_read(instructor: Browser) -> None:
    headers = {"x-lab-token": instructor.csrf}
    with suppress(ConnectionError):
        assert instructor.ask("POST", "/api/console/input", b"x" * 200_000, headers=headers)[0] in (400, 413)
    deep = b"[" * 60_000
    assert instructor.ask("POST", "/api/console/input", deep, headers=headers)[0] == 400


def test_clients_that_only_connect_or_trickle_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.live.serve.HEAD_TIME", 0.3)
    monkeypatch.setattr("lab.live.web.BODY_TIME", 0.3)
    with lab() as made:
        boss = Browser(made, made.place.tokens.instructor)
        with socket.create_connection(("127.0.0.1", made.port), timeout=10) as silent:
            assert silent.recv(10) == b""
        with socket.create_connection(("127.0.0.1", made.port), timeout=10) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nhost: ")
            assert slow.recv(10) == b""
        with socket.create_connection(("127.0.0.1", made.port), timeout=10) as halfway:
            head = f"POST /api/console/clock HTTP/1.1\r\nhost: 127.0.0.1:{made.port}\r\ncookie: {boss.cookie}\r\n"
            head += (
                f"x-lab-token: {boss.csrf}\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{{"
            )
            halfway.sendall(head.encode())
            assert b" 408 " in halfway.recv(200)
        assert boss.get("/api/console")["title"]


def test_a_flood_of_connections_leaves_the_lab_to_others() -> None:
    with lab() as made:
        boss = Browser(made, made.place.tokens.instructor)
        crowd = []
        try:
            for _ in range(200):
                crowd.append(socket.create_connection(("127.0.0.1", made.port), timeout=10))
            begun = made.engine.session.now
            _until(lambda: made.engine.session.now > begun + 0.5)  # the run goes on
        finally:
            for one in crowd:
                one.close()
        _until(lambda: boss.ask("GET", "/console")[0] == 200)


def test_pages_that_are_open_are_counted_and_those_that_do_not_read_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lab.live.serve.READ_TIME", 0.5)
    monkeypatch.setattr("lab.live.web.MOST_STREAMS", 16)
    with lab(speed=100) as made:
        student = Browser(made, made.place.tokens.student)
        head = f"GET /api/hmi/hmi1/events HTTP/1.1\r\nhost: 127.0.0.1:{made.port}\r\ncookie: {student.cookie}\r\n\r\n"
        crowd = []
        try:
            for _ in range(16):
                one = socket.socket()
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                one.connect(("127.0.0.1", made.port))
                one.sendall(head.encode())
                crowd.append(one)
            _until(lambda: made.live.web.streams.count == 16)
            assert student.ask("GET", "/api/hmi/hmi1/events")[0] == 503
            _until(lambda: student.get("/api/hmi/hmi1")["station"] == "hmi1")
            big = b'{"filler":"' + b"x" * 4_000_000 + b'"}'
            monkeypatch.setattr(made.engine, "view", lambda _engine: {"hmi1": big})
            _until(lambda: made.live.web.streams.count == 0)
            _until(lambda: student.ask("GET", "/api/hmi/hmi1")[0] == 200)
        finally:
            for one in crowd:
                one.close()


def test_a_page_that_is_closed_is_no_longer_sent_to(here: Lab, student: Browser) -> None:
    read_views(here, student, "/api/hmi/hmi1/events", 1)
    _until(lambda: here.live.web.streams.count == 0)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("\ud800")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
_KINDS = (
    "seat",
    "log_in",
    "log_out",
    "touch",
    "write",
    "acknowledge",
    "shelve",
    "launch",
    "fault",
    "stop",
    "bytes",
)
_KEYS = (
    "kind",
    "hmi",
    "tag",
    "value",
    "user",
    "password",
    "code",
    "alarm",
    "seconds",
    "step",
    "launch",
    "to",
    "sl",
    "t",
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(("hmi/hmi1/input", "console/input", "console/clock")),
    kind=st.sampled_from(_KINDS),
    what=st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=5),
)
def test_no_json_breaks_the_lab(
    here: Lab, instructor: Browser, path: str, kind: str, what: dict[str, Any]
) -> None:
    body = json.dumps({**what, "kind": kind}).encode()
    status, _, answer = instructor.ask("POST", f"/api/{path}", body, headers={"x-lab-token": instructor.csrf})
    assert status < 500, answer
    assert here.engine.failure is None
    json.loads(answer)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda method, path, headers: method + b" " + path + b" HTTP/1.1\r\n" + headers + b"\r\n\r\n",
            st.sampled_from((b"GET", b"POST", b"PUT", b"OPTIONS", b"TRACE", b"CONNECT")),
            st.binary(max_size=60),
            st.binary(max_size=120),
        ),
    )
)
def test_no_bytes_break_the_lab(here: Lab, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", here.port), timeout=10) as made, suppress(ConnectionError):
        made.sendall(data)
        made.shutdown(socket.SHUT_WR)
        answer = made.recv(300)
        assert answer == b"" or answer.split(b" ")[1] in (
            b"200",
            b"303",
            b"400",
            b"401",
            b"404",
            b"405",
            b"421",
        ), answer
    assert here.engine.failure is None
    assert Browser(here).ask("GET", "/login")[0] == 200


def test_what_was_typed_is_in_the_recording_only(tmp_path: Path) -> None:
    with lab(level=1, folder=tmp_path) as made:
        student = Browser(made, made.place.tokens.student)
        student.order("/api/hmi/hmi1/input", kind="log_in", user="somebody", password="a-secret-of-mine")
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name for name, text in kept.items() if "a-secret-of-mine" in text} == {"inputs.jsonl"}
    assert "somebody" in kept["trace.jsonl"]
