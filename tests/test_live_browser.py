"""The live lab's pages in a browser: they move, can be worked by keyboard alone, and load nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_lab import Lab, lab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.realtime,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()


class Page:
    """A page that remembers what went wrong on it and what it asked for."""

    def __init__(self, browser: Any, here: Lab, token: str) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 900})
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "console",
            lambda line: self.wrong.append(line.text) if line.type in ("error", "warning") else None,
        )
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(here.place.login(token))
        self.page.wait_for_url(re.compile("/(hmi/|console)"))


@pytest.fixture(scope="module")
def here() -> Iterator[Lab]:
    with lab("operations:plc1:502=127.0.0.1:0", level=2, speed=10) as made:
        yield made


def settled(page: Page, here: Lab) -> None:
    assert page.wrong == []
    assert {url.partition("/")[2].strip("/").partition("/")[0] for url in page.asked} == {
        f"127.0.0.1:{here.port}"
    }
    page.context.close()


def test_an_operator_works_the_station(browser: Any, here: Lab, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    one = Page(browser, here, here.place.tokens.student)
    page = one.page
    expect(page.locator("[data-value=LIT101]")).to_have_text(re.compile(r"^\d+\.\d$"))
    before = page.locator("#civil").text_content()
    expect(page.locator("#civil")).not_to_have_text(before or "")
    page.click("#seat")
    expect(page.locator("#seat")).to_have_text("Leave the seat")
    if page.locator("#logout").is_visible():
        page.click("#logout")
    expect(page.locator("#who")).to_have_text("nobody logged in")
    page.click("[data-tag=MV101] .body >> nth=0")
    page.click("[data-sets=MV101_AUTO][data-to='0']")
    page.click("#confirm-go")
    expect(page.locator("#face-answer")).to_have_text("Refused: nobody is logged in")
    expect(page.locator("#login-dialog")).to_be_visible()
    page.fill("#user", "operator1")
    page.fill("#password", "wrong")
    page.click("#login-go")
    expect(page.locator("#login-answer")).to_have_text("log-in failed")
    page.click("#card summary")
    page.click("#card-use")
    expect(page.locator("#password")).not_to_have_value("wrong")
    page.click("#login-go")
    expect(page.locator("#who")).to_have_text(re.compile("^operator1"))
    page.click("[data-sets=MV101_AUTO][data-to='0']")
    page.click("#confirm-go")
    expect(page.locator("#face-answer")).to_have_text("MV101_AUTO written.")
    expect(page.locator("[data-mode=MV101_AUTO] text")).to_have_text("M")
    settled(one, here)


def test_alarms_are_worked_by_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with lab(speed=10) as here:
        here.engine.put("seat", hmi="hmi1", taken=True).result(30)
        step = {"action": "sensor_fails", "sensor": "LIT101", "how": "bias", "amount": 800, "lasting": 3600}
        here.engine.put("fault", step=step).result(30)
        one = Page(browser, here, here.place.tokens.student)
        page = one.page
        expect(page.locator("#alarm-rows tr")).to_have_count(2)
        expect(page.locator("[data-flag=LIT101] text").first).to_have_text("1")
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.dataset?.tag ?? ''")
            if focused == "LIT101":
                break
        assert focused == "LIT101"
        page.keyboard.press("Enter")
        expect(page.locator("#face-tag")).to_have_text("LIT101")
        page.keyboard.press("a")
        expect(page.locator("#alarm-rows tr.acknowledged")).to_have_count(2)
        page.locator("#alarm-rows button", has_text="Shelve").first.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#alarm-rows tr.shelved")).to_have_count(1)
        page.screenshot(path=str(tmp_path / "hmi.png"))
        assert (tmp_path / "hmi.png").stat().st_size > 40_000
        settled(one, here)


def test_an_instructor_runs_the_lab(browser: Any, here: Lab) -> None:
    from playwright.sync_api import expect

    one = Page(browser, here, here.place.tokens.instructor)
    page = one.page
    page.fill("#find", "unauthorized-write")
    page.click("[data-name=unauthorized-write]")
    page.click("#launch")
    expect(page.locator("#answer")).to_have_text("unauthorized-write launched.")
    expect(page.locator("#launched")).to_contain_text("unauthorized-write")
    expect(page.locator("#blocked tr").first).to_contain_text("rogue1")
    expect(page.locator("#events")).to_contain_text("attack.step")
    page.select_option("#fault", label="LIT301 gives no signal")
    page.click("#break")
    expect(page.locator("#answer")).to_have_text("LIT301 gives no signal.")
    page.locator("#launched button", has_text="Stop").last.click()
    page.click("#run")
    expect(page.locator("#run")).to_have_text("Run")
    at = here.engine.session.now
    page.click("#step")
    expect(page.locator("#pace")).to_contain_text("paused")
    page.evaluate("document.getElementById('to').value = 20; document.getElementById('to').oninput()")
    page.click("#rewind")
    page.click("#confirm-go")
    expect(page.locator("#pace")).to_contain_text("t = 20 s, paused")
    expect(page.locator("#launched tr")).to_have_count(0)
    assert here.engine.session.now == 20.0 < at
    page.click("#people summary")
    expect(page.locator("#people-rows")).to_contain_text("operator1")
    page.click("#controls summary")
    page.select_option("#sl", "0")
    page.click("#apply")
    page.click("#confirm-go")
    expect(page.locator("#profile")).to_contain_text("SL 0")
    assert here.engine.session.world.requirements == ()
    page.click(".speed[data-speed='10']")
    expect(page.locator("#pace")).to_contain_text("×10")
    settled(one, here)
