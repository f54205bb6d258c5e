"""The token view without a browser: its data, its colours, its escaping, its sizes."""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from tests.figures.token_tables import HOSTILE, hostile, tokens
from verdictscope.figures.token_view import TokenView, token_view
from verdictscope.figures.token_view.encode import base64_halves, json_block
from verdictscope.figures.token_view.palette import BINS, INK, colours, steps
from verdictscope.figures.token_view.view import csp
from verdictscope.figures.token_view.visible import CLIP, visible


class Page(HTMLParser):
    """Tags, and the text of tokens and scripts, as an HTML parser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tokens: list[str] = []
        self.inside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "bdi":
            self.tokens.append("")
        if tag not in ("meta", "input"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] == "bdi":
            self.tokens[-1] += data


def data_of(page: str) -> dict:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(block)


def test_every_token_is_there_once_in_its_order() -> None:
    table = tokens()
    view = token_view(table)
    page = Page(view.to_html())
    shown = table[(table["readout"] == "probe") & (table["layer"] == 0)]
    assert page.tokens == [visible(t) for t in shown["token"]]
    assert not page.inside
    assert repr(view) == "TokenView: 2 rollouts, 120 tokens, scores of probe, refusal"


def test_scores_survive_to_three_digits() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 10.0**k, 200) for k in range(-2, 4)] + [[np.nan, np.inf, -np.inf, 1e300]])
    read = np.frombuffer(base64.b64decode(base64_halves(scores)), dtype="<f2").astype(float)
    fine = np.isfinite(scores) & (np.abs(scores) < 6e4)
    assert np.allclose(read[fine], scores[fine], rtol=2**-11, atol=1e-7)
    assert np.isnan(read[-4])
    assert read[-3:].tolist() == [np.inf, -np.inf, 65504.0]


def test_the_page_holds_every_layer_and_the_colours_of_the_first() -> None:
    table = tokens()
    view = token_view(table, start=("probe", 1))
    page = view.to_html()
    data = data_of(page)
    assert data["start"] == [0, 1]
    assert [r["layers"] for r in data["readouts"]] == [[0, 1, 2], [None]]
    mine = table[(table["rollout"] == "b/0") & (table["layer"] == 1)]["score"].to_numpy()
    column = np.frombuffer(base64.b64decode(data["rollouts"][1]["scores"][0][1]), dtype="<f2")
    assert np.array_equal(column, mine.astype("<f2"))
    given = [attrs["class"] for tag, attrs in Page(page).tags if tag == "bdi"][60:]
    wanted = steps(column.astype(float), data["readouts"][0]["centre"], data["readouts"][0]["limit"])
    assert given == [f"a{k}" for k in wanted]
    assert data["rollouts"][0]["end"] == 45
    assert [run[0] for run in data["rollouts"][0]["runs"]] == ["user", "thinking", "think_end", "answer"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=16), min_size=1), st.floats(0.01, 100))
def test_colours_grow_with_the_score(scores: list[float], limit: float) -> None:
    step = steps(np.array(scores), 0.5, limit)
    order = np.argsort(np.nan_to_num(np.array(scores), nan=0))
    there = ~np.isnan(np.array(scores))[order]
    assert (np.diff(step[order][there]) >= 0).all()
    assert ((step >= 0) == ~np.isnan(scores)).all()
    assert step.max() <= 2 * BINS
    assert steps(np.array([0.5]), 0.5, limit)[0] == BINS


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_letters_can_be_read_on_every_colour(theme: str) -> None:
    """WCAG 2 contrast, section 1.4.3: at least 4.5 to 1."""

    def luminance(colour: str) -> float:
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for colour in colours(theme):
        low, high = sorted((luminance(colour), luminance(INK[theme])))
        assert (high + 0.05) / (low + 0.05) >= 4.5


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=50))
def test_visible_text_holds_nothing_that_acts(text: str) -> None:
    shown = visible(text)
    for character in shown:
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co")
    assert shown
    shown.encode("utf-8")
    plain = "".join(c for c in text if " " <= c <= "~")
    assert len(text) > len(plain) or shown == (text or "∅")


def test_what_visible_writes() -> None:
    assert visible("a\nb\t") == "a⏎\nb⇥\t"
    assert visible("\u202e") == "⟨U+202E⟩"
    assert visible("\ud800") == "⟨U+D800⟩"
    assert visible("\u0301") == "◌\u0301"
    assert visible("e\u0301") == "e\u0301"
    assert visible("") == "∅"
    assert visible("x" * CLIP) == "x" * CLIP
    assert visible("x" * 1_000_000) == "x" * CLIP + "⟨… the first 400 of 1,000,000 characters⟩"


def test_hostile_text_is_text() -> None:
    view = token_view(hostile(), title=HOSTILE["end of script"], ends=(HOSTILE["script"], HOSTILE["image"]))
    text = view.to_html()
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 2
    assert names.count("style") == 1
    assert not {"img", "iframe", "textarea", "b"} & set(names)
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        assert not {"style", "autofocus"} & set(attrs)
    assert page.tokens == [visible(t) for t in [*HOSTILE.values(), *HOSTILE.values()]]
    assert not page.inside
    data = data_of(text)
    assert len(data["rollouts"]) == 1 + len(HOSTILE)
    assert len(text) < 500_000  # a megabyte of one token is not carried along
    text.encode("utf-8")


def test_the_frame_holds_the_page_and_nothing_else() -> None:
    view = token_view(hostile())
    frame = view.fragment(300)
    page = Page(frame)
    ((tag, attrs),) = page.tags
    assert tag == "iframe"
    assert attrs["sandbox"] == "allow-scripts"
    assert attrs["height"] == "300"
    assert attrs["srcdoc"] == view.to_html()
    assert frame.isascii()
    assert html.unescape(frame.split('srcdoc="')[1].removesuffix('"></iframe>')) == view.to_html()
    assert view._repr_html_().startswith("<iframe")


def test_the_policy_names_the_scripts_and_styles_that_are_there() -> None:
    import hashlib

    page = token_view(tokens()).to_html()
    policy = page.split('Content-Security-Policy" content="')[1].split('"')[0].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; ")
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
        assert csp()[directive] == f"'sha256-{digest}'"
    assert "unsafe" not in policy


LEAVES = st.text() | st.none() | st.integers()
JSON = st.recursive(LEAVES, lambda part: st.lists(part) | st.dictionaries(st.text(), part))


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_a_json_block_cannot_end_itself(data: object) -> None:
    block = json_block(data)
    assert not set(block) & set("<>&\u2028\u2029")
    assert json.loads(block) == data


def test_a_table_may_be_small_or_full_of_gaps() -> None:
    empty = token_view(tokens().head(0))
    assert "nothing to show" in empty.to_html()
    one = token_view(pd.DataFrame({"rollout": ["a"], "pos": [5], "token": ["x"], "score": [np.nan]}))
    assert Page(one.to_html()).tokens == ["x"]
    assert [attrs["class"] for tag, attrs in Page(one.to_html()).tags if tag == "bdi"] == ["na"]
    assert data_of(one.to_html())["rollouts"][0]["pos"] == [[0, 5]]
    gaps = tokens().query("pos % 10 < 5")
    first = data_of(token_view(gaps).to_html())["rollouts"][0]
    assert first["pos"] == [[i * 5, i * 10] for i in range(6)]
    unlabelled = tokens().assign(segment=None)
    assert [run[0] for run in data_of(token_view(unlabelled).to_html())["rollouts"][0]["runs"]] == ["∅"]


def test_variants_of_one_rollout_are_shown_apart() -> None:
    both = pd.concat([tokens(), tokens(seed=1).assign(variant="ablated_fixed", cell="harmful_complied")])
    view = token_view(both)
    assert [r.label for r in view.rollouts] == [
        "a/0 · base",
        "b/0 · base",
        "a/0 · ablated_fixed · harmful_complied",
        "b/0 · ablated_fixed · harmful_complied",
    ]


def test_normalised_scores_are_uncoloured_half_way() -> None:
    table = tokens().assign(unit="normalised")
    assert [r.centre for r in token_view(table).readouts] == [0.5, 0.5]


def bad_tables() -> dict[str, tuple[pd.DataFrame, str]]:
    table = tokens()
    twice = pd.concat([table, table.head(1)])
    other = table.head(3).assign(token="other", layer=7)
    units = pd.concat([table, table.head(1).assign(layer=5, unit="nats")])
    return {
        "no score": (table.drop(columns="score"), "lacks score"),
        "half a position": (table.assign(pos=0.5), "no whole number"),
        "two scores": (twice, "two scores"),
        "two texts": (pd.concat([table, other]), "two tokens"),
        "two units": (units, "one unit"),
    }


@pytest.mark.parametrize("name", list(bad_tables()))
def test_what_cannot_be_shown_is_an_error(name: str) -> None:
    table, message = bad_tables()[name]
    with pytest.raises(ValueError, match=message):
        token_view(table)


def test_a_start_that_is_not_there_is_an_error() -> None:
    for start, message in (("lens", "no readout"), (("probe", 9), "no layer")):
        with pytest.raises(ValueError, match=message):
            token_view(tokens(), start=start)


def test_a_long_rollout_stays_small() -> None:
    """Two bytes a token and layer, and some thirty for the token itself."""
    table = tokens(10_000, layers=tuple(range(32)), rollouts=("long",))
    page = token_view(table).to_html()
    assert len(page) < 10_000 * (40 + 33 * 2.7) + 60_000
    assert len(page.encode()) < 2_000_000


def test_saving_is_whole(tmp_path) -> None:
    view = token_view(tokens())
    assert isinstance(view, TokenView)
    path = view.save(tmp_path / "view.html")
    assert path.read_text(encoding="utf-8") == view.to_html()
    assert [p.name for p in tmp_path.iterdir()] == ["view.html"]
