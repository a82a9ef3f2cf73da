"""The page in a real headless browser, against a server of scripted replies."""

from __future__ import annotations

import re
import shutil

import pytest
from fake_engine import ANSWER, SLOTS, THINK, FakeEngine
from local import begin, running, until

from lite.quickstart import EXAMPLES

playwright = pytest.importorskip(
    "playwright.sync_api",
    reason="no Python package playwright here: uv sync installs it with the other tests' needs",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(
    not CHROMIUM,
    reason=f"no browser on PATH ({', '.join(BROWSERS)}): apt-get install chromium, or Chrome from google.com/chrome",
)
DONE = ".card[data-state=done]"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root needs the flag
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page, loaded; what its console says at the end is a fault."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda fault: page.said.append(str(fault)))
    page.on(
        "request", lambda request: page.said.append(request.url) if server.url not in request.url else None
    )
    page.goto(server.url)
    page.wait_for_selector(".card")
    yield page
    context.close()
    assert [text for text in page.said if not text.startswith("data:")] == []


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_one_question_at_three_budgets(page, engine):
    assert texts(page, "output") == ["20 %", "60 %", "policy"]
    engine.gate.clear()
    page.fill("#question", "What is 12 + 5?")
    page.keyboard.press("Control+Enter")
    playwright.expect(page.locator(".think-count")).to_have_text(
        ["6", "6", "6"]
    )  # counted while it is written
    assert texts(page, "#status") == ["3 replies are being written."]
    engine.gate.set()
    playwright.expect(page.locator(DONE)).to_have_count(3)
    assert texts(page, ".think-count") == ["30", "30", "30"] and texts(page, ".answer-count") == [
        "5",
        "5",
        "5",
    ]
    assert texts(page, ".used") == ["20 %", "60 %", "40 %"]
    assert [text.strip() for text in page.locator(".think").all_text_contents()] == [(5 * THINK).strip()] * 3
    assert texts(page, ".answer") == [ANSWER] * 3 and texts(page, ".final") == ["17"] * 3
    assert texts(page, "#status") == ["Thinking tokens: 30 at 20 %, 30 at 60 %, 30 at policy."]
    asked = [ask.mode for ask in engine.asks]
    assert sorted(asked) == ["0.2", "0.6", "policy"]
    assert {ask.messages[0].content for ask in engine.asks} == {"What is 12 + 5?"}


def test_a_dial_asks_again_from_the_keyboard(page, engine):
    page.fill("#question", "What is 12 + 5?")
    page.click("#ask")
    playwright.expect(page.locator(DONE)).to_have_count(3)
    dial = page.get_by_role("slider", name="Thinking budget of reply 1")
    dial.focus()
    page.keyboard.press("ArrowRight")
    assert dial.get_attribute("aria-valuetext") == "40 %"
    until(lambda: len(engine.asks) == 4)
    assert engine.asks[-1].mode == "0.4"
    playwright.expect(page.locator(DONE)).to_have_count(3)
    assert texts(page, ".used") == ["40 %", "60 %", "40 %"]


def test_stop_frees_the_slots(page, engine):
    engine.gate.clear()
    page.fill("#question", "What is 12 + 5?")
    page.click("#ask")
    until(lambda: engine.num_running == 3)
    page.keyboard.press("Escape")
    until(lambda: engine.num_running == 0)
    playwright.expect(page.locator(".card[data-state=stopped]")).to_have_count(3)
    assert page.is_disabled("#stop")


def test_faults_are_shown(page, server, engine):
    engine.gate.clear()
    clients = [begin(server.url) for _ in range(SLOTS)]
    until(lambda: engine.num_running == SLOTS)
    page.fill("#question", "What is 12 + 5?")
    page.click("#ask")
    expected = re.compile(r"try again later \(in about 1 s\)")
    playwright.expect(page.locator(".card[data-state=fault] .fault")).to_have_text([expected] * 3)
    for client in clients:
        client.close()
    page.said.clear()  # the browser's own words about the 429


def test_what_a_model_writes_is_never_html(browser):
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script></div> "
    with running(FakeEngine(think=hostile)) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector(".card")
        page.fill("#question", "What is 12 + 5?")
        page.click("#ask")
        playwright.expect(page.locator(DONE)).to_have_count(3)
        assert page.locator(".think").first.text_content() == 5 * hostile
        assert page.locator("main img, main script").count() == 0 and page.title() == "Extra-CoT Lite"
        page.close()


def test_a_key_is_asked_for(browser):
    with running(FakeEngine(), key="secret") as server:
        page = browser.new_page()
        page.goto(server.url)
        playwright.expect(page.locator("#model")).to_have_text("This server wants an API key.")
        page.fill("#key", "secret")
        page.fill("#question", "What is 12 + 5?")
        page.click("#ask")
        playwright.expect(page.locator(DONE)).to_have_count(3)
        assert "secret" not in page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        )
        page.close()


def test_a_model_without_a_dial(browser):
    engine = FakeEngine()
    engine.has_dial = False
    with running(engine) as server:
        page = browser.new_page()
        page.goto(server.url)
        playwright.expect(page.locator(".card")).to_have_count(1)
        assert page.locator("input[type=range]:visible").count() == 0
        page.fill("#question", "What is 12 + 5?")
        page.click("#ask")
        playwright.expect(page.locator(DONE)).to_have_count(1)
        assert engine.asks[0].mode is None
        page.close()


def test_settings_examples_and_history(browser, tmp_path):
    engine = FakeEngine()
    engine.path = tmp_path / "quickstart-q8_0.gguf"
    engine.path.touch()
    with running(engine) as server:
        page = browser.new_page()
        page.goto(server.url)
        playwright.expect(page.locator("#model")).to_contain_text("shows the dial and nothing else")
        page.click("#settings summary")
        for name, value in (("system", "Be brief."), ("temperature", "0.5"), ("budget", "64")):
            page.fill(f"#{name}", value)
        page.click("#examples button >> nth=1")
        playwright.expect(page.locator(DONE)).to_have_count(3)
        ask = engine.asks[0]
        assert [turn.content for turn in ask.messages] == ["Be brief.", EXAMPLES[1]]
        assert (ask.temperature, ask.budget) == (0.5, 64)
        page.click(".copy >> nth=0")
        playwright.expect(page.locator("#status")).to_contain_text("cop")
        page.click("#history summary")
        assert texts(page, "#history button") == [EXAMPLES[1]]
        page.close()


def test_a_blank_or_refused_question_leaves_no_old_reply(page, engine):
    page.fill("#question", "What is 12 + 5?")
    page.click("#ask")
    playwright.expect(page.locator(DONE)).to_have_count(3)
    widths = "[...document.querySelectorAll('.fill')].map(fill => fill.style.width)"
    assert page.evaluate(widths) == ["100%"] * 3
    page.fill("#question", "refuse")
    page.click("#ask")
    playwright.expect(page.locator(".card[data-state=fault]")).to_have_count(3)
    assert page.evaluate(widths) == ["0%"] * 3 and texts(page, ".think-count") == ["0"] * 3
    page.said.clear()  # the browser's own words about the 400
    page.fill("#question", "  ")
    page.click("#ask")
    assert texts(page, "#status") == ["Write a question first."] and texts(page, ".fault") == [""] * 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read(browser, server, width, scheme):
    """No sideways scrolling, and text in at least 4.5 times the luminance of its ground (WCAG 2.1, AA)."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(server.url)
    page.wait_for_selector(".card")
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    def luminance(css: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", css)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def style(selector: str, name: str) -> str:
        return page.locator(selector).first.evaluate(f"node => getComputedStyle(node).{name}")

    for text, ground in (
        ("h1", "body"),
        ("#model", "body"),
        (".think", ".card"),
        ("dt", ".card"),
        ("#ask", "#ask"),
    ):
        pair = sorted([luminance(style(text, "color")), luminance(style(ground, "backgroundColor"))])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, text
    page.close()
