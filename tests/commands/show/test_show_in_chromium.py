"""The page in Chromium, without a window: what a person does, and that nothing leaves this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import pytest

from tests.commands.show.chromium import Chromium
from tests.commands.show.test_show import picture, place, server  # noqa: F401 - fixtures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's chromium"),
]
PICTURES = "document.querySelectorAll('svg image[href^=\"/pictures/\"]').length"


@pytest.fixture
def browser(tmp_path) -> Iterator[Chromium]:
    browser = Chromium(tmp_path / "profile")
    yield browser
    browser.close()


def set_slider(browser: Chromium, name: str, value: float) -> None:
    slider = f"document.getElementById('{name}')"
    browser.run(f"{slider}.value = {value}; {slider}.dispatchEvent(new Event('input'))")


def boxes(browser: Chromium) -> int:
    return browser.run("document.querySelectorAll('.box').length")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, False), (1280, True)])
def test_what_a_person_does(width, dark, browser, server, tmp_path):  # noqa: F811
    browser.open(server.address, width, 900, dark=dark)
    browser.wait_for(f"{PICTURES} === 2")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 150) == dark

    set_slider(browser, "score", 0.15)
    browser.wait_for("document.querySelectorAll('.box').length > 0")
    before = boxes(browser)
    set_slider(browser, "iou", 0.05)
    browser.wait_for(f"document.querySelectorAll('.box').length < {before}")
    assert browser.run("document.querySelectorAll('tbody tr').length") == boxes(browser)

    assert browser.run("document.querySelectorAll('.anchor').length") == 0
    browser.run("document.querySelector('tbody tr').click()")
    assert browser.run("document.querySelectorAll('.anchor').length") == 1
    browser.run("document.getElementById('show_anchors').click()")
    assert browser.run("document.querySelectorAll('.anchor').length") == boxes(browser)
    browser.run("document.getElementById('show_heat').click()")
    browser.wait_for("document.querySelectorAll('.heat').length === 2")
    browser.run("document.querySelectorAll('#run_switches input')[1].click()")
    assert browser.run("[...document.querySelectorAll('article')].map(a => a.hidden)") == [False, True]

    file = tmp_path / "mine.png"
    cv2.imwrite(str(file), picture((70, 50)))
    browser.choose_file("#file", file)
    browser.wait_for("document.querySelector('svg').getAttribute('viewBox') === '0 0 50 70'")
    broken = tmp_path / "broken.png"
    broken.write_bytes(file.read_bytes()[:200])
    browser.complaints.clear()
    browser.choose_file("#file", broken)
    browser.wait_for("document.getElementById('message').textContent.includes('cannot be decoded')")
    # Chromium itself notes the status 400 of that answer.
    assert [text for text in browser.complaints if "400 (Bad Request)" not in text] == []
    large = tmp_path / "large.png"
    large.write_bytes(bytes(1_200_000))
    browser.choose_file("#file", large)
    browser.wait_for("document.getElementById('message').textContent.includes('more than the 1.0 MB')")
    assert {urlsplit(address).netloc for address in browser.requests if not address.startswith("data:")} == {
        f"127.0.0.1:{server.port}"
    }
    if folder := os.environ.get("DETECTORS_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"show_{width}{'_dark' * dark}.png")


def test_no_complaint_and_no_other_request(browser, server):  # noqa: F811
    browser.open(server.address, 1280, 900)
    browser.wait_for(f"{PICTURES} === 2")
    browser.run("document.getElementById('after').click()")
    browser.wait_for("document.getElementById('images').value === '1'")
    for score in (0.1, 0.2, 0.5, 0.99):  # quicker than answers come: the last one counts
        set_slider(browser, "score", score)
    browser.wait_for("state.image.image === '1' && state.found[0]?.detections.length === 0")
    assert browser.complaints == []
    assert all(address.startswith((server.address, "data:")) for address in browser.requests)
