"""The report in Chromium, opened from disk: nothing of the data runs, everything is reached by keyboard and seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import ATTACKS, hostile, hostile_judge, plain
from judge_runs import write_judge_run
from report_runs import write_run

from tests.browser import PAPER, WIDTHS, chromium, looks
from tests.figures import token_tables
from verdictscope.report import write_comparison, write_report
from verdictscope.study.folder import open_run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

STRUCTURE = """
return [...document.querySelectorAll('*')].map(e => e.tagName + '#' + e.id + '.' + e.getAttribute('class') + '['
    + [...e.attributes].map(a => a.name).join(' ') + ']');
"""

CONTRAST = """
const luminance = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .04045 ? v / 12.92
    : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
const parse = text => text.match(/[\\d.]+/g).map(Number);
const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.checkVisibility() || e.closest('script,style,svg')) continue;
    const [a, b] = [parse(getComputedStyle(e).color).slice(0, 3), behind(e)].map(luminance).sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) bad.push([e.tagName, e.className, walker.currentNode.textContent.slice(0, 40)]);
}
return bad;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plain report, a hostile one and a comparison."""
    folder = tmp_path_factory.mktemp("pages")

    def everything(made: dict[str, Any]) -> None:
        hostile("".join(text for name, text in ATTACKS.items() if name != "long"))(made)
        # A table on disk holds no lone surrogates.
        made["tokens"] = token_tables.hostile().map(
            lambda x: x.encode("utf-8", "replace").decode() if isinstance(x, str) else x
        )

    def with_tokens(made: dict[str, Any]) -> None:
        plain(made)
        made["tokens"] = token_tables.tokens()

    runs = {"plain": with_tokens, "hostile": everything, "long": hostile(ATTACKS["long"]), "usual": None}
    found = {}
    for name, change in runs.items():
        found[name] = folder / f"{name}.html"
        write_report(open_run(write_run(folder / name, change)), found[name])
    attack = "".join(text for name, text in ATTACKS.items() if name != "long")
    for name, change in {"judge": None, "judge_hostile": hostile_judge(attack)}.items():
        found[name] = folder / f"{name}.html"
        write_report(open_run(write_judge_run(folder / name, change)), found[name])
    found["both"] = folder / "both.html"
    write_comparison([open_run(folder / "usual"), open_run(folder / "hostile")], found["both"])
    return found


def show(browser: Any, page: Path) -> list[str]:
    """Open a page from disk and return what the console says about it."""
    browser.get_log("browser")
    browser.get(page.as_uri())
    return [entry["message"][:300] for entry in browser.get_log("browser")]


def focused(browser: Any) -> str:
    return browser.execute_script(
        "const e = document.activeElement; return (e.getAttribute('href') || e.id || e.className || e.tagName);"
    )


def press(browser: Any, *keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(*keys).perform()


@pytest.mark.parametrize("name", ["usual", "plain", "hostile", "long", "both", "judge", "judge_hostile"])
def test_the_console_is_silent_and_nothing_of_the_data_ran(browser: Any, pages: dict[str, Path], name: str) -> None:
    assert show(browser, pages[name]) == []
    assert browser.execute_script("return window.pwned") is None
    assert browser.title.endswith("· verdictscope")
    assert (
        browser.execute_script(
            "return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).map(r => r.name)"
        )
        == []
    )
    assert pages[name].stat().st_size < 5e6
    # A style of the data would have hidden the page.
    assert browser.execute_script("return document.querySelector('h1').checkVisibility()")


def test_the_token_view_works_inside(browser: Any, pages: dict[str, Path]) -> None:
    for name in ("plain", "hostile"):
        show(browser, pages[name])
        browser.switch_to.frame(browser.find_element("tag name", "iframe"))
        # Only its script marks a rollout as shown, and only its style colours a token.
        assert browser.execute_script("return document.querySelectorAll('.rollout.shown bdi').length") > 0
        assert browser.execute_script("return window.pwned") is None
        browser.switch_to.default_content()


@pytest.mark.parametrize("name", ["hostile", "long"])
def test_the_parsed_page_has_the_same_elements_whatever_the_data(
    browser: Any, pages: dict[str, Path], tmp_path: Path, name: str
) -> None:
    def same(made: dict[str, Any]) -> None:
        plain(made)
        if name == "hostile":
            made["tokens"] = token_tables.tokens()

    write_report(open_run(write_run(tmp_path / "run", same)), tmp_path / "plain.html")
    found = []
    for page in (tmp_path / "plain.html", pages[name]):
        show(browser, page)
        found.append(browser.execute_script(STRUCTURE))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["usual", "judge"])
def test_a_walk_by_keyboard(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name])
    press(browser, Keys.TAB)
    assert focused(browser) == "#main"
    press(browser, Keys.ENTER)
    assert focused(browser) == "main"
    browser.execute_script("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    show(browser, pages[name])
    reached = []
    wanted = browser.execute_script(
        "return [...document.querySelectorAll('a[href], button, summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility()).length"
    )
    for _ in range(wanted):
        press(browser, Keys.TAB)
        outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", focused(browser)
        reached.append(
            browser.execute_script("return [...document.querySelectorAll('*')].indexOf(document.activeElement)")
        )
    assert len(set(reached)) == wanted
    assert reached == sorted(reached)


def test_a_figure_is_enlarged_and_left_by_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["usual"])
    button = browser.find_element("css selector", "button.enlarge")
    browser.execute_script("arguments[0].focus()", button)
    press(browser, Keys.ENTER)
    dialog = browser.find_element("id", "enlarged")
    assert dialog.is_displayed()
    shown = browser.execute_script("return document.querySelector('#enlarged img').src")
    assert shown == browser.execute_script("return document.querySelector('figure img').src")
    assert browser.execute_script("return document.querySelector('#enlarged img').naturalWidth") > 0
    press(browser, Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert browser.execute_script("return document.activeElement.className") == "enlarge"
    details = browser.find_elements("css selector", "details summary")[-1]
    browser.execute_script("arguments[0].focus()", details)
    press(browser, Keys.SPACE)
    assert browser.execute_script("return arguments[0].parentElement.open", details)


@pytest.mark.parametrize("name", ["usual", "both", "hostile", "judge"])
def test_headings_pictures_and_tables_have_names_in_order(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name])
    levels = browser.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert browser.execute_script("return [...document.images].filter(i => !i.alt.trim()).length") == 0
    assert (
        browser.execute_script(
            "return [...document.querySelectorAll('table')].filter(t => "
            "!t.caption || !t.caption.textContent.trim()).length"
        )
        == 0
    )
    assert (
        browser.execute_script(
            "const all = [...document.querySelectorAll('[id]')].map(e => e.id);return all.length - new Set(all).size"
        )
        == 0
    )
    assert (
        browser.execute_script(
            "return [...document.querySelectorAll('a[href^=\"#\"]')].filter(a => "
            "!document.getElementById(a.hash.slice(1))).map(a => a.hash)"
        )
        == []
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["usual", "both", "judge"])
def test_text_stands_out_in_both_schemes(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    show(browser, pages[name])
    assert browser.execute_script(CONTRAST) == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize(("width", "media"), [*((width, "screen") for width in WIDTHS), (PAPER, "print")])
@pytest.mark.parametrize("name", ["usual", "both", "long", "hostile", "judge", "judge_hostile"])
def test_no_page_scrolls_sideways_and_no_table_is_squeezed(
    browser: Any, pages: dict[str, Path], name: str, width: int, media: str
) -> None:
    found = looks(browser, pages[name], width, media)
    assert found["sideways"] <= 0
    assert found["narrow"] == found["broken"] == []
    if name in ("usual", "judge"):  # elsewhere the text is meant to be long
        assert found["cut"] == found["tall"] == []


@pytest.mark.parametrize("name", ["usual", "both", "judge"])
def test_no_text_is_squeezed_into_a_thread_on_a_narrow_screen(browser: Any, pages: dict[str, Path], name: str) -> None:
    """Captions and cells keep room for a word: a block table once laid its caption out one letter a line."""
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    show(browser, pages[name])
    thin = browser.execute_script("""
        return [...document.querySelectorAll('caption, th, td, p, li, dd, figcaption')].filter(e => e.checkVisibility()
            && !e.closest('.hush') && !e.matches('.hush, .hush *') && e.textContent.trim().length > 12
            && e.getBoundingClientRect().width > 1 && e.getBoundingClientRect().width < 60
            && !e.closest('thead')).map(e => [e.tagName, e.className, e.textContent.trim().slice(0, 30)]);""")
    assert thin == []
    # Nor is a word of a table's head cut in two: each is as wide as its longest word.
    cut = browser.execute_script("""
        return [...document.querySelectorAll('.numbers thead th')].filter(e => e.checkVisibility()
            && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent);""")
    assert cut == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
