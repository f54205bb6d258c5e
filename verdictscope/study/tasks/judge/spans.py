"""Where in the prompt a verdict's content, position and cues come from: exact shares by head and by span.

Read without thinking, where nothing but the prompt stands before the verdict, on ``trace.items`` items of the test
part, evenly spaced.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from verdictscope.activations import BatchPlan
from verdictscope.interventions import attribute_spans
from verdictscope.judgments.spans import token_spans
from verdictscope.rollouts import Rollout
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.judge import study_format
from verdictscope.study.tasks.judge.generate import conditions, cue_texts, inserted, part_of, targets
from verdictscope.study.tasks.judge.readouts import spread

POSITIONS = ("last", "think_end[0]")
"""Where the verdict's token is chosen, and the first token that closes the thinking."""

COLUMNS = "variant thinking contrast position component layer head span estimate low high n tokens"


def write_spans(run: RunFolder) -> None:
    """Write ``verdict_tokens.parquet``: `SpanAttribution.to_frame` with ``variant`` and ``thinking``."""
    part, every = part_of(run), run.items()
    chosen = spread([item for item in every if part[item.id] == "test"], run.study.trace.items)
    ids = {item.id for item in chosen}
    found = {name: c.among(ids) for name, c in run.contrasts("base", "off").items() if ids & set(c.items)}
    if not found:
        run.write("verdict_tokens", pd.DataFrame(columns=COLUMNS.split()))
        return
    used = {r for contrast in found.values() for rollouts in contrast.rollouts for r in rollouts}
    model, form, named = run.model(), study_format(run.study), targets(run)
    rollouts: list[Rollout] = []
    names: dict[str, tuple[str, ...]] = {}
    for condition in conditions(run):
        own = [r for r in run.judged("base", condition, "off").rollouts if r.id in used]
        said = cue_texts(run, condition)
        put: Any = inserted(said, named) if said else None
        names |= token_spans(model, form, chosen, own, put)
        rollouts += own
    there = all(any(s.segment == "think_end" for s in r.spans) for r in rollouts)
    labels = {item.id: item.label for item in chosen if item.label is not None}
    with run.ticking("verdict traces: by head and span") as tick:
        parts = attribute_spans(
            model,
            rollouts,
            run.decision(),
            found,
            names,
            progress=tick,
            seed=run.study.seed,
            sides={"content": labels} | dict.fromkeys(run.study.data.cues, named),
            positions=POSITIONS if there else POSITIONS[:1],
            plan=BatchPlan.make([len(r) for r in rollouts], run.study.batch_tokens),
        )
    table = parts.to_frame()
    table.insert(0, "variant", "base")
    table.insert(1, "thinking", "off")
    run.write("verdict_tokens", table)
