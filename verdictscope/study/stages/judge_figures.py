"""Stage ``judge_figures``: the figures of a judge study with their captions, from its tables alone."""

from __future__ import annotations

from functools import partial

from verdictscope import figures
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.figures import save_figures


def run_judge_figures(run: RunFolder) -> None:
    """Write ``figures/*.png``, ``figures/*.pdf`` and ``figures/captions.json``; a table without rows has no figure."""
    planted, left_out = run.read_json("summary")["heads"].get("planted"), run.read_json("bias_heads").get("left_out")
    spans = run.table("verdict_tokens")
    asked = {
        "bias_parts": (run.table("bias_parts"), figures.contrasts),
        "bias_heads": (run.table("bias_heads"), partial(figures.head_map, planted=planted, left_out=left_out)),
        "verdict_spans": (spans[spans["position"] == "last"], figures.spans),
        "mitigations": (run.table("mitigations"), figures.mitigations),
        "verdict_probe": (run.table("verdict_probe"), figures.verdict_probe),
        "correctness": (run.table("correctness"), figures.correctness),
        "bias_detector": (run.table("bias_detector"), figures.bias_detector),
        "verdict_trace": (run.table("verdict_trace_mean"), figures.verdict_trace),
        "forced_lengths": (run.table("forced_lengths"), figures.forced_lengths),
    }
    save_figures(run, {name: draw(table) for name, (table, draw) in asked.items() if len(table)})
