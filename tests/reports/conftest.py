"""Pages in headless Chromium: the system's own, as nothing is downloaded for a test."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser a file, and no longer: while it runs, no other event loop can in this thread."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        # A server without a sandbox for its users is what CI usually is.
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """open_page(html, width=1200, dark=False, scripts=True) → that page, opened as a file.

    Fails the test if the console says an error or the page asks for anything but itself.
    """
    faults, contexts, numbers = list[str](), list[Any](), itertools.count()

    def opened(html: str, width: int = 1200, dark: bool = False, scripts: bool = True) -> Any:
        file = tmp_path / f"page-{next(numbers)}.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: _asked(asked.url))
        page.goto(file.as_uri())
        return page

    def _asked(url: str) -> None:
        if not url.startswith(("data:", tmp_path.as_uri())):
            faults.append(f"asked for {url}")

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
