"""The verdict a judge would give if its thinking stopped: contrasts by position of the stop and by allowed length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from verdictscope.judgments import Contrast, Judged, cue_contrast, order_contrasts
from verdictscope.judgments.contrasts import CONTENT
from verdictscope.rollouts import Forcer, Rollout
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.judge.generate import CONTROL, PLAIN, targets
from verdictscope.study.tasks.judge.readouts import Ending
from verdictscope.traces import forced_lengths
from verdictscope.traces.commitment import places
from verdictscope.traces.contrasts import part_curves, parts_at
from verdictscope.traces.forced_answers import forced_scores, sentence_places
from verdictscope.traces.verdicts import traced_rollouts

QUARTERS = 4
"""Thinking is closed early after each quarter."""


@dataclass(frozen=True)
class Line:
    """The contrasts of one curve under a condition.

    Attributes:
        condition: ``plain``, or a cue.
        toward: whether the cue names the ``right`` or the ``wrong`` answer; empty where that does not matter.
        contrasts: of the verdict.
    """

    condition: str
    toward: str
    contrasts: tuple[Contrast, ...]


def lines(run: RunFolder, found: Mapping[str, Judged]) -> list[Line]:
    """Content and position plainly, content under each cue by the answer it names, and what each cue adds."""
    plain, control = found[PLAIN].verdicts, found[CONTROL].verdicts
    made = [Line(PLAIN, "", tuple(order_contrasts(plain).values()))]
    named = targets(run)
    for cue in run.study.data.cues:
        own = found[cue].verdicts
        right = own["item"].map(named).eq(own["label"])
        decided = own["label"].isin(["A", "B"])
        for toward, rows in (("right", own[decided & right]), ("wrong", own[decided & ~right])):
            if len(rows):
                made.append(Line(cue, toward, (order_contrasts(rows)[CONTENT],)))
        made.append(Line(cue, "", (cue_contrast(cue, control, own, named),)))
    return made


def curves(scores: pd.DataFrame, found: list[Line], on: str, by: tuple[str, ...], seed: int) -> pd.DataFrame:
    """Every line's curves: ``condition toward part *by on estimate ...``."""
    made = []
    for line in found:
        rows = part_curves(parts_at(scores, line.contrasts, on, by), on, by, seed=seed)
        rows.insert(0, "condition", line.condition)
        rows.insert(1, "toward", line.toward)
        made.append(rows)
    return pd.concat(made, ignore_index=True)


def endings(run: RunFolder, ending: Ending, found: Mapping[str, Judged]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The verdict where thinking is closed early: by rollout at every position, and by allowed length as curves.

    Returns:
        ``rollout group place score``: after each quarter of the thinking, and in plain rollouts after every sentence;
        and `length_curves`'s table.
    """
    read = allowed(run, ending, "base", found)
    known = {(r, u): s for r, u, s in zip(read["rollout"], read["used"], read["score"], strict=True) if np.isfinite(s)}
    tokenizer = run.model().tokenizer
    rows: list[tuple[Rollout, int]] = []
    for condition, verdicts in found.items():
        for r in traced_rollouts(verdicts):
            at = set(places(r, QUARTERS))
            if condition == PLAIN:
                at |= set(sentence_places(r, tokenizer))
            rows += [(r, p) for p in sorted(at)]
    new = [(r, p) for r, p in rows if (r.id, p) not in known]
    budget = run.study.batch_tokens
    with run.ticking("verdict traces: thinking closed early") as tick:
        score = forced_scores(
            run.model(), new, ending.readout, Forcer(tokenizer), lead=ending.lead, plan_tokens=budget, progress=tick
        )
    known |= {(r.id, p): s for (r, p), s in zip(new, score, strict=True)}
    forced = pd.DataFrame(
        [(r.id, r.group, p, known[r.id, p]) for r, p in rows], columns=["rollout", "group", "place", "score"]
    )
    return forced, length_curves(run, ending, "base", found, read)


def allowed(run: RunFolder, ending: Ending, variant: str, found: Mapping[str, Judged]) -> pd.DataFrame:
    """A variant's verdicts under every limit of thinking, rollout by rollout."""
    rollouts = [r for verdicts in found.values() for r in traced_rollouts(verdicts)]
    model, budget = run.model(variant), run.study.batch_tokens
    with run.ticking(f"verdict traces: {variant}, thinking of given lengths") as tick:
        return forced_lengths(
            model,
            rollouts,
            ending.readout,
            Forcer(model.tokenizer),
            run.study.trace.lengths,
            lead=ending.lead,
            plan_tokens=budget,
            progress=tick,
        )


def length_curves(
    run: RunFolder, ending: Ending, variant: str, found: Mapping[str, Judged], read: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Contrasts of the verdict by allowed length: ``variant condition toward part step allowed estimate ... ended``.

    ``step`` counts the lengths and ``allowed`` says them, missing for the own end; ``ended`` is the share of the
    rollouts behind a row that had ended by themselves.
    """
    read = allowed(run, ending, variant, found) if read is None else read
    grid = [*sorted(read["allowed"].dropna().unique()), pd.NA]
    step = read["allowed"].map({n: k for k, n in enumerate(grid[:-1])}).fillna(len(grid) - 1).astype(int)
    read = read.assign(step=step)
    own = lines(run, found)
    table = curves(read, own, "step", (), run.study.seed)
    ended = []
    for line in own:
        members = pd.concat([c.to_frame() for c in line.contrasts], ignore_index=True).rename(
            columns={"contrast": "part"}
        )
        rows = members[["part", "rollout"]].merge(read[["rollout", "step", "ended"]], on="rollout")
        share = rows.groupby(["part", "step"])["ended"].mean().reset_index()
        ended.append(share.assign(condition=line.condition, toward=line.toward))
    table = table.merge(pd.concat(ended), on=["condition", "toward", "part", "step"], how="left")
    table.insert(0, "variant", variant)
    table.insert(5, "allowed", pd.array([grid[k] for k in table["step"]], dtype="Int64"))
    return table
