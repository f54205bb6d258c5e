"""Stage ``figures``: the figures of a study with their captions, declared table by table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import pandas as pd

from verdictscope import figures
from verdictscope.figures import Display
from verdictscope.study.folder import RunFolder
from verdictscope.traces.landmarks import closing_tokens

Draw = Callable[..., Display]

DRAWN: tuple[tuple[str, tuple[str, ...], Draw], ...] = (
    ("trace", ("trace_mean", "cliff"), figures.trace),
    ("probe_map", ("probe_map", "probe"), figures.probe_map),
    ("heads", ("heads",), figures.head_map),
    ("ablation", ("generation", "ablation"), figures.ablation),
    ("position_transfer", ("position_transfer",), figures.transfer),
    ("erased_trace", ("erasure", "erased_trace"), figures.erasure),
    ("bias_parts", ("bias_parts",), figures.contrasts),
    ("verdict_spans", ("verdict_tokens",), figures.spans),
    ("mitigations", ("mitigations",), figures.mitigations),
    ("verdict_probe", ("verdict_probe",), figures.verdict_probe),
    ("correctness", ("correctness",), figures.correctness),
    ("bias_detector", ("bias_detector",), figures.bias_detector),
    ("verdict_trace", ("verdict_trace_mean",), figures.verdict_trace),
    ("forced_lengths", ("forced_lengths",), figures.forced_lengths),
)
"""Name of each figure, the tables it is drawn from, and what draws it. A figure whose tables are missing or empty is
left out."""


def run_figures(run: RunFolder) -> None:
    """Write ``figures/*.png``, ``figures/*.pdf`` and ``figures/captions.json``."""
    captions = {}
    for name, shown in drawn(run):
        for file in shown.save(run.out / "figures", name):
            run.made(f"figures/{file.name}")
        captions[name] = shown.caption
    run.write_json("figures/captions", captions)


def drawn(run: RunFolder) -> Iterator[tuple[str, Display]]:
    """The figures of a run by name, each drawn when it is asked for."""
    more = _settings(run)
    for name, names, draw in DRAWN:
        tables = [run.find_table(table, edited=table in ("trace_mean", "cliff")) for table in names]
        known = [table for table in tables if table is not None and len(table)]
        if len(known) == len(tables):
            yield name, partial(draw, **more.get(name, {}))(*_shown(name, known))
    ood = run.find_table("ood")
    for by, matrix in ood.groupby("by", sort=False) if ood is not None and len(ood) else ():
        name = "ood_" + re.sub(r"\W+", "_", str(by))
        yield name, figures.transfer(matrix, over=str(by).replace("_", " "))


def _shown(name: str, tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The tables, of span attention only the rows of the last position."""
    return [table[table["position"] == "last"] for table in tables] if name == "verdict_spans" else tables


def _settings(run: RunFolder) -> dict[str, dict[str, object]]:
    """What a figure is drawn with beside its tables."""
    planted = [r.name for r in run.results().select(stage="truth") if r.name != "recall"] or None
    pairs = [[int(n) for n in name.removeprefix("L").split("H")] for name in planted] if planted else None
    trace = run.find_table("trace")
    closing: dict[str, object] = {} if trace is None else {"closing": closing_tokens(trace)}
    heads: dict[str, object] = {"planted": pairs, "left_out": run.find_json("heads").get("left_out")}
    return {"trace": closing, "erased_trace": closing, "heads": heads}
