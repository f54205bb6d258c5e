"""What is drawn and what is said are the tables' numbers, and drawing leaves nothing behind."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import figure_tables as tables
import matplotlib
import numpy as np
import pandas as pd
import pytest

from verdictscope import figures
from verdictscope.figures.style import CELL_COLOURS, VARIANT_COLOURS
from verdictscope.traces.landmarks import closing_tokens

ROOM = Path(__file__).resolve().parents[2] / "figures"


def _line(ax: matplotlib.axes.Axes, colour: str) -> matplotlib.lines.Line2D:
    """The longest line of a colour, the widest of these: marks at the closing tokens and edges of a band are others."""
    own = (line for line in ax.lines if line.get_color() == colour)
    return max(own, key=lambda line: (len(line.get_xdata()), line.get_linewidth()))


@pytest.mark.parametrize(("column", "kind"), [(0, "normalised"), (1, "raw")])
def test_the_hero_and_its_n_are_the_tables_rows(column: int, kind: str) -> None:
    table = tables.trace_mean()
    rows = table[
        (table["variant"] == "base") & (table["cell"] == "harmful_complied") & table["target"] & (table["kind"] == kind)
    ]
    fig = figures.trace(table.sample(frac=1, random_state=0), closing=2).figure
    line = _line(fig.axes[column], CELL_COLOURS["harmful_complied"])
    assert np.array_equal(line.get_xdata(), rows["rel_think_end"])
    assert np.allclose(line.get_ydata(), rows["estimate"])
    count = _line(fig.axes[2 + column], CELL_COLOURS["harmful_complied"])
    assert np.array_equal(count.get_ydata(), rows["n"])


def test_a_missing_position_is_a_gap_and_not_a_bridge() -> None:
    table = tables.trace_mean()
    fig = figures.trace(table[~table["rel_think_end"].between(-20, -10)]).figure
    line = _line(fig.axes[0], CELL_COLOURS["harmful_complied"])
    gap = (line.get_xdata() >= -20) & (line.get_xdata() <= -10)
    assert gap.sum() == 11
    assert np.isnan(np.asarray(line.get_ydata(), dtype=float)[gap]).all()


def test_controls_are_dashed_and_absent_where_the_variant_is() -> None:
    table = tables.trace_mean()
    full = figures.trace(table).figure.axes[0]
    assert _line(full, VARIANT_COLOURS["reference"]).is_dashed()
    assert _line(full, VARIANT_COLOURS["ablated_fixed"]).is_dashed()
    alone = figures.trace(table[table["variant"] == "base"]).figure
    assert VARIANT_COLOURS["reference"] not in {line.get_color() for line in alone.axes[0].lines}
    assert [text.get_text() for text in alone.legends[0].texts] == [
        "target requests, complied (n = 118)",
        "harmful requests, refused (n = 61)",
        "harmless requests, complied (n = 240)",
    ]


def test_closing_tokens_are_read_off_the_trace() -> None:
    assert closing_tokens(tables.trace()) == 2
    assert closing_tokens(tables.trace().query("segment != 'think_end'")) is None


def test_the_map_holds_the_tables_values_in_order_and_frames_the_chosen_layer() -> None:
    table = tables.probe_map()
    ax = figures.probe_map(table.sample(frac=1, random_state=0), tables.probe(3)).figure.axes[0]
    values = table.pivot(index="layer", columns="order", values="auroc").to_numpy()
    assert np.allclose(ax.images[0].get_array(), values)
    frame = [patch for patch in ax.patches if not patch.get_fill()]
    assert len(frame) == 1
    assert (frame[0].get_y() + 0.5, frame[0].get_width()) == (3, values.shape[1])


def test_found_heads_are_framed_and_planted_ones_dotted() -> None:
    table = tables.heads()
    planted = [[1, 0], [4, 6]]
    left, right = figures.head_map(table, planted=planted).figure.axes[:2]
    framed = {(int(p.get_y() + 0.5), int(p.get_x() + 0.5)) for p in left.patches if not p.get_fill()}
    assert framed == set(tables.FOUND)
    dots = {
        (int(np.floor(line.get_ydata()[0] + 0.5)), int(np.floor(line.get_xdata()[0] + 0.5)))
        for line in left.lines
        if line.get_marker() == "o"
    }
    assert dots == {(1, 0), (4, 6)}
    effects = table.pivot(index="layer", columns="head", values="effect").to_numpy()
    assert np.allclose(left.images[0].get_array(), effects)
    assert {"L4H6", "L3H1", "L2H5", "L1H0"} <= {text.get_text() for text in right.texts}
    bare = figures.head_map(table).figure.axes[0]
    assert not [line for line in bare.lines if line.get_marker() == "o"]


def test_bars_whiskers_dots_and_the_null_are_the_tables() -> None:
    generation, ablation = tables.generation(), tables.ablation()
    left, right = figures.ablation(generation, ablation).figure.axes
    rates = generation.set_index(["cell_kind", "variant"])["refused"]
    heights = [bar.get_height() for bar in left.patches]
    for place, kind in enumerate(("target", "control")):
        for i, variant in enumerate(("base", "ablated", "random", "reference")):
            expected = (
                rates[kind][[f"random_{j}" for j in range(5)]].mean() if variant == "random" else rates[kind, variant]
            )
            assert heights[4 * place + i] == pytest.approx(expected)
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert np.allclose(dots[0].get_ydata(), rates["target"][[f"random_{j}" for j in range(5)]])
    assert sum(bar.get_height() for bar in right.patches if bar.get_facecolor()[3] == 1) == 99
    said = " ".join(text.get_text() for text in right.texts)
    assert "+8.60" in said
    assert "p = 0.01" in said


def _captions() -> dict[str, str]:
    return {
        "trace": figures.trace(tables.trace_mean(), tables.cliff()).caption,
        "map": figures.probe_map(tables.probe_map(), tables.probe()).caption,
        "erased": figures.erasure(tables.erasure(), tables.erased_trace()).caption,
        "transfer": figures.transfer(tables.transfer()).caption,
        "heads": figures.head_map(tables.heads(), planted=[[4, 6], [1, 0]]).caption,
        "ablation": figures.ablation(tables.generation(), tables.ablation()).caption,
    }


@pytest.mark.parametrize("name", ["trace", "map", "transfer", "erased", "heads", "ablation"])
def test_a_caption_has_n_an_interval_and_what_is_not_shown(name: str) -> None:
    text = _captions()[name]
    assert "\n" not in text
    assert re.search(r"n = \d+", text)
    assert re.search(r"\d \[[−+]?\d\.\d+, [−+]?\d+\.\d+\]", text)
    assert "95 % interval" in text
    assert "Not shown:" in text
    assert "nan" not in text


def test_captions_say_the_tables_numbers() -> None:
    said = _captions()
    assert "0.60 [0.53, 0.66], n = 118; reference model −0.08 [−0.15, 0.02], n = 120" in said["trace"]
    assert "L4H6 +3.40 [+3.20, +3.60]" in said["heads"]
    assert "1 of 2 selected" in said["heads"]
    assert "+8.60 [+8.10, +9.10] nats" in said["ablation"]
    assert "99 layer-matched" in said["ablation"]
    assert "2 answers" in said["ablation"]
    moved = tables.ablation(49, 7.25)
    assert "+7.25 [+6.75, +7.75] nats" in figures.ablation(tables.generation(), moved).caption
    assert "p = 0.02" in figures.ablation(tables.generation(), moved).caption


def test_captions_of_what_is_missing_say_so() -> None:
    table = tables.trace_mean()
    raw = table.assign(estimate=table["estimate"].where(table["kind"] == "raw"))
    assert "could not be normalised" in figures.trace(raw).caption
    assert "Without a control" in figures.trace(table[table["variant"] != "reference"]).caption
    assert "no bold line" in figures.trace(table[~table["target"]]).caption
    assert "No head was selected" in figures.head_map(tables.heads().assign(found=False)).caption
    assert "were not measured" in figures.ablation(tables.generation()[:0], tables.ablation()[:0]).caption
    for text in (
        figures.trace(table[:0]).caption,
        figures.probe_map(tables.probe_map()[:0]).caption,
        figures.head_map(tables.heads()[:0]).caption,
    ):
        assert "Not shown:" in text
        assert "nan" not in text


def test_a_transfer_map_shows_the_tables_cells_and_marks_those_at_chance() -> None:
    table = tables.transfer(empty=True)
    ax = figures.transfer(table).figure.axes[0]
    shown = np.asarray(ax.images[0].get_array().filled(np.nan))
    read = [label.get_text() for label in ax.get_xticklabels()]
    fit = [label.get_text() for label in ax.get_yticklabels()]
    for row in table.to_dict("records"):
        assert shown[fit.index(row["fit"]), read.index(row["read"])] == pytest.approx(row["auroc"], nan_ok=True)
    marked = {(round(x - 0.36), round(y - 0.3)) for x, y in (line.get_xydata()[0] for line in ax.lines)}
    unclear = table[table["low"] <= table["null_high"].clip(lower=0.5)]
    assert marked == {(read.index(r), fit.index(f)) for f, r in unclear[["fit", "read"]].to_numpy()}
    said = figures.transfer(table).caption
    clear = table[(table["kind"] != "within") & (table["low"] > table["null_high"])]
    assert f"{len(clear)} of 16 transfers" in said
    assert "5 hatched cells" in said
    assert "0.41 to 0.58" in said


def test_the_erased_trace_draws_the_tables_curves_and_says_its_numbers() -> None:
    table = tables.erased_trace()
    ax = figures.erasure(tables.erasure(), table, closing=2).figure.axes[0]
    target = table[(table["cell"] == "harmful_complied") & table["target"] & (table["kind"] == "normalised")]
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines if len(line.get_xdata()) > 10]
    for erased, probe in (("none", "old"), ("concept", "old"), ("concept", "refitted")):
        rows = target[(target["erased"] == erased) & (target["probe"] == probe)].sort_values("rel_think_end")
        assert any(np.allclose(y, rows["estimate"]) for y in drawn)
    said = figures.erasure(tables.erasure(), table).caption
    assert "AUROC of harm: 0.80 [0.77, 0.82] before, 0.51 [0.48, 0.54] after" in said
    assert "erased and refitted 0.50 [0.40, 0.60]" in said
    assert "permuted labels" in said


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="trace_mean table lacks kind, n"):
        figures.trace(tables.trace_mean().drop(columns=["kind", "n"]))
    with pytest.raises(ValueError, match="probe table lacks chosen"):
        figures.probe_map(tables.probe_map(), tables.probe().drop(columns="chosen"))
    with pytest.raises(ValueError, match="heads table lacks found"):
        figures.head_map(tables.heads().drop(columns="found"))
    with pytest.raises(ValueError, match="ablation table lacks p"):
        figures.ablation(tables.generation(), tables.ablation().drop(columns="p"))


def test_tables_and_rc_settings_stay_as_they_were() -> None:
    given = (tables.trace_mean(), tables.heads(), tables.generation(), tables.ablation())
    copies = [table.copy(deep=True) for table in given]
    before = dict(matplotlib.rcParams)
    figures.trace(given[0])
    figures.head_map(given[1], planted=[[4, 6]])
    figures.ablation(given[2], given[3])
    assert dict(matplotlib.rcParams) == before
    for table, copy in zip(given, copies, strict=True):
        pd.testing.assert_frame_equal(table, copy)


def test_the_same_table_gives_the_same_bytes_whatever_the_rc_settings_and_the_display(tmp_path: Path) -> None:
    def digest(folder: str, show: bool) -> list[str]:
        fig = figures.ablation(tables.generation(), tables.ablation())
        if show:
            png, size = fig._repr_png_()
            assert png.startswith(b"\x89PNG")
            assert size["width"] == 675
        paths = fig.save(tmp_path / folder, "ablation")
        assert [path.name for path in paths] == ["ablation.png", "ablation.pdf"]
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["ablation.pdf", "ablation.png"]
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    first = digest("a", show=False)
    with matplotlib.rc_context({"font.size": 22, "axes.grid": True, "axes.facecolor": "yellow"}):
        assert digest("b", show=True) == first
    assert b"CreationDate" not in (tmp_path / "a" / "ablation.pdf").read_bytes()
    assert b"Software" not in (tmp_path / "a" / "ablation.png").read_bytes()


def test_the_room_is_a_leaf_and_never_loads_pyplot() -> None:
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            )
            for module in modules:
                assert module != "matplotlib.pyplot"
                assert not module.startswith("verdictscope") or module.startswith(
                    ("verdictscope.figures", "verdictscope.stats")
                ), f"{path.name} imports {module}"
    code = "import sys, verdictscope.figures; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOM.parent, check=False).returncode == 0
