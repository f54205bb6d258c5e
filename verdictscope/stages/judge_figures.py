"""Stage ``judge_figures``: the figures of a judge study with their captions, from its tables alone."""

from __future__ import annotations

from matplotlib.figure import Figure

from verdictscope import figures
from verdictscope.run import Run


def run_judge_figures(run: Run) -> None:
    """Write ``figures/*.png``, ``figures/*.pdf`` and ``figures/captions.json``."""
    drawn = _drawn(run)
    for name, (figure, _) in drawn.items():
        for file in figures.save(figure, run.out / "figures", name):
            run.made(f"figures/{file.name}")
    run.write_json("figures/captions", {name: caption for name, (_, caption) in drawn.items()})


def _drawn(run: Run) -> dict[str, tuple[Figure, str]]:
    parts, heads, tried = (run.table(name) for name in ("bias_parts", "bias_heads", "mitigations"))
    planted = run.read_json("summary")["heads"].get("planted")
    drawn = {
        "bias_parts": (figures.bias_parts_figure(parts), figures.bias_parts_caption(parts)),
        "bias_heads": (
            figures.bias_map_figure(heads, planted=planted), figures.bias_map_caption(heads, planted=planted)
        ),
        "mitigations": (figures.mitigation_figure(tried), figures.mitigation_caption(tried)),
    }  # fmt: skip
    return drawn | _through_thinking(run)


def _through_thinking(run: Run) -> dict[str, tuple[Figure, str]]:
    """From the tables of stage ``verdict_traces``."""
    spans, trace, lengths = (run.table(name) for name in ("verdict_tokens", "verdict_trace_mean", "forced_lengths"))
    spans = spans[spans["position"] == "last"]
    drawn = {"verdict_spans": (figures.span_figure(spans), figures.span_caption(spans))}
    if len(trace):
        drawn["verdict_trace"] = (figures.verdict_trace_figure(trace), figures.verdict_trace_caption(trace))
    if len(lengths):
        drawn["forced_lengths"] = (figures.forced_lengths_figure(lengths), figures.forced_lengths_caption(lengths))
    return drawn
