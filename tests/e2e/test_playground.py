"""The playground in a real browser, on the real service: keys, chats, bills, comparisons, errors."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.e2e.browsing import keep_picture, launched_browser, watched_page
from tests.e2e.completion_service import CompletionService

pytestmark = pytest.mark.e2e
PRICE = 3
STORED_KEY = "sessionStorage.getItem('fai-playground-key')"
ANSWER_SECONDS = 60
Enter = Callable[..., Page]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionService]:
    """Two checkpoints are published: the untrained one of round 0, and that of round 1."""
    with CompletionService(tmp_path_factory.mktemp("playground")) as running:
        running.evaluate("publish(number=1)")
        yield running
        assert running.evaluate("violations()") == "[]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched_browser() as chromium:
        yield chromium


@pytest.fixture
def enter(browser: Browser, service: CompletionService) -> Iterator[Enter]:
    """Opens the playground with somebody's key."""
    with ExitStack() as pages:

        def sign_in(
            who: str = "rich",
            *,
            path: str = "/playground/",
            width: int = 1280,
            expected_status: int | None = None,
            **options: Any,
        ) -> Page:
            options = {"viewport": {"width": width, "height": 800}, "reduced_motion": "reduce", **options}
            page = pages.enter_context(watched_page(browser, service.url, expected_status=expected_status, **options))
            page.goto(path)
            page.fill("#key", service.keys[who])
            page.keyboard.press("Enter")
            expect(page.locator("#bench")).to_be_visible()
            return page

        yield sign_in


def send(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def wait_for_the_first_token(page: Page) -> None:
    """It ends the notice that the model reads; what an untrained model writes may be white space alone."""
    expect(page.locator(".notice").first).to_be_hidden(timeout=1_000 * ANSWER_SECONDS)


def wait_for_the_end(page: Page) -> None:
    """Until the answers are there and the bill is settled."""
    expect(page.locator(".turn:visible .cost").last).to_have_text(
        re.compile(r"credits|free|크레딧|무료"), timeout=1_000 * ANSWER_SECONDS
    )
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#held")).to_be_empty(timeout=20_000)


def set_number(page: Page, name: str, value: str) -> None:
    page.locator(f"#setting-{name}").fill(value)


def shown_balance(page: Page) -> int:
    return int(re.sub(r"\D", "", page.locator("#balance").inner_text()))


def numbers(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)]


def test_a_key_stays_in_the_tab_until_one_signs_out(enter: Enter, service: CompletionService) -> None:
    page = enter()
    assert page.evaluate(STORED_KEY) == service.keys["rich"]
    assert "fai_sk" not in page.url
    assert page.context.cookies() == []
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    expect(page.locator("#bench")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Your API key")).to_be_focused()
    assert page.evaluate(STORED_KEY) is None
    assert page.locator("#key").input_value() == ""


@pytest.mark.parametrize("key", ["fai_sk_wrong", "열쇠"])
def test_a_wrong_key_is_refused_in_words(browser: Browser, service: CompletionService, key: str) -> None:
    with watched_page(browser, service.url, expected_status=401) as page:
        page.goto("/playground/")
        page.get_by_label("Your API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("This API key is not valid")
        expect(page.locator("#bench")).to_be_hidden()
        assert page.evaluate(STORED_KEY) is None


def test_a_chat_of_two_turns_moves_the_balance_by_what_its_tokens_cost(
    enter: Enter, service: CompletionService
) -> None:
    page = enter()
    page.evaluate(
        "window.holds = []; new MutationObserver(() => holds.push(document.getElementById('held').textContent))"
        ".observe(document.getElementById('held'), {childList: true})"
    )
    set_number(page, "max_tokens", "300")
    page.get_by_role("button", name="Precise").click()
    before = shown_balance(page)
    send(page, "What is a widget?")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    wait_for_the_first_token(page)
    wait_for_the_end(page)
    assert any("held" in text for text in page.evaluate("holds"))
    prompt_tokens, completion_tokens = numbers(page.locator(".figures").inner_text())[:2]
    paid = PRICE * (prompt_tokens + completion_tokens)
    assert numbers(page.locator(".cost").inner_text()) == [paid]
    assert shown_balance(page) == before - paid == service.balance().balance
    set_number(page, "max_tokens", "5")
    send(page, "And another?")
    expect(page.locator(".turn")).to_have_count(2)
    wait_for_the_end(page)
    assert numbers(page.locator(".figures").last.inner_text())[0] > 2 * prompt_tokens
    assert shown_balance(page) == service.balance().balance
    expect(page.locator("#session")).to_contain_text(f"{before - shown_balance(page):,} credits")
    keep_picture(page, "playground-chat")


def test_escape_stops_an_answer_and_only_what_came_is_paid(enter: Enter, service: CompletionService) -> None:
    page = enter()
    page.get_by_role("button", name="Precise").click()
    set_number(page, "max_tokens", "900")
    before = shown_balance(page)
    send(page, "Tell me everything")
    wait_for_the_first_token(page)
    page.keyboard.press("Escape")
    expect(page.locator(".figures")).to_have_text("stopped")
    wait_for_the_end(page)
    bill = service.wait_for_bill()
    assert bill.state == "disconnected"
    assert 0 < bill.completion_tokens < 900
    assert shown_balance(page) == before - bill.credits_paid == service.balance().balance
    assert numbers(page.locator(".cost").inner_text()) == [bill.credits_paid]


def test_two_checkpoints_answer_side_by_side_with_one_seed(enter: Enter, service: CompletionService) -> None:
    page = enter()
    asked: list[dict[str, Any]] = []
    page.on("request", lambda request: request.method == "POST" and asked.append(json.loads(request.post_data or "")))
    page.get_by_label("Compare checkpoints").check()
    expect(page.get_by_label("Beside it")).to_have_value("study@0")
    set_number(page, "max_tokens", "24")
    before = shown_balance(page)
    send(page, "What is a widget?")
    wait_for_the_end(page)
    assert {body["model"] for body in asked} == {"study", "study@0"}
    assert len({body["seed"] for body in asked}) == 1
    left, right = (answer.inner_text() for answer in page.locator(".answer").all())
    assert "Newest (round 1)" in left
    assert "Round 0, untrained" in right
    first, second = (reply.text_content() for reply in page.locator(".reply").all())
    assert first != second
    boxes = [answer.bounding_box() for answer in page.locator(".answer").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert numbers(page.locator(".cost").inner_text()) == [before - shown_balance(page)]
    assert shown_balance(page) == service.balance().balance
    keep_picture(page, "playground-compare")


def test_a_text_is_continued_and_written_on(enter: Enter) -> None:
    page = enter()
    page.get_by_text("Continue a text").click()
    expect(page.get_by_role("heading", name="Begin a text")).to_be_visible()
    page.get_by_role("button", name="Precise").click()
    set_number(page, "max_tokens", "8")
    send(page, "A widget is")
    wait_for_the_end(page)
    reply = page.locator(".reply").text_content()
    expect(page.locator(".prefix")).to_have_text("A widget is")
    page.get_by_role("button", name="Write on").click()
    assert page.locator("#prompt").input_value() == f"A widget is{reply}"


def test_the_kept_seed_gives_the_same_answer_again(enter: Enter) -> None:
    page = enter()
    set_number(page, "max_tokens", "20")
    send(page, "x")
    wait_for_the_end(page)
    first = page.locator(".reply").text_content()
    page.get_by_title("Keep this seed").click()
    page.get_by_role("button", name="Regenerate").click()
    wait_for_the_end(page)
    expect(page.locator(".turn")).to_have_count(1)
    assert page.locator(".reply").text_content() == first
    page.get_by_role("button", name="Back to the defaults").click()
    assert page.locator("#setting-seed").input_value() == ""
    assert page.locator("#setting-max_tokens").input_value() == "160"


def test_tokens_show_how_likely_they_were_and_what_else_was(enter: Enter) -> None:
    page = enter()
    page.get_by_label("Probabilities").check()
    expect(page.locator("#legend")).to_be_visible()
    page.get_by_role("button", name="Precise").click()
    set_number(page, "max_tokens", "12")
    send(page, "What is a widget?")
    wait_for_the_end(page)
    tokens = page.locator(".token")
    assert 0 < tokens.count() <= 12
    tokens.first.hover()
    expect(page.locator("#candidates .taken").first).to_be_visible()
    assert page.locator("#candidates li").count() >= 5
    tokens.first.focus()
    keep_picture(page, "playground-probabilities")
    page.get_by_label("Probabilities").uncheck()
    expect(tokens).to_have_count(0)


def test_too_few_credits_are_said_in_words_and_nothing_is_paid(enter: Enter, service: CompletionService) -> None:
    page = enter("poor", expected_status=429)
    send(page, "What is a widget?")
    expect(page.locator(".turn").get_by_role("alert")).to_contain_text("Too few credits for this answer.")
    wait_for_the_end(page)
    expect(page.locator(".cost")).to_have_text("free of charge")
    assert shown_balance(page) == service.balance("poor").balance


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(429, "rate_limit_exceeded", "Trying again in"), (503, "service_unavailable", "No engine serves this model yet")],
)
def test_what_passes_is_waited_for(enter: Enter, status: int, code: str, said: str) -> None:
    page = enter(expected_status=status)
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.fallback()
            return
        refused.append(route.request.url)
        error = {"message": "later", "type": "requests", "param": None, "code": code}
        route.fulfill(status=status, headers={"Retry-After": "2"}, json={"error": error})

    page.route("**/v1/chat/completions", refuse_once)
    set_number(page, "max_tokens", "3")
    send(page, "x")
    expect(page.locator(".notice")).to_contain_text(said, timeout=20_000)
    wait_for_the_end(page)
    assert len(refused) == 1
    expect(page.locator(".turn .failure")).to_be_hidden()


def test_nothing_that_a_model_or_a_reader_writes_becomes_markup(enter: Enter) -> None:
    page = enter()
    evil = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    chunk = {"choices": [{"index": 0, "delta": {"content": evil}, "finish_reason": "stop", "logprobs": None}]}
    events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=events))
    send(page, evil)
    expect(page.locator(".reply")).to_have_text(evil)
    expect(page.locator(".asked-text")).to_have_text(evil)
    expect(page.locator(".turn :is(script, img)")).to_have_count(0)
    assert "owned" not in page.title()


def test_an_error_in_mid_stream_is_shown_below_what_came(enter: Enter) -> None:
    page = enter()
    chunk = {"choices": [{"index": 0, "delta": {"content": "half an"}, "finish_reason": None, "logprobs": None}]}
    error = {"error": {"message": "gone", "type": "server_error", "param": None, "code": "engine_failed"}}
    events = "".join(f"data: {json.dumps(data)}\n\n" for data in (chunk, error))
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=events))
    send(page, "x")
    expect(page.locator(".reply")).to_have_text("half an")
    expect(page.locator(".turn .failure")).to_contain_text("This answer costs nothing.")
    expect(page.locator(".cost")).to_have_text("free of charge")


def test_the_korean_page_chats_and_a_syllable_that_is_being_composed_sends_nothing(enter: Enter) -> None:
    page = enter(path="/ko/playground/")
    expect(page.get_by_role("button", name="로그아웃")).to_be_visible()
    page.fill("#prompt", "위젯이 뭐야")
    page.locator("#prompt").dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    expect(page.locator(".turn")).to_have_count(0)
    set_number(page, "max_tokens", "5")
    page.press("#prompt", "Enter")
    wait_for_the_end(page)
    expect(page.locator(".cost")).to_contain_text("크레딧")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_at_work_fits_its_window(enter: Enter, width: int, language: str, scheme: str) -> None:
    page = enter(path="/ko/playground/" if language == "ko" else "/playground/", width=width, color_scheme=scheme)
    page.locator("#compare").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.locator("#send")).to_be_in_viewport()
    keep_picture(page, f"playground-{width}-{language}-{scheme}")
