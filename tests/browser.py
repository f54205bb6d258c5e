"""Chromium for tests that look at a page, and what a page must be like at every width and on paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
)

WIDTHS = (320, 390, 700, 710, 800, 960, 970, 1000, 1100, 1280, 1600, 1920)
"""Pixels: a phone, both sides of each change of layout, a laptop, a large screen."""

PAPER = 673
"""Pixels between the margins of a sheet of A4."""

LOOKS = """
const shown = e => e.checkVisibility() && !e.closest('.hush') && e.getBoundingClientRect().width > 1;
const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
const name = e => e.textContent.trim().slice(0, 40);
const cells = [...document.querySelectorAll('.card th[scope="row"], .card td')].filter(shown);
const broken = cell => { // a number that stands on two lines
    const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), bad = [];
    while (walker.nextNode()) for (const word of walker.currentNode.textContent.matchAll(/[^ ]*[0-9][^ ]*/g)) {
        const range = document.createRange();
        range.setStart(walker.currentNode, word.index); range.setEnd(walker.currentNode, word.index + word[0].length);
        if (word[0].length < 12 && range.getClientRects().length > 1) bad.push(word[0]);
    } return bad; };
return {
    cards: document.querySelectorAll('.card').length,
    sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    narrow: cells.filter(e => e.tagName === 'TH' && e.getBoundingClientRect().width < 8 * rem).map(name),
    cut: cells.filter(e => e.scrollWidth > e.clientWidth + 1).map(name),
    broken: cells.filter(e => e.tagName === 'TD').flatMap(broken),
    tall: cells.filter(e => e.getBoundingClientRect().height > 18 * rem).map(name),
};
"""


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A headless browser; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "--window-size=1200,900", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


def looks(browser: Any, page: Path, width: int, media: str = "screen") -> dict[str, Any]:
    """What is wrong with a page at a width: lists that should be empty, and the number of its cards."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    found = browser.execute_script(LOOKS)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    return found


def check_everywhere(page: Path, profile: Path, cards: int) -> None:
    """A report's control tables at every width and in print.

    Raises:
        AssertionError: names the width and what is wrong there.
    """
    with chromium(profile) as browser:
        for width, media in [*((width, "screen") for width in WIDTHS), (PAPER, "print")]:
            found = looks(browser, page, width, media)
            assert found.pop("cards") >= cards
            assert found.pop("sideways") <= 0, (width, media)
            assert not any(found.values()), (width, media, found)
