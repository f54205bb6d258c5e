"""Stage ``verdict_traces``: the verdict through the judge's thinking, what it would say if it stopped, when it settles.

``trace.items`` items of the test part, evenly spaced among those judged after thinking, in both orders, plainly, under
the control and under every cue. Nothing is written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from verdictscope.activations import Readout
from verdictscope.errors import InputError
from verdictscope.judgments import Judged
from verdictscope.stats import Effect, effects_frame, mean_effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.judge.endings import QUARTERS, curves, endings, length_curves, lines
from verdictscope.study.tasks.judge.generate import PLAIN, conditions, targets, thinkings, variants
from verdictscope.study.tasks.judge.readouts import VERDICT, Ending, Readers, choose_readers, narrowed, thought_items
from verdictscope.study.tasks.judge.spans import write_spans
from verdictscope.traces import commitment, commitment_gap
from verdictscope.traces.commitment import commitment_time, places, probe_readings, text_readings
from verdictscope.traces.forced_answers import sentence_places
from verdictscope.traces.landmarks import landmarks
from verdictscope.traces.verdicts import BINS, trace_places, traced_rollouts, verdict_trace

FORCED, TEXT = "forced", "text"
"""Readers beside the linear ones: the judge interrupted, and the words alone."""

RULE = "trace.items items of the test part, evenly spaced in the study's order among those judged after thinking"


def run_trace(run: RunFolder) -> None:
    """Write ``verdict_trace.parquet``, ``verdict_trace_mean.parquet``, ``forced_lengths.parquet``,
    ``verdict_timing.parquet``, ``verdict_commitment.parquet``,
    ``verdict_tokens.parquet`` and ``verdict_traces.json``.

    A judge without thinking has nothing to trace: its tables are empty and ``verdict_traces.json`` says why.
    """
    write_spans(run)
    choosing, traced = thought_items(run) if "on" in thinkings(run) else ([], [])
    if not traced:
        nothing(run, "no item of the test part was judged after thinking")
        return
    ending = Ending.of(run)
    readers, named = choose_readers(run, ending, choosing)
    base = {c: narrowed(run.judged("base", c, "on"), traced) for c in conditions(run)}
    forced, lengths = endings(run, ending, base)
    tables = [lengths]
    if "reference" in variants(run):
        reference = {c: narrowed(run.judged("reference", c, "on"), traced) for c in conditions(run)}
        tables.append(length_curves(run, ending, "reference", reference))
    run.write("forced_lengths", pd.concat(tables, ignore_index=True))
    trace, mean = traces(run, ending, readers, base, forced)
    run.write("verdict_trace", trace)
    run.write("verdict_trace_mean", mean)
    times, table = settled(run, readers, base[PLAIN], trace, forced, named, choosing)
    run.write("verdict_commitment", times)
    run.write("verdict_timing", table)
    run.write_json("verdict_traces", trace_facts(readers, base, choosing, traced))


EMPTY = {
    "verdict_trace": "variant condition item order target label verdict status rollout pos segment token_id readout "
    "layer "
    "score",
    "verdict_trace_mean": "variant condition toward part readout layer place name estimate low high low_all high_all n "
    "n_groups n_missing",
    "forced_lengths": "variant condition toward part step allowed estimate low high low_all high_all n n_groups "
    "n_missing "
    "ended",
    "verdict_commitment": "rollout group reader n_thinking commit after sign reason item order status variant "
    "condition",
    "verdict_timing": "name estimate low high n unit seed delta p p_adjusted about",
}
"""Columns of the tables where nothing was traced."""


def nothing(run: RunFolder, why: str) -> None:
    """Write the tables without a row, and why."""
    for name, columns in EMPTY.items():
        run.write(name, pd.DataFrame(columns=columns.split()))
    run.write_json("verdict_traces", {"items": 0, "rule": RULE, "about": why, "readers": None, "conditions": {}})


def traces(
    run: RunFolder, ending: Ending, readers: Readers, found: Mapping[str, Judged], forced: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every token's scores by the chosen readers, and the parts of every reader's score by place."""
    readouts: list[Readout] = [*readers.readouts, ending.readout]
    parts = []
    with run.ticking("verdict traces: every token") as tick:
        for k, (condition, verdicts) in enumerate(found.items()):
            tick(k, len(found))
            table = verdict_trace(run.model(), verdicts, readouts, plan_tokens=run.study.batch_tokens)
            parts.append(table.assign(variant="base", condition=condition))
        tick(len(found), len(found))
    whole = pd.concat(parts, ignore_index=True)
    at = trace_places(whole)
    names = at.drop_duplicates("place").set_index("place")["name"]
    at = pd.concat([at[["rollout", "readout", "layer", "place", "score"]], _by_place(found, forced)], ignore_index=True)
    mean = curves(at, lines(run, found), "place", ("readout", "layer"), run.study.seed)
    mean.insert(0, "variant", "base")
    mean.insert(list(mean).index("place") + 1, "name", mean["place"].map(names))
    every = {r.name for r in readers.readouts} - set(readers.names)
    written = whole["segment"].isin(["thinking", "think_end", "answer"]) | whole["rel_prompt_end"].eq(0)
    trace = whole[written & ~whole["readout"].isin(every)].reset_index(drop=True)
    trace["target"] = trace["item"].map(targets(run)).where(trace["condition"] != PLAIN)
    first = ["variant", "condition", "item", "order", "target", "label", "verdict", "status"]
    return trace[[*first, *(c for c in trace.columns if c not in first)]], mean


def _by_place(found: Mapping[str, Judged], forced: pd.DataFrame) -> pd.DataFrame:
    """Forced endings on the axis of the places: after each quarter of the thinking, and before it."""
    score = forced.set_index(["rollout", "place"])["score"]
    rows = []
    for verdicts in found.values():
        for r in traced_rollouts(verdicts):
            n = landmarks(r).n_thinking
            ks = range(QUARTERS + 1) if n else [0]
            rows += [(r.id, k * BINS // QUARTERS, float(score[r.id, round(n * k / QUARTERS)])) for k in ks]
    table = pd.DataFrame(rows, columns=["rollout", "place", "score"])
    return table.assign(readout=FORCED, layer=pd.array([None] * len(table), dtype="Int64"))


def settled(
    run: RunFolder,
    readers: Readers,
    plain: Judged,
    trace: pd.DataFrame,
    forced: pd.DataFrame,
    named: Mapping[str, bool],
    choosing: list[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """When each reader settles in plain verdicts, rollout by rollout; and the means, the gaps, who is left out."""
    rollouts = traced_rollouts(plain)
    ids = {r.id for r in rollouts}
    own = forced[forced["rollout"].isin(ids)]
    at = {str(i): list(rows["place"]) for i, rows in own.groupby("rollout")}
    thought = {r.id for r in rollouts if landmarks(r).thinking is not None}
    readings = [own[own["rollout"].isin(thought)].assign(reader=FORCED)]
    for name in readers.names:
        rows = trace[trace["rollout"].isin(ids) & trace["readout"].eq(name)]
        readings.append(probe_readings(rows, rollouts, points=at).assign(reader=name))
    why: dict[str, str] = {}
    try:
        tokenizer = run.model().tokenizer
        before = traced_rollouts(narrowed(run.judged("base", PLAIN, "on"), choosing))
        at |= {r.id: sorted({*sentence_places(r, tokenizer), *places(r, QUARTERS)}) for r in before}
        readings.append(text_readings([*before, *rollouts], tokenizer, named, sorted(thought), points=at))
    except InputError as error:  # verdicts for one answer alone: said, and the run goes on
        why[TEXT] = str(error)
    times = commitment(pd.concat(readings, ignore_index=True), rollouts)
    facts = plain.verdicts[["rollout", "item", "order", "status"]]
    times = times.merge(facts, on="rollout", how="left").assign(variant="base", condition=PLAIN)
    return times, readers_compared(times, trace, readers.names, len(rollouts), why, run.study.seed)


def readers_compared(
    times: pd.DataFrame, trace: pd.DataFrame, linear: Sequence[str], rollouts: int, why: Mapping[str, str], seed: int
) -> pd.DataFrame:
    """Means over rollouts: when a reader settles, whether on the verdict that is given, and the gaps between readers.

    Returns:
        an Effect per row (docs/formats.md) and ``about``: who does not count, by reason.
    """
    said = trace[trace["readout"].eq(VERDICT) & trace["condition"].eq(PLAIN)].set_index("rollout")["score"]
    found: list[tuple[Effect, str]] = []
    for reader in (*linear, TEXT, FORCED):
        own = times[times["reader"] == reader]
        left = {**own["reason"][own["reason"] != ""].value_counts(), "without thinking": rollouts - len(own)}
        about = why.get(reader, _counts(left))
        found.append((commitment_time(times, reader, seed=seed), about))
        held = own[own["sign"].ne(0) & own["rollout"].isin(said.index)]
        same = held["sign"] == held["rollout"].map(said).map(lambda s: 1 if s > 0 else -1)
        agree = mean_effect(
            f"{reader} settles on the verdict given", same.astype(float), held["group"], unit="share", seed=seed
        )
        found.append((agree, about))
    pairs = [(name, other) for name in linear for other in (TEXT, FORCED)] + [(FORCED, TEXT)]
    for first, second in pairs:
        gap, left = commitment_gap(times, first, second, seed=seed)
        found.append((gap, why.get(second, _counts(left))))
    table = effects_frame([effect for effect, _ in found])
    return table.assign(about=[about for _, about in found])


def _counts(left: Mapping[Any, Any]) -> str:
    return "; ".join(f"{n} {reason}" for reason, n in left.items() if n)


def trace_facts(
    readers: Readers, found: Mapping[str, Judged], choosing: list[str], traced: list[str]
) -> dict[str, Any]:
    """What was read and who is left out: which layer, how many items by which rule, verdicts by their status."""
    counts = {}
    for condition, verdicts in found.items():
        lengths = [landmarks(r).n_thinking for r in traced_rollouts(verdicts)]
        counts[condition] = {
            "verdicts": len(lengths),
            "by_status": {str(k): int(v) for k, v in verdicts.verdicts["status"].value_counts().items()},
            "without_thinking": sum(n == 0 for n in lengths),
            "one_token": sum(n == 1 for n in lengths),
            "thinking_tokens": {"mean": sum(lengths) / max(len(lengths), 1), "most": max(lengths, default=0)},
        }
    chosen = {
        "layer": readers.layer,
        "layers": {str(k): v for k, v in readers.layers.items()},
        "zeros": dict(readers.zeros),
        "auroc": dict(readers.auroc),
        "first": readers.n[0],
        "second": readers.n[1],
        "items": len(choosing),
        "about": readers.about,
    }
    return {"items": len(traced), "rule": RULE, "about": "", "readers": chosen, "conditions": counts}
