"""The audit's page in a real browser: it renders, asks for nothing, runs nothing, and fits a phone."""

import shutil

import pytest

from nabla_tau.auditing.page import page
from tests.auditing.sample_report import sample_report
from tests.auditing.test_page import ATTACK
from tests.conftest import missing, require


@pytest.fixture(scope="module")
def browser():
    require("playwright")
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        missing("Chromium is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium)
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report's page; gives the tab, and fails if it asked for anything or complained."""
    requests, complaints, contexts = [], [], []

    def open_page(report, **options):
        file = tmp_path / "report.html"
        file.write_text(page(report), encoding="utf-8")
        contexts.append(browser.new_context(**options))
        contexts[-1].route("**/*", lambda route: (requests.append(route.request.url), route.continue_()))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.goto(file.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith("file:") or not url.endswith("/report.html")] == []
    assert complaints == []


def brightness(tab, selector):
    red, green, blue = tab.evaluate(
        "selector => getComputedStyle(document.querySelector(selector)).backgroundColor.match(/\\d+/g).map(Number)",
        selector,
    )[:3]
    return (red + green + blue) / 3


def test_it_renders(opened):
    tab = opened(sample_report(), viewport={"width": 1280, "height": 900})
    assert tab.title() == "Unlearning audit"
    assert tab.locator("section:visible").count() == 18  # with the warnings, without the verdict's card
    assert tab.get_by_role("img", name="Losses, unlearned").bounding_box()["height"] > 100
    assert brightness(tab, "body") > 200
    clicked = tab.get_by_role("link", name="Threat model")
    clicked.click()
    assert tab.evaluate("location.hash") == "#threats"
    tab.get_by_text("The same for 3 retrained models").click()
    assert tab.get_by_role("region", name="Attacks on the retrained 3 model").is_visible()


@pytest.mark.parametrize("width", [320, 360, 390, 820])
def test_it_fits_a_narrow_screen(opened, width):
    report = sample_report()
    report["settings"]["file"] = "a" * 500
    report["warnings"].append("b" * 500)
    report["command"] = "nabla-tau audit " + "c" * 500
    tab = opened(report, viewport={"width": width, "height": 780})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    wide = tab.evaluate(
        """width => [...document.querySelectorAll("main *")].filter(one => !one.closest(".scroll, svg")
           && one.getBoundingClientRect().right > width + 1).map(one => one.outerHTML.slice(0, 80))""",
        width,
    )
    assert wide == []


def test_it_is_dark_where_the_reader_wants_it(opened):
    tab = opened(sample_report(), color_scheme="dark")
    assert brightness(tab, "body") < 40
    assert brightness(tab, "section") < 50
    colour = "getComputedStyle(document.querySelector('figure text')).fill"
    dark = tab.evaluate(colour)
    tab.emulate_media(color_scheme="light")
    assert tab.evaluate(colour) != dark
    assert brightness(tab, "body") > 200


def test_on_paper_it_is_white_and_complete(opened):
    tab = opened(sample_report(), color_scheme="dark")
    tab.emulate_media(media="print")
    assert brightness(tab, "body") == 255
    assert not tab.get_by_role("navigation").is_visible()
    assert tab.pdf(format="A4").startswith(b"%PDF")


def test_what_looks_like_a_script_is_text(opened):
    report = sample_report(warnings=[ATTACK], command=ATTACK)
    report["settings"][ATTACK] = ATTACK
    report["models"][2]["name"] = f"retrained {ATTACK}"
    report["models"][1]["attacks"][1]["score"] = ATTACK
    tab = opened(report)
    assert tab.title() == "Unlearning audit"
    assert tab.locator("script, main img").count() == 0
    assert tab.locator(".warnings li").inner_text() == ATTACK
    assert tab.locator("#reproduce pre").inner_text() == ATTACK
    assert any(text.startswith("<script>") for text in tab.locator("#attacks figure text").all_text_contents())
