"""A real browser, and pages in it that report what goes wrong unseen."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def launched_browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.fail("No Chromium was found: install it with `apt-get install chromium fonts-nanum` (Debian, Ubuntu).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*CHROMIUM_FLAGS])
        yield browser
        browser.close()


@contextmanager
def watched_page(
    browser: Browser, server: str, *, expected_status: int | None = None, **options: Any
) -> Iterator[Page]:
    """A page that may fail no request, log no error or CSP report, and ask no other host for anything.

    Chromium logs an error for each answer of `expected_status`, which is then none.
    """
    problems: list[str] = []
    context = browser.new_context(base_url=server, **options)
    page = context.new_page()
    page.on("console", lambda message: message.type in {"error", "warning"} and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"{request.url}: {request.failure}"))
    page.on(
        "request", lambda request: request.url.startswith((server, "data:", "blob:")) or problems.append(request.url)
    )
    yield page
    context.close()
    # A download, and leaving a page that still loads, are aborted requests too.
    harmless = ("ERR_ABORTED", *([f"status of {expected_status}"] if expected_status else []))
    assert [problem for problem in problems if not any(word in problem for word in harmless)] == []


def keep_picture(page: Page, name: str) -> None:
    """With FAI_TEST_SCREENSHOTS=DIR, a picture of the page in that folder."""
    folder = os.environ.get("FAI_TEST_SCREENSHOTS")
    if folder:
        file = re.sub(r"\W+", "-", name).strip("-") + ".png"
        page.screenshot(path=Path(folder) / file, full_page=True)
