"""The refusal ladder: six steps from *can be read* to *sufficient*, each filled by the run and decided by a rule.

A stage that brings new evidence widens the one function of its rung; the page draws whatever comes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from verdictscope.report.evidence import ALPHA, Evidence, Rung, above
from verdictscope.report.evidence import rung as _rung
from verdictscope.report.record import Record
from verdictscope.report.words import estimate, heads, number, present, some
from verdictscope.stats import independent_difference

MINIMUM = {"nats": 1.0, "rate": 0.1, "normalised": 0.1}
"""Smallest effects that count, where the run's tables state none (column ``delta``): one nat of log-odds (odds times
2.7), ten points of a rate, a tenth of the way from complying to refusing."""

BASELINES = {"words of the prompt": "bag_of_words_refusal", "words of prompt and thinking": "bag_of_words_thinking"}
"""Text baselines and the names of their numbers in ``probe.json``, for runs without ``probe_nulls.parquet``."""

NEEDED = ("length", "position")
"""Baselines that the second rung asks for beside the words."""


def rungs(run: Record) -> tuple[Rung, ...]:
    """The rungs of a run, in order.

    Args:
        run: a run folder, finished or not.
    """
    return _decodable(run), _beyond(run), _transfers(run), _writer(run), _necessary(run), _sufficient(run)


def _decodable(run: Record) -> Rung:
    probe = run.json("probe")
    found = Evidence(
        "AUROC of the probe on test prompts, token by token",
        probe.get("auroc_test"),
        probe.get("auroc_low"),
        probe.get("auroc_high"),
        probe.get("n"),
        unit="AUROC",
        null=f"labels permuted between prompts: {number(probe.get('control_auroc'))}, "
        f"{probe.get('control_refits', 0)} refits from {number(probe.get('control_low'))} "
        f"to {number(probe.get('control_high'))}",
        null_low=probe.get("control_low"),
        null_high=probe.get("control_high"),
        source="probe.json",
        passes=above(probe.get("auroc_low"), probe.get("control_high")),
    )
    reasons = {
        "held": f"The probe reads {number(found.value)}, above every refit with permuted labels "
        f"(at most {number(found.null_high)}).",
        "not held": f"The probe reads {number(found.value)}; its interval reaches down into the refits with "
        f"permuted labels (up to {number(found.null_high)}).",
    }
    return _rung(
        "decodable",
        "Decodable",
        "Whether the model refuses can be read from its hidden states, on prompts the probe has never seen.",
        "Held when the lower end of the test AUROC lies above every refit with permuted labels.",
        [found],
        reasons,
        "That the model uses what is read, or that what is read is refusing and not something that goes with it.",
        "verdictscope probe STUDY",
    )


def _beyond(run: Record) -> Rung:
    probe = run.json("probe")
    evidence = _baselines(run, probe)
    evidence += [_baseline(probe, name) for name in NEEDED if not any(name in e.what for e in evidence)]
    open_ = [e.what for e in evidence if e.passes is None]
    unmeasured = f" Not measured: {', '.join(open_)}." if open_ else ""
    reasons = {
        "held": f"The probe's interval, {number(probe.get('auroc_low'))} upwards, lies above every baseline's.",
        "not held": f"The probe reads {number(probe.get('auroc_test'))}; "
        + ", ".join(f"{e.what} {number(e.value)}" for e in evidence if e.passes is False)
        + f".{unmeasured}",
        "partly": f"Above {', '.join(e.what for e in evidence if e.passes)}.{unmeasured}",
    }
    mean = Evidence(
        "the probe's mean over a whole rollout",
        probe.get("auroc_rollouts"),
        probe.get("auroc_rollouts_low"),
        probe.get("auroc_rollouts_high"),
        probe.get("n"),
        unit="AUROC",
        source="probe.json",
        decides=False,
    )
    return _rung(
        "beyond",
        "Beats text, length and position",
        "The probe reads more than the words, the length of the text and the place of the token tell by themselves.",
        "Held when the lower end of the probe's interval lies above the upper end of every baseline's. "
        "One baseline that is not beaten decides against it; one that was not measured leaves it partly held at best.",
        [*evidence, *([mean] if present(mean.value) else [])],
        reasons,
        "That a better baseline would be beaten too. The text baselines read a rollout's words at once, the probe one "
        "token at a time; its mean over a rollout stands beside.",
        "verdictscope probe STUDY",
        every=True,
    )


def _baselines(run: Record, probe: dict[str, Any]) -> list[Evidence]:
    """Every baseline of refusing that the run measured."""
    table = run.table("probe_nulls")
    if table is not None:
        rows = table[table["kind"] == "baseline"].to_dict("records")
        return [
            _baseline(
                probe, row["name"], row["estimate"], row["low"], row["high"], int(row["n"]), "probe_nulls.parquet"
            )
            for row in rows
        ]
    language, n = probe.get("language", {}), _test_groups(run)
    return [
        _baseline(probe, name, *(language.get(f"{key}_{end}") for end in ("auroc", "low", "high")), n)
        for name, key in BASELINES.items()
    ]


def _baseline(
    probe: dict[str, Any],
    name: str,
    value: Any = None,
    low: Any = None,
    high: Any = None,
    n: int | None = None,
    source: str = "probe.json",
) -> Evidence:
    null = f"the probe: {estimate(probe.get('auroc_test'), probe.get('auroc_low'), probe.get('auroc_high'))}"
    if not present(value):
        return Evidence(name, None, null=null, unit="AUROC")
    return Evidence(
        name,
        value,
        low,
        high,
        n,
        unit="AUROC",
        null=null,
        null_low=probe.get("auroc_low"),
        null_high=probe.get("auroc_high"),
        source=source,
        passes=above(probe.get("auroc_low"), high if present(high) else value),
    )


def _test_groups(run: Record) -> int | None:
    """Prompt groups of the test part whose verdict could be read."""
    labels = run.table("labels")
    if labels is None:
        return None
    chosen = (labels["variant"] == "base") & (labels["part"] == "test") & labels["refused"].notna()
    return int(labels.loc[chosen, "group"].nunique())


def _transfers(run: Record) -> Rung:
    moved = {}
    for name in ("position_transfer", "ood"):
        table = run.table(name)
        if table is not None:
            moved[name] = table[(table["fit"].astype(str) != table["read"].astype(str)) & table["auroc"].notna()]
    cells = [(row, above(row["low"], _bar(row))) for t in moved.values() for row in t.to_dict("records")]
    evidence = [
        _place(place, rows.to_dict("records"), name)
        for name, t in moved.items()
        for place, rows in t.groupby(t["fit"].astype(str), sort=False)
    ]
    told = f"{sum(bool(ok) for _, ok in cells)} of {some(len(cells), 'transfer')} read above their null."
    return _rung(
        "transfers",
        "Transfers",
        "The same direction reads refusing where it was not fitted: at other segments, on other sets of prompts.",
        "A place counts when the probe fitted there reads everywhere else with the lower end of its AUROC above the "
        "null of that cell (refits with permuted labels, or 0.5). Held when every place counts, partly when some do.",
        evidence,
        {"held": told, "partly": told, "not held": told},
        "That the direction means the same in both places: an AUROC is blind to shift and scale.",
        "verdictscope transfer STUDY",
    )


def _bar(cell: dict[str, Any]) -> float:
    """What a transfer has to exceed: chance, and every refit of its own null."""
    return max(0.5, float(cell["null_high"])) if present(cell.get("null_high")) else 0.5


def _place(place: str, cells: list[dict[str, Any]], table: str) -> Evidence:
    """The weakest reading elsewhere of the probe fitted at one place, standing for all of them."""
    weakest = min(cells, key=lambda cell: cell["low"] - _bar(cell))
    passes = [above(cell["low"], _bar(cell)) for cell in cells]
    return Evidence(
        f"fitted at {place}, the weakest of {some(len(cells), 'reading')} elsewhere: {weakest['read']}",
        weakest["auroc"],
        weakest["low"],
        weakest["high"],
        int(weakest["n"]),
        unit="AUROC",
        null=f"above 0.5 and its null, up to {number(_bar(weakest))}",
        null_low=weakest["null_low"] if present(weakest.get("null_low")) else 0.5,
        null_high=_bar(weakest),
        source=f"{table}.parquet",
        passes=None if None in passes else all(passes),
    )


def _writer(run: Record) -> Rung:
    table, ranked = run.table("attribution"), run.table("heads")
    evidence: list[Evidence] = []
    if table is not None and ranked is not None:
        shares = table[(table["readout"] == "log_odds") & (table["component"] == "head")]
        found = {(int(a), int(b)) for a, b in ranked.loc[ranked["found"], ["layer", "head"]].to_numpy()}
        is_found = [(int(a), int(b)) in found for a, b in zip(shares["layer"], shares["head"], strict=True)]
        others = shares[[not f for f in is_found]]
        bar = min(0.0, float(others["estimate"].min())) if len(others) else 0.0
        rows = shares[is_found].sort_values("estimate").to_dict("records")
        evidence = [_share(row, bar, len(others)) for row in rows]
    direct = [e.what.split()[0] for e in evidence if e.passes]
    told = f"{len(direct)} of the {some(len(evidence), 'found head')} write against refusing more strongly than " + (
        "any head that was not found" + (f": {', '.join(direct)}." if direct else ".")
    )
    return _rung(
        "writer",
        "Direct writer",
        "The found heads write against refusing themselves, straight into what the model says next.",
        "A head counts when its exact share of the refusal log-odds, interval and all, lies below 0 and below the "
        "share of every head that was not found. Held when all found heads count, partly when some do.",
        evidence,
        {"held": told, "partly": told, "not held": told},
        "That the share matters: a share is what a head writes, not what would happen without it. A head that works "
        "through later heads has a small share and a large effect.",
        "verdictscope heads STUDY",
    )


def _share(row: dict[str, Any], bar: float, others: int) -> Evidence:
    return Evidence(
        f"{heads([(row['layer'], row['head'])])} share of the refusal log-odds",
        row["estimate"],
        row["low"],
        row["high"],
        int(row["n"]),
        unit="nats",
        null=f"{some(others, 'head')} not found: down to {number(bar, 'nats')}",
        null_low=bar,
        null_high=0.0,
        source="attribution.parquet",
        passes=above(-row["high"], -bar),
    )


def _necessary(run: Record) -> Rung:
    evidence = [_forced(run), _written(run), _fall(run)]
    good = [e for e in evidence if e.passes]
    done = [e for e in evidence if e.passes is not None]
    told = f"{len(good)} of {some(len(done), 'test')} above the smallest effect" + (
        f"; {done[0].what}: {done[0].text} {done[0].unit}." if done else "."
    )
    left = [e.what for e in evidence if e.passes is None]
    if left and done:
        told += f" Not measured: {'; '.join(left)}."
    return _rung(
        "necessary",
        "Necessary",
        "Without the found heads the model refuses what it otherwise complies with; other heads of the same layers "
        "do not matter so.",
        f"Each test must lie, interval and all, above its smallest effect: {MINIMUM['nats']:g} nat, "
        f"{MINIMUM['rate']:g} of a rate, {MINIMUM['normalised']:g} of the normalised score, or the table's own delta; "
        f"and above every random set, with p ≤ {ALPHA:g}, where there is one. Held when all three do, partly when "
        "some do.",
        evidence,
        {"held": told, "partly": told, "not held": told},
        "That these heads are the only way, or that they do nothing else. Zeroing takes a head out of the range the "
        "model knows.",
        "verdictscope ablate STUDY",
    )


def _forced(run: Record) -> Evidence:
    """The found heads zeroed on the model's own tokens, against the layer-matched random sets."""
    what = "change of the refusal log-odds on the model's own tokens"
    forced = run.table("ablation")
    if forced is None or not (forced["kind"] == "found").any():
        return Evidence(what, None, unit="nats")
    found = forced[forced["kind"] == "found"].to_dict("records")[0]
    random = forced.loc[forced["kind"] == "random", "estimate"]
    low, high = (float(random.min()), float(random.max())) if len(random) else (0.0, 0.0)
    null = (
        f"{some(len(random), 'layer-matched random set')}: at most {number(high, 'nats', signed=True)}, "
        f"p = {number(found['p'])}; "
    )
    made = _effect(what, found, "ablation.parquet", null=null, span=(low, high))
    likely = present(found["p"]) and found["p"] <= ALPHA
    return made if made.passes is None else replace(made, passes=made.passes and bool(likely))


def _written(run: Record) -> Evidence:
    """The rise of the refusal rate in free generation, against the random sets."""
    what = "rise of the refusal rate when the model writes freely"
    target = _refusals(run)
    if not {"base", "ablated"} <= set(target.index):
        return Evidence(what, None, unit="rate")
    random = target.loc[target.index.str.startswith("random_"), "refused"]
    high = float(random.max() - target.loc["base", "refused"]) if len(random) else 0.0
    return _effect(
        what,
        _rate_apart(target, "ablated", "base"),
        "generation.parquet",
        null=f"{some(len(random), 'random set')}: a rise of at most {number(high)}; ",
        span=(min(0.0, high), high),
    )


def _fall(run: Record) -> Evidence:
    """How much further the normalised score falls with the heads than without them, on the same tokens."""
    what = "fall of the normalised score beyond its fall with the found heads zeroed"
    cliff = run.table("cliff", edited=True)
    rows = (
        []
        if cliff is None
        else cliff[(cliff["variant"] == "ablated_fixed") & (cliff["name"] == "normalised_excess")].to_dict("records")
    )
    return _effect(what, rows[0], "cliff.parquet", null="") if rows else Evidence(what, None, unit="normalised")


def _effect(
    what: str, row: dict[str, Any], source: str, *, null: str, span: tuple[float, float] = (0.0, 0.0)
) -> Evidence:
    """An Effect row held against its smallest effect and the null's span, which it has to exceed as well."""
    unit = str(row["unit"])
    stated = row.get("delta")
    minimum = float(stated) if present(stated) else MINIMUM[unit]  # type: ignore[arg-type]
    return Evidence(
        what,
        row["estimate"],
        row["low"],
        row["high"],
        int(row["n"]),
        unit=unit,
        null=f"{null}smallest effect that counts: {number(minimum, unit)}",
        null_low=span[0],
        null_high=max(span[1], minimum),
        source=source,
        passes=above(row["low"], max(span[1], minimum)),
    )


def _sufficient(run: Record) -> Rung:
    evidence = [_moved(run), _obeys(run)]
    done = [e for e in evidence if e.passes is not None]
    told = f"{sum(bool(e.passes) for e in done)} of {some(len(done), 'test')} beyond the smallest effect" + "".join(
        f"; {e.what}: {e.text} {e.unit}" for e in done
    )
    reasons = dict.fromkeys(("held", "partly", "not held"), f"{told}.")
    if run.study.reference is None:
        reasons["not tested"] = (
            "The study names no reference model (reference model = ...), so there is nothing to put the heads into."
        )
    return _rung(
        "sufficient",
        "Sufficient",
        "Put into the reference model, what the found heads write makes it comply.",
        "Each test must lie, interval and all, beyond its smallest effect: the found heads' weights, put into the "
        f"reference, lower its refusal log-odds on its own tokens further than every matched random set does, with p ≤ "
        f"{ALPHA:g}, and its refusal rate when it writes freely. Held when both do, partly when one does.",
        evidence,
        reasons,
        "That the heads do the same in the reference model as here: a transplant takes them out of their context.",
        "verdictscope ablate STUDY, of a study with a reference",
    )


def _moved(run: Record) -> Evidence:
    """The fall of the reference model's refusal log-odds with the found heads in it, against the random sets put
    into it."""
    what = "fall of the reference model's refusal log-odds with the found heads in it"
    table = run.table("transplant")
    if table is None or not (table["kind"] == "found").any():
        return Evidence(what, None, unit="nats")
    found = table[table["kind"] == "found"].to_dict("records")[0]
    random = table[table["kind"] == "random"]
    falls = -random["estimate"]
    low, high = (float(falls.min()), float(falls.max())) if len(falls) else (0.0, 0.0)
    same = int(random["same_weights"].sum())
    null = (
        f"{some(len(random), 'matched random set')}: at most {number(high, 'nats', signed=True)}"
        f"{f' ({same:,} of them have the same weights in both models)' if same else ''}, p = {number(found['p'])}; "
    )
    fall = found | {"estimate": -found["estimate"], "low": -found["high"], "high": -found["low"]}
    made = _effect(what, fall, "transplant.parquet", null=null, span=(min(0.0, low), max(0.0, high)))
    likely = present(found["p"]) and found["p"] <= ALPHA
    return made if made.passes is None else replace(made, passes=made.passes and bool(likely))


def _obeys(run: Record) -> Evidence:
    """The fall of the reference model's refusal rate in free generation with the found heads in it."""
    what = "fall of the reference model's refusal rate when it writes freely with them"
    target = _refusals(run)
    if not {"reference", "transplanted"} <= set(target.index):
        return Evidence(what, None, unit="rate")
    return _effect(what, _rate_apart(target, "reference", "transplanted"), "generation.parquet", null="")


def _refusals(run: Record) -> pd.DataFrame:
    """Refusal rates of the target requests in free generation, by variant; empty without any."""
    rates = run.table("generation")
    return pd.DataFrame() if rates is None else rates[rates["cell_kind"] == "target"].set_index("variant")


def _rate_apart(target: pd.DataFrame, upper: str, lower: str) -> dict[str, Any]:
    """The first variant's refusal rate minus the second's, as an Effect row."""
    ends = [tuple(map(float, target.loc[variant, ["refused", "low", "high"]])) for variant in (upper, lower)]
    row = dict(zip(("estimate", "low", "high"), independent_difference(*ends), strict=True))
    return row | {"n": target.loc[lower, "n"], "unit": "rate"}
