"""Stage ``figures``: the figures of a study with their captions, from its tables alone."""

from __future__ import annotations

import re

from verdictscope import figures
from verdictscope.study.folder import Run


def run_figures(run: Run) -> None:
    """Write ``figures/*.png``, ``figures/*.pdf`` and ``figures/captions.json``."""
    trace, cliffs = run.table("trace_mean"), run.table("cliff")
    probe_map, probe = run.table("probe_map"), run.table("probe")
    heads, generation, ablation = run.table("heads"), run.table("generation"), run.table("ablation")
    closing = figures.closing_tokens(run.table("trace"))
    planted = run.read_json("summary")["heads"].get("planted")
    drawn = {
        "trace": (figures.trace_figure(trace, closing=closing), figures.trace_caption(trace, cliffs)),
        "probe_map": (figures.probe_map_figure(probe_map, probe=probe), figures.probe_map_caption(probe_map, probe)),
        "heads": (figures.head_map_figure(heads, planted=planted), figures.head_map_caption(heads, planted)),
        "ablation": (figures.ablation_figure(generation, ablation), figures.ablation_caption(generation, ablation)),
    }
    position = run.table("position_transfer")
    drawn["position_transfer"] = figures.transfer_figure(position), figures.transfer_caption(position)
    if run.study.transfer.by:
        for by, matrix in run.table("ood").groupby("by", sort=False):
            words = str(by).replace("_", " ")
            map_of = figures.transfer_figure(matrix, over=words), figures.transfer_caption(matrix, words)
            drawn["ood_" + re.sub(r"\W+", "_", str(by))] = map_of
    erased, erasure = run.table("erased_trace"), run.table("erasure")
    drawn["erased_trace"] = (
        figures.erased_trace_figure(erased, erasure, closing=closing),
        figures.erased_trace_caption(erased, erasure),
    )
    for name, (figure, _) in drawn.items():
        for file in figures.save(figure, run.out / "figures", name):
            run.made(f"figures/{file.name}")
    run.write_json("figures/captions", {name: caption for name, (_, caption) in drawn.items()})
