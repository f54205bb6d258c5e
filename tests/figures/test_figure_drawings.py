"""Every figure, in every state a run can leave its table in, is drawn so that it can be read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import figure_tables as tables
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from verdictscope import figures
from verdictscope.figures import Display

MANY = [(28, 23), (20, 14), (15, 8), (9, 8), (12, 27), (23, 29), (22, 20), (31, 25), (21, 30), (24, 8)]


def _unnormalised(value: float = float("nan")):
    table = tables.trace_mean()
    table.loc[table["kind"] == "normalised", ["estimate", "low", "high"]] = value
    return table


def _wild():
    """Normalised bands that run far out at the thin left end."""
    table = tables.trace_mean()
    far = (table["kind"] == "normalised") & (table["rel_think_end"] < -34)
    table.loc[far, "high"] += 30
    table.loc[far, "low"] -= 30
    return table


def _no_attribution(**columns: object):
    return tables.heads().assign(**columns)


TRACE, MAP, HEADS = tables.trace_mean(), tables.probe_map(), tables.heads()
GENERATION, ABLATION = tables.generation(), tables.ablation()
NAN = float("nan")
DRAWINGS: dict[str, Callable[[], Display]] = {
    "trace": lambda: figures.trace(TRACE, closing=2),
    "trace, closing unknown": lambda: figures.trace(TRACE),
    "trace, cannot normalise": lambda: figures.trace(_unnormalised(), closing=2),
    "trace, no normalised rows": lambda: figures.trace(TRACE[TRACE["kind"] == "raw"], closing=2),
    "trace, base alone": lambda: figures.trace(TRACE[TRACE["variant"] == "base"], closing=2),
    "trace, no hero": lambda: figures.trace(TRACE[~TRACE["target"]], closing=2),
    "trace, long, into the answer": lambda: figures.trace(tables.trace_mean(-90, 4, 9), closing=4),
    "trace, short": lambda: figures.trace(tables.trace_mean(-3, 1)),
    "trace, wild bands": lambda: figures.trace(_wild(), closing=2),
    "trace, empty": lambda: figures.trace(TRACE[:0]),
    "map": lambda: figures.probe_map(MAP, tables.probe()),
    "map, 32 layers": lambda: figures.probe_map(tables.probe_map(32), tables.probe(20, 32)),
    "map, 32 layers, 69 places": lambda: figures.probe_map(tables.probe_map(32, 64, 4), tables.probe(20, 32)),
    "map, one layer": lambda: figures.probe_map(tables.probe_map(1), tables.probe(0, 1)),
    "map, holes": lambda: figures.probe_map(MAP[(MAP["layer"] != 2) | (MAP["order"] < 4)]),
    "map, empty": lambda: figures.probe_map(MAP[:0]),
    "heads": lambda: figures.head_map(HEADS, planted=[[4, 6], [3, 1], [1, 0]]),
    "transfer": lambda: figures.transfer(tables.transfer()),
    "transfer, one left out": lambda: figures.transfer(tables.transfer(left_out=True), over="frame"),
    "transfer, holes": lambda: figures.transfer(tables.transfer(empty=True)),
    "transfer, two sets": lambda: figures.transfer(tables.transfer(2), over="verb category"),
    "transfer, 24 places": lambda: figures.transfer(tables.transfer(24)),
    "transfer, empty": lambda: figures.transfer(tables.transfer()[:0]),
    "erased": lambda: figures.erasure(tables.erasure(), tables.erased_trace(), closing=2),
    "erased, not normalised": lambda: figures.erasure(tables.erasure(), tables.erased_trace().query("kind == 'raw'")),
    "erased, areas alone": lambda: figures.erasure(tables.erasure()),
    "erased, empty": lambda: figures.erasure(tables.erasure()[:0], tables.erased_trace()[:0]),
    "heads, truth unknown": lambda: figures.head_map(HEADS),
    "heads, 32 by 32": lambda: figures.head_map(tables.heads(32, 32, MANY), planted=MANY[:5]),
    "heads, one layer": lambda: figures.head_map(tables.heads(1, 8, [(0, 3)])),
    "heads, probe's share alone": lambda: figures.head_map(_no_attribution(attribution_log_odds=NAN)),
    "heads, nothing found": lambda: figures.head_map(
        _no_attribution(found=False, attribution_log_odds=NAN, attribution_probe=NAN)
    ),
    "heads, empty": lambda: figures.head_map(HEADS[:0], planted=[[4, 6]]),
    "ablation": lambda: figures.ablation(GENERATION, ABLATION),
    "ablation, no reference model, few sets": lambda: figures.ablation(
        tables.generation(("base", "ablated"), 3), tables.ablation(5)
    ),
    "ablation, no effect": lambda: figures.ablation(GENERATION, tables.ablation(99, 0.3)),
    "ablation, base alone": lambda: figures.ablation(tables.generation(("base",), 0), tables.ablation(0)),
    "ablation, target alone": lambda: figures.ablation(
        GENERATION[GENERATION["cell_kind"] == "target"], tables.ablation(99, -4.0)
    ),
    "ablation, empty": lambda: figures.ablation(GENERATION[:0], ABLATION[:0]),
    "verdict trace": lambda: figures.verdict_trace(tables.verdict_trace_mean()),
    "verdict trace, lens": lambda: figures.verdict_trace(tables.verdict_trace_mean("lens")),
    "verdict trace, no cue": lambda: figures.verdict_trace(tables.verdict_trace_mean().query("condition == 'plain'")),
    "verdict trace, empty": lambda: figures.verdict_trace(tables.verdict_trace_mean()[:0]),
    "debate": lambda: figures.debate(tables.debate_curves()),
    "debate, empty": lambda: figures.debate(tables.debate_curves()[:0]),
    "forced lengths": lambda: figures.forced_lengths(tables.forced_lengths()),
    "forced lengths, no reference model, ten": lambda: figures.forced_lengths(tables.forced_lengths(("base",), 10)),
    "forced lengths, empty": lambda: figures.forced_lengths(tables.forced_lengths()[:0]),
}


@cache
def drawn(name: str) -> Figure:
    """The figure of this name, drawn once per session."""
    fig = DRAWINGS[name]().figure
    fig.draw_without_rendering()
    return fig


def words(fig: Figure) -> list[Text]:
    """Every text a reader sees."""
    shown, ticks = set(), set()
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        ticks.update(label for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2))
        if axis.axes.axison:
            shown.update(tick.label1 for tick in axis._update_ticks() if tick.label1.get_visible())
    return [
        text
        for text in fig.findobj(Text)
        if text.get_text().strip() and text.get_visible() and (text in shown or text not in ticks)
    ]


@pytest.mark.parametrize("name", DRAWINGS)
def test_no_word_leaves_the_page_or_covers_another(name: str) -> None:
    fig = drawn(name)
    renderer = fig.canvas.get_renderer()
    texts = [(text.get_text(), Text.get_window_extent(text, renderer)) for text in words(fig)]
    assert texts
    page = fig.bbox
    for word, box in texts:
        assert box.x0 >= page.x0 - 1, f"{word!r} leaves the page at the left"
        assert box.x1 <= page.x1 + 1, f"{word!r} leaves the page at the right"
        assert box.y0 >= page.y0 - 1, f"{word!r} leaves the page below"
        assert box.y1 <= page.y1 + 1, f"{word!r} leaves the page above"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 1.5 or along < 1.5, f"{one!r} and {other!r} cover one another"


@pytest.mark.parametrize("name", DRAWINGS)
def test_no_word_is_too_small_to_read(name: str) -> None:
    assert min(text.get_fontsize() for text in words(drawn(name))) >= 5.3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trace, cannot normalise", "cannot normalise"),
        ("trace, no normalised rows", "cannot normalise"),
        ("trace, wild bands", "leave the frame"),
        ("trace, empty", "no raw score"),
        ("map, empty", "no rows"),
        ("transfer, empty", "no rows"),
        ("erased, empty", "no AUROC"),
        ("erased, not normalised", "cannot normalise"),
        ("heads, empty", "no rows"),
        ("heads, nothing found", "no direct attribution"),
        ("ablation, base alone", "no random sets"),
        ("ablation, empty", "no answers"),
        ("verdict trace, empty", "nothing was read"),
        ("forced lengths, empty", "nothing was read"),
        ("debate, empty", "no verdict was parsed"),
    ],
)
def test_a_panel_says_why_it_is_empty(name: str, said: str) -> None:
    assert any(said in text.get_text() for text in words(drawn(name)))


def test_what_is_well_says_nothing() -> None:
    for name in ("trace", "map", "heads", "ablation"):
        texts = " ".join(text.get_text() for text in words(drawn(name)))
        assert "no " not in texts
        assert "leave" not in texts
        assert "cannot" not in texts


def test_one_head_map_has_numbers_and_a_thousand_heads_have_none() -> None:
    small, large = drawn("heads").axes[0], drawn("heads, 32 by 32").axes[0]
    assert len(small.texts) == 48
    assert len(large.texts) == 0


def test_the_normalised_frame_shows_both_normaliser_however_wild_the_bands() -> None:
    for name in ("trace", "trace, wild bands", "trace, base alone"):
        low, high = drawn(name).axes[0].get_ylim()
        assert low < 0 < 1 < high
        assert high - low < 4.6


def test_effect_colours_are_centred_on_nothing_and_auroc_on_chance() -> None:
    heads, probes = drawn("heads").axes[0].images[0], drawn("map").axes[0].images[0]
    assert heads.norm.vmin == -heads.norm.vmax
    assert heads.norm.vmax == pytest.approx(HEADS["effect"].abs().max())
    assert (probes.norm.vmin, probes.norm.vmax) == (0.0, 1.0)
    assert np.allclose(heads.cmap(0.5)[:3], 0.968, atol=0.01)
