"""The documentation site in a browser: every page, in a wide, a narrow and a dark window."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.commands.show.chromium import Chromium
from tests.test_site import PAGES, site  # noqa: F401 a fixture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's chromium"),
]
BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
# Light text on dark, or the other way round, as the window asks.
BRIGHTNESS = (
    "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:  # noqa: F811
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, False), (1280, True)])
def test_every_page(width, dark, address, tmp_path):
    browser = Chromium(tmp_path / "profile")
    try:
        for page in PAGES:
            browser.open(address + page.replace(".md", ".html"), width, 900, dark=dark)
            browser.wait_for(
                f"document.readyState === 'complete' && location.href.endsWith('{Path(page).stem}.html')"
            )
            assert browser.run(BROKEN) == [], page
            assert browser.run("document.documentElement.scrollWidth <= innerWidth"), page
            assert (browser.run(BRIGHTNESS) < 300) == dark, page
        browser.run("document.querySelector('[data-md-component=search-query]').focus()")
        browser.call("Input.insertText", text="passthrough")
        browser.wait_for("document.querySelectorAll('.md-search-result__item').length > 0")
        assert browser.complaints == []
        assert [
            url for url in browser.requests if not url.startswith((address, "data:", "blob:", "about:"))
        ] == []
    finally:
        browser.close()
