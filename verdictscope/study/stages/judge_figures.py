"""Stage ``judge_figures``: the figures of a judge study with their captions, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from verdictscope import figures
from verdictscope.study.folder import Run

Draw, Tell = Callable[[pd.DataFrame], Figure], Callable[[pd.DataFrame], str]


def run_judge_figures(run: Run) -> None:
    """Write ``figures/*.png``, ``figures/*.pdf`` and ``figures/captions.json``."""
    drawn = _drawn(run)
    for name, (figure, _) in drawn.items():
        for file in figures.save(figure, run.out / "figures", name):
            run.made(f"figures/{file.name}")
    run.write_json("figures/captions", {name: caption for name, (_, caption) in drawn.items()})


def _drawn(run: Run) -> dict[str, tuple[Figure, str]]:
    """Figures and captions by name; a table without rows has none."""
    told, heads = run.read_json("bias_heads"), run.table("bias_heads")
    planted = run.read_json("summary")["heads"].get("planted")
    spans = run.table("verdict_tokens")
    asked: dict[str, tuple[pd.DataFrame, Draw, Tell]] = {
        "bias_parts": (run.table("bias_parts"), figures.bias_parts_figure, figures.bias_parts_caption),
        "bias_heads": (
            heads,
            partial(figures.bias_map_figure, planted=planted),
            partial(figures.bias_map_caption, planted=planted, left_out=told.get("left_out")),
        ),
        "verdict_spans": (spans[spans["position"] == "last"], figures.span_figure, figures.span_caption),
        "mitigations": (run.table("mitigations"), figures.mitigation_figure, figures.mitigation_caption),
        "verdict_probe": (run.table("verdict_probe"), figures.verdict_probe_figure, figures.verdict_probe_caption),
        "correctness": (run.table("correctness"), figures.correctness_figure, figures.correctness_caption),
        "bias_detector": (run.table("bias_detector"), figures.bias_detector_figure, figures.bias_detector_caption),
        "verdict_trace": (run.table("verdict_trace_mean"), figures.verdict_trace_figure, figures.verdict_trace_caption),
        "forced_lengths": (run.table("forced_lengths"), figures.forced_lengths_figure, figures.forced_lengths_caption),
    }
    return {name: (draw(table), tell(table)) for name, (table, draw, tell) in asked.items() if len(table)}
