"""The page of vt-report in a real browser: nothing hostile runs, keys reach all, all is legible."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import CONTRASTS, DESKTOP, LEAST_CONTRAST, PHONE, Page, chromium
from tests.corpora import write_jsonl
from tests.media import write_numbered
from tests.reports import HOSTILE, HOSTILE_PATH, page_of, write_data, write_hostile
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.report.content import read_content
from vt_fairseq.report.page import render


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A report all of whose texts are hostile."""
    folder = write_hostile(tmp_path_factory.mktemp("hostile") / "runs")
    path = folder / "report.html"
    path.write_text(page_of(folder, clips=10))
    return path


@pytest.fixture
def page(browser, hostile) -> Page:
    """The report, just opened on a desktop."""
    browser.look(DESKTOP, dark=False)
    browser.open(hostile)
    return browser


def test_no_hostile_text_runs_and_nothing_is_loaded(page, hostile):
    for number in range(4):
        page.run(f"document.querySelectorAll('a[data-result]')[{number}].click()")
        page.run("document.getElementById('more').click()")
        assert HOSTILE in page.run("document.getElementById('cards').textContent")
    assert HOSTILE_PATH in page.run("document.body.textContent")
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.run("document.querySelectorAll('img').length") > 0
    assert page.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert page.run("typeof window.hacked") == "undefined"
    assert page.happened("Page.javascriptDialogOpening") == []
    assert page.happened("Runtime.exceptionThrown") == []
    assert page.happened("Log.entryAdded") == []  # a policy that is broken would be named here
    asked = {event["request"]["url"] for event in page.happened("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("data:image/jpeg;")} == {hostile.as_uri()}
    links = page.run("[...document.querySelectorAll('[href], [src]')].map((e) => e.href || e.src)")
    assert all(re.match(r"data:image/jpeg;|file:[^#]*#[a-z-]+$", link) for link in links)


def test_a_script_that_is_not_the_pages_own_is_refused(page):
    page.run("""(() => {
      const script = document.createElement("script");
      script.textContent = "window.hacked = 1";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked = 1'>");
      document.body.insertAdjacentHTML("beforeend", "<img src=http://127.0.0.1:9/x.png>");
    })()""")
    assert page.run("typeof window.hacked") == "undefined"
    refused = [event["entry"]["text"] for event in page.happened("Log.entryAdded")]
    assert any("script" in text for text in refused)
    page.events.clear()


def test_filters_are_reached_and_used_with_the_keyboard_alone(page):
    def focus() -> str:
        return page.run("document.activeElement.id || document.activeElement.textContent")

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            page.press("Tab")
            if focus().startswith(wanted):
                return
        pytest.fail(f"Tab does not reach {wanted}")

    def count() -> str:
        return page.run("document.getElementById('count').textContent")

    tab_to("result")
    page.press("ArrowDown")  # captions, classify
    assert "classes" in page.run("document.getElementById('result').selectedOptions[0].textContent")
    tab_to("missing 1")
    page.press("Enter")
    assert count() == "1 of 30 rows"
    pressed = page.run("document.querySelector('[aria-pressed=true]').textContent")
    assert pressed == "missing 1" and focus() == pressed
    tab_to("search")
    for key in "zz":
        page.press(key)
    assert count() == "0 of 30 rows"
    page.run("document.getElementById('search').select()")
    page.press("2")
    page.press("9")
    assert count() == "1 of 30 rows"  # its id
    # What has the focus is seen.
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_more_rows_are_shown_on_demand(page):
    shown = "document.querySelectorAll('#cards article').length"
    assert page.run(shown) == 24
    page.run("document.getElementById('more').click()")
    assert page.run(shown) == 30
    assert page.run("document.getElementById('more').hidden")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_everything_is_legible_and_nothing_is_wider_than_the_screen(page, width, dark):
    page.look(width, dark)
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for number in range(4):
        page.run(f"document.querySelectorAll('a[data-result]')[{number}].click()")
        faint = {k: v for k, v in page.run(CONTRASTS).items() if v < LEAST_CONTRAST}
        assert faint == {}
        assert page.run("document.documentElement.scrollWidth") <= width
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background))) < 60) == dark


@pytest.fixture
def playable(tmp_path) -> Path:
    """A page beside the video of a clip, and of one that is gone."""
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "gone.mp4"):
        write_numbered(tmp_path / "videos" / name, 50)
    rows = [ClipRow("a", "a.mp4", 0.5, 1.5, captions=("x",)), ClipRow("b", "gone.mp4")]
    write_data(tmp_path / "data", tmp_path / "videos", {"test": rows})
    said = [{"id": row.id, "prediction": "x"} for row in rows]
    write_jsonl(tmp_path / "captions" / "predictions.jsonl", *said)
    path = tmp_path / "report.html"
    path.write_bytes(render(read_content([tmp_path], [], 10), tmp_path))
    (tmp_path / "videos" / "gone.mp4").unlink()
    return path


def wait_for(page: Page, script: str) -> None:
    ends = time.monotonic() + 20
    while not page.run(script):
        assert time.monotonic() < ends, script
        time.sleep(0.05)


def test_pictures_enlarge_and_the_clip_beside_the_page_plays(browser, playable):
    browser.look(DESKTOP, dark=False)
    browser.events.clear()
    browser.open(playable)
    browser.run("document.getElementById('order').value = 'id'")
    browser.run("document.getElementById('order').dispatchEvent(new Event('change'))")
    before = browser.run("document.querySelector('article img').getBoundingClientRect().width")
    assert not [
        e for e in browser.happened("Network.requestWillBeSent") if "mp4" in e["request"]["url"]
    ]
    browser.run("document.querySelector('article button.frames').focus()")
    browser.press("Enter")
    assert browser.run("document.getElementById('large').open")
    assert (
        browser.run("document.querySelector('dialog img').getBoundingClientRect().width")
        > 2 * before
    )
    wait_for(browser, "document.querySelector('dialog video').currentTime >= 0.5")
    assert browser.run("document.querySelector('dialog video').duration") == pytest.approx(
        2, abs=0.1
    )
    browser.run("document.getElementById('close').click()")
    assert not browser.run("document.getElementById('large').open")
    wait_for(browser, "document.querySelector('video') === null")  # it does not play on
    browser.run("document.querySelectorAll('article button.frames')[1].click()")
    wait_for(browser, "document.querySelector('dialog .none') !== null")
    said = browser.run("document.querySelector('dialog .none').textContent")
    assert said == "The browser cannot play this video beside the page."
    assert browser.happened("Runtime.exceptionThrown") == []


def test_on_paper_there_are_the_rows_and_no_controls(browser, playable):
    browser.look(DESKTOP, dark=True)
    browser.open(playable)
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    shown = (
        "[...document.querySelectorAll('nav, .filters, #more')].some((e) => e.checkVisibility())"
    )
    assert not browser.run(shown)
    assert browser.run("document.querySelectorAll('#cards article').length") == 2
    faint = {k: v for k, v in browser.run(CONTRASTS).items() if v < LEAST_CONTRAST}
    assert faint == {}
    pdf = browser.call("Page.printToPDF", printBackground=False)["data"]
    assert len(pdf) > 10_000
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
