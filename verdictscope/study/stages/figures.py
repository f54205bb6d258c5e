"""Stage ``figures``: the figures of a study with their captions, from its tables alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

from verdictscope import figures
from verdictscope.figures import Display
from verdictscope.study.folder import RunFolder


def run_figures(run: RunFolder) -> None:
    """Write ``figures/*.png``, ``figures/*.pdf`` and ``figures/captions.json``."""
    trace, cliffs = run.table("trace_mean", edited=True), run.table("cliff", edited=True)
    closing = figures.closing_tokens(run.table("trace"))
    planted = run.read_json("summary")["heads"].get("planted")
    drawn = {
        "trace": figures.trace(trace, cliffs, closing=closing),
        "probe_map": figures.probe_map(run.table("probe_map"), run.table("probe")),
        "heads": figures.head_map(run.table("heads"), planted=planted),
        "ablation": figures.ablation(run.table("generation"), run.table("ablation")),
        "position_transfer": figures.transfer(run.table("position_transfer")),
    }
    if run.study.transfer.by:
        for by, matrix in run.table("ood").groupby("by", sort=False):
            drawn["ood_" + re.sub(r"\W+", "_", str(by))] = figures.transfer(matrix, over=str(by).replace("_", " "))
    drawn["erased_trace"] = figures.erasure(run.table("erasure"), run.table("erased_trace"), closing=closing)
    save_figures(run, drawn)


def save_figures(run: RunFolder, drawn: Mapping[str, Display]) -> None:
    """Write every figure and the captions of all."""
    for name, shown in drawn.items():
        for file in shown.save(run.out / "figures", name):
            run.made(f"figures/{file.name}")
    run.write_json("figures/captions", {name: shown.caption for name, shown in drawn.items()})
