"""The token view in Chromium: nothing of a rollout runs, everything works by keyboard, colours follow the switches."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.figures.token_tables import HOSTILE, hostile, tokens
from verdictscope.figures.token_view import TokenView, token_view
from verdictscope.figures.token_view.encode import halves
from verdictscope.figures.token_view.palette import classes
from verdictscope.figures.token_view.view import csp
from verdictscope.figures.token_view.visible import visible

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,800"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the console says; a page without complaints says nothing."""
    return [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]


def show(browser: webdriver.Chrome, view: TokenView, folder: Path) -> None:
    complaints(browser)
    browser.get(view.save(folder / "view.html").as_uri())


def shown(browser: webdriver.Chrome) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('.rollout.shown bdi')].map(t => t.textContent)")


def coloured(browser: webdriver.Chrome) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('.rollout.shown bdi')].map(t => t.className.replace(' on', ''))"
    )


def current(browser: webdriver.Chrome) -> int:
    return browser.execute_script(
        "return [...document.querySelectorAll('.rollout.shown bdi')].indexOf(document.activeElement)"
    )


def press(browser: webdriver.Chrome, *keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def wanted(view: TokenView, rollout: int, readout: int, layer: int) -> list[str]:
    r = view.readouts[readout]
    column = view.rollouts[rollout].scores[r.name, r.layers[layer]]
    return classes(halves(column).astype(np.float64), r.centre, r.limit)


def test_nothing_of_a_hostile_rollout_runs(browser: webdriver.Chrome, tmp_path: Path) -> None:
    view = token_view(hostile(), title=HOSTILE["end of script"])
    show(browser, view, tmp_path)
    title = browser.title
    texts = [visible(t) for t in HOSTILE.values()]
    assert shown(browser) == texts
    assert browser.execute_script("return document.scripts.length") == 2
    assert browser.execute_script("return document.querySelectorAll('img, iframe, textarea, h1#owned').length") == 0
    for i in range(len(HOSTILE)):
        press(browser, "n", "e", Keys.ARROW_RIGHT, "v", "r", "]")
        assert shown(browser) == [texts[i]]
    press(browser, *["p"] * len(HOSTILE), Keys.END)
    assert shown(browser) == texts
    assert browser.title == title
    assert "owned" not in browser.title.replace(visible(HOSTILE["end of script"]), "")
    assert complaints(browser) == []


def test_hostile_text_moves_nothing_around_it(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Neighbours stand where they stand with a plain word between them; a megabyte does not widen the page."""
    for text in ("\u202edcba", "سلام", "\u2066"):
        row = tokens(3, layers=(0,), rollouts=("a",)).query("readout == 'probe'")
        view = token_view(row.assign(token=["left ", text, " right"], segment="user"))
        show(browser, view, tmp_path)
        boxes = browser.execute_script(
            "return [...document.querySelectorAll('bdi')].map(t => t.getBoundingClientRect().left)"
        )
        assert boxes == sorted(boxes)
    show(browser, token_view(hostile()), tmp_path)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


GAPS = """
const node = b => document.createTreeWalker(b, NodeFilter.SHOW_TEXT).nextNode();
const box = (n, from, to) => { const r = document.createRange(); r.setStart(n, from); r.setEnd(n, to);
    return r.getBoundingClientRect(); };
const nodes = [...document.querySelectorAll('.rollout.shown bdi')].map(node);
return nodes.slice(1).map((n, i) => { const before = nodes[i], a = box(before, before.length - 1, before.length),
    b = box(n, 1, 2); return Math.abs(a.top - b.top) < 2 ? b.left - a.right : null; });
"""


@pytest.mark.parametrize("numbered", [False, True])
def test_words_stand_apart(browser: webdriver.Chrome, tmp_path: Path, numbered: bool) -> None:
    words = ["explain", " how", " someone", " could", " build", " the", " instrument", " whether", " whether"]
    row = tokens(len(words), layers=(0,), rollouts=("a",)).query("readout == 'probe'")
    show(browser, token_view(row.assign(token=words, segment="user")), tmp_path)
    if numbered:
        press(browser, "v")
    gaps = [gap for gap in browser.execute_script(GAPS) if gap is not None]
    assert len(gaps) >= len(words) - 3
    assert min(gaps) > 4  # a space of 13.5 px type is 8 px wide


def test_the_arrow_keys_walk_and_the_score_is_said(browser: webdriver.Chrome, tmp_path: Path) -> None:
    view = token_view(tokens(), start=("probe", 2))
    show(browser, view, tmp_path)
    press(browser, Keys.ARROW_RIGHT)
    assert current(browser) == 0
    press(browser, *[Keys.ARROW_RIGHT] * 3, Keys.ARROW_LEFT)
    assert current(browser) == 2
    said = browser.find_element("id", "now").text
    score = view.rollouts[0].scores["probe", 2][2]
    assert f"{score:+.2f} logit (probe, layer 2)".replace("-", "−") in said
    assert "user, position 2, 43 before the end of thinking" in said
    press(browser, Keys.END)
    assert current(browser) == 59
    press(browser, Keys.ARROW_RIGHT)
    assert current(browser) == 59
    press(browser, Keys.HOME, Keys.ARROW_LEFT)
    assert current(browser) == 0
    press(browser, "j")
    assert current(browser) == 10
    press(browser, "j")
    assert current(browser) == 45
    press(browser, "k")
    assert current(browser) == 10
    press(browser, "e")
    assert current(browser) == 45
    assert "closes the thinking" in browser.find_element("id", "now").text
    assert complaints(browser) == []


def test_up_and_down_go_to_the_next_line(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, token_view(tokens(words=(" aa", " bb", " cc.\n"))), tmp_path)
    press(browser, Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert current(browser) == 4
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_UP)
    assert current(browser) == 1


def test_colours_follow_layer_readout_and_rollout(browser: webdriver.Chrome, tmp_path: Path) -> None:
    view = token_view(tokens(), start=("probe", 2))
    show(browser, view, tmp_path)
    first = coloured(browser)
    assert first == wanted(view, 0, 0, 2)
    press(browser, "[")
    assert coloured(browser) == wanted(view, 0, 0, 1)
    press(browser, "[", "[", "[")  # no layer below the first
    assert coloured(browser) == wanted(view, 0, 0, 0)
    assert "layer 0" in browser.find_element("id", "what").text
    press(browser, "r")
    assert coloured(browser) == wanted(view, 0, 1, 0)
    assert "nats" in browser.find_element("id", "what").text
    press(browser, "r", "]", "]", "n")
    assert coloured(browser) == wanted(view, 1, 0, 2)
    press(browser, "p")
    assert coloured(browser) == first
    browser.find_element("css selector", "#readout option[value='1']").click()
    assert coloured(browser) == wanted(view, 0, 1, 0)
    assert complaints(browser) == []


def test_the_pointer_shows_the_score(browser: webdriver.Chrome, tmp_path: Path) -> None:
    view = token_view(tokens(), start=("probe", 2))
    show(browser, view, tmp_path)
    token = browser.find_elements("css selector", ".rollout.shown bdi")[7]
    webdriver.ActionChains(browser).move_to_element(token).perform()
    tip = browser.find_element("id", "tip")
    assert tip.is_displayed()
    told = tip.text
    assert told.startswith(f"{view.rollouts[0].scores['probe', 2][7]:+.2f} logit".replace("-", "−"))
    token.click()
    assert current(browser) == 7
    browser.find_element("id", "numbers").click()
    token = browser.find_elements("css selector", ".rollout.shown bdi")[7]
    assert token.get_attribute("data-score") == told.split()[0]


def test_variants_of_one_rollout_keep_the_token(browser: webdriver.Chrome, tmp_path: Path) -> None:
    table = tokens(rollouts=("a/0",))
    view = token_view(pd.concat([table, table.assign(variant="ablated_fixed", score=-table["score"])]))
    show(browser, view, tmp_path)
    press(browser, "e", "n")
    assert current(browser) == 45
    assert browser.find_element("css selector", ".rollout.shown h2").text.startswith("a/0 · ablated_fixed")


def test_a_frame_works_inside_a_page_with_a_strict_policy(browser: webdriver.Chrome, tmp_path: Path) -> None:
    view = token_view(tokens(), start=("probe", 2))
    policy = "; ".join(["default-src 'none'", *(f"{key} {value}" for key, value in csp().items())])
    page = tmp_path / "host.html"
    page.write_text(
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}"><p id="host">host</p>'
        + view.fragment(500)
    )
    complaints(browser)
    browser.get(page.as_uri())
    color = browser.find_element("id", "host").value_of_css_property("color")
    browser.switch_to.frame(0)
    press(browser, Keys.TAB)
    browser.find_elements("css selector", ".rollout.shown bdi")[3].click()
    assert current(browser) == 3
    assert browser.execute_script("try { return parent.document.title } catch { return 'kept out' }") == "kept out"
    browser.switch_to.default_content()
    assert browser.find_element("id", "host").value_of_css_property("color") == color
    assert complaints(browser) == []


def test_without_scripts_the_first_readout_is_readable(browser: webdriver.Chrome, tmp_path: Path) -> None:
    view = token_view(tokens(), start=("probe", 2))
    page = tmp_path / "host.html"
    page.write_text("<!doctype html>" + view.fragment(500).replace('sandbox="allow-scripts"', 'sandbox=""'))
    browser.get(page.as_uri())
    # the driver cannot look into a frame without scripts, so the page is drawn and its colours are counted; nor does it
    # know when the frame is drawn
    until = time.monotonic() + 20
    while len(tints(browser)) <= 20 and time.monotonic() < until:
        time.sleep(0.2)
    assert len(tints(browser)) > 20


def tints(browser: webdriver.Chrome) -> set[tuple[int, int, int]]:
    """Colours that are no grey and cover more than a few pixels of what is on the screen."""
    image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return {c for n, c in image.getcolors(1 << 20) if n > 30 and max(c) - min(c) > 12}


def test_empty_and_single_tokens(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, token_view(tokens().head(0)), tmp_path)
    assert "nothing to show" in browser.find_element("tag name", "body").text
    show(browser, token_view(tokens(1, rollouts=("a",))), tmp_path)
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.END, "j", "k", "e")
    assert current(browser) == 0
    assert complaints(browser) == []
