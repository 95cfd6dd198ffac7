"""Pages and admin in a real browser, against a real server: nothing overflows, fails to load, or logs an error.

FAI_TEST_SCREENSHOTS=DIR keeps a picture of every page that is visited.
"""

import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.e2e.browsing import keep_picture, launched_browser, watched_page

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATOR, PASSWORD, EXPERIMENT = "operator", "a long enough password", "family-gpt"
FILL = "from django.utils import timezone; from tests.e2e import family; family.fill(timezone.now())"
WIDTHS = {"desktop": 1280, "phone": 390}
PUBLIC = ("/", f"/experiments/{EXPERIMENT}/", "/contributors/", "/playground/", "/join/")
ADMIN = ("/admin/", "/admin/engines/", "/admin/training/experiment/add/", "/admin/training/experiment/")

pytestmark = pytest.mark.e2e
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an ASGI server of our own on a database filled by tests.e2e.family; its Redis is away."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    settings = {
        "DJANGO_SETTINGS_MODULE": "fai_project.settings",
        "FAI_STATE_DIR": str(folder),
        "FAI_REDIS_URL": "redis://127.0.0.1:1/0",
        # Three of them pass before a device counts as gone: longer than these tests last.
        "FAI_HEARTBEAT_SECONDS": "3600",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAI_")} | settings

    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)

    run("manage.py", "migrate", "-v0")
    run("manage.py", "shell", "-v0", "-c", FILL)
    log = folder / "server.log"
    command = [sys.executable, "-m", "uvicorn", "fai_project.asgi:application", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(20)
    assert "Traceback" not in log.read_text()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{address}/health").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched_browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def session(browser: Browser, server: str) -> StorageState:
    """The operator's cookies after signing in."""
    page = browser.new_page(base_url=server)
    page.goto("/admin/")
    page.fill("[name=username]", OPERATOR)
    page.fill("[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url("**/admin/")
    state = page.context.storage_state()
    page.context.close()
    return state


@pytest.fixture
def visit(browser: Browser, server: str, session: StorageState) -> Iterator[Visit]:
    """Opens a path, signed in where it is the admin's; the test ends with a look at what went wrong unseen."""
    with ExitStack() as pages:

        def open_page(path: str, *, width: int = 1280, scheme: str = "light") -> Page:
            options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
            if "/admin/" in path:
                options["storage_state"] = session
            page = pages.enter_context(watched_page(browser, server, **options))
            page.goto(path)
            return page

        yield open_page


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("width", list(WIDTHS))
@pytest.mark.parametrize("path", [*PUBLIC, *ADMIN])
def test_a_page_fits_its_window_in_both_languages(visit: Visit, path: str, width: str, language: str) -> None:
    page = visit(f"/ko{path}" if language == "ko" else path, width=WIDTHS[width])
    keep_picture(page, f"{path}-{width}-{language}")
    assert page.locator("html").get_attribute("lang") == language
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
    heading = page.get_by_role("heading").first
    expect(heading).to_be_visible()


@pytest.mark.parametrize("path", PUBLIC)
def test_pages_follow_the_readers_dark_scheme(visit: Visit, path: str) -> None:
    def brightness(scheme: str) -> float:
        colour = visit(path, scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    assert brightness("dark") < 60
    assert brightness("light") > 200


def test_from_the_list_to_an_experiment_and_into_korean(visit: Visit) -> None:
    page = visit("/")
    page.get_by_role("link", name="Family GPT").click()
    expect(page).to_have_url(re.compile(rf"/experiments/{EXPERIMENT}/$"))
    page.get_by_role("link", name="한국어").click()
    expect(page).to_have_url(re.compile(rf"/ko/experiments/{EXPERIMENT}/$"))
    expect(page.get_by_role("heading", name="손실 곡선")).to_be_visible()
    page.get_by_role("link", name="English").click()
    expect(page).to_have_url(re.compile(rf"[0-9]/experiments/{EXPERIMENT}/$"))


def test_the_curve_is_drawn_and_can_be_read_aloud(visit: Visit) -> None:
    page = visit(f"/experiments/{EXPERIMENT}/")
    curve = page.get_by_role("img", name="Validation loss over rounds")
    expect(curve).to_be_visible()
    assert "From 10.084 at round 0 to 3.391 at round 6" in curve.locator("desc").text_content()
    line, box = curve.locator(".curve").bounding_box(), curve.bounding_box()
    assert line["width"] > box["width"] * 0.7
    assert line["height"] > box["height"] * 0.3


@pytest.mark.parametrize("width", list(WIDTHS))
def test_letters_of_the_curve_are_large_enough_to_read(visit: Visit, width: str) -> None:
    page = visit(f"/experiments/{EXPERIMENT}/", width=WIDTHS[width])
    heights = page.eval_on_selector_all(
        ".loss-chart text", "texts => texts.map(text => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 10


def test_a_checkpoint_downloads_as_its_name_says(visit: Visit) -> None:
    page = visit(f"/experiments/{EXPERIMENT}/")
    link = page.locator("#checkpoints ~ .table a").first
    with page.expect_download() as download:
        link.click()
    content = Path(download.value.path()).read_bytes()
    assert hashlib.sha256(content).hexdigest() == link.text_content()
    assert download.value.suggested_filename == f"{EXPERIMENT}-6.safetensors"


def test_a_keyboard_reaches_the_content_first(visit: Visit) -> None:
    page = visit("/join/")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert page.url.endswith("#content")


def test_join_names_the_server_that_was_asked(visit: Visit, server: str) -> None:
    page = visit("/join/")
    expect(page.locator("pre").nth(1)).to_contain_text(f"fai join {server} --name")
    page.get_by_text("My computer is slow").click()
    expect(page.get_by_text("A job is sized to what your computer does")).to_be_visible()


def test_an_operator_pauses_resumes_and_finishes(visit: Visit) -> None:
    page = visit("/admin/training/experiment/add/")
    _fill_in(page, title="To be ended")
    page.get_by_role("button", name="Save and continue editing").click()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("Redis cannot be reached; the preparation begins when it is back.")).to_be_visible()
    expect(page.locator(".controls .state")).to_have_text("preparing")

    page.goto("/admin/training/experiment/")
    page.get_by_role("link", name="Family GPT").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".controls .state")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".controls .state")).to_have_text("running")
    grave = page.locator("button.grave")
    expect(grave).to_be_hidden()
    page.get_by_text("Finish…").click()
    expect(page.get_by_text("cannot be resumed")).to_be_visible()
    keep_picture(page, "controls")


def test_an_operator_reads_beside_the_field_what_is_wrong(visit: Visit) -> None:
    page = visit("/admin/training/experiment/add/")
    _fill_in(page, title="Wrong")
    page.fill("[name=model]", '{"n_head": 3}')
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("n_embd must be a multiple of 2 * n_head")).to_be_visible()
    keep_picture(page, "form-error")


def test_the_admin_changes_its_language(visit: Visit) -> None:
    page = visit("/admin/")
    page.get_by_text("operator", exact=True).click()
    page.get_by_role("button", name="한국어").click()
    expect(page).to_have_url(re.compile(r"/ko/admin/$"))
    expect(page.get_by_role("link", name="활동 중인 기기").first).to_be_visible()


def _fill_in(page: Page, *, title: str) -> None:
    page.locator("[name=title]").press_sequentially(title)
    expect(page.locator("[name=slug]")).to_have_value(title.lower().replace(" ", "-"))
    page.fill("[name=corpus_dir]", "data/sample")
    page.select_option("[name=preset]", "tiny")
