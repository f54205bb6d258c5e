"""What was found, in plain sentences made from the run's numbers, and the controls beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from verdictscope.report.evidence import ALPHA
from verdictscope.report.record import Record
from verdictscope.report.refusal.cliff_checks import cliff_controls, timing
from verdictscope.report.shown import Control, Finding, Line
from verdictscope.report.words import ends, estimate, heads, interval, number, present, some


def findings(run: Record) -> list[Finding]:
    """The sentences a run's tables allow, in the order of the study."""
    first = [*_behaviour(run), *_probe(run), *_cliff(run), *timing(run)]
    return [*first, *_heads(run), *_ablation(run), *_freely(run), *_planted(run)]


def controls(run: Record) -> list[Control]:
    """The controls the run holds."""
    variants = (control for variant in _VARIANTS for control in _variant_control(run, variant))
    before = [*_permuted(run), *_other_nulls(run), *_writers(run), *cliff_controls(run)]
    return [*before, *variants, *_random(run), *_leaks(run)]


def _behaviour(run: Record) -> Iterator[Finding]:
    labels = run.table("labels")
    if labels is None:
        return
    base = labels[(labels["variant"] == "base") & labels["target"]]
    read = base[base["refused"].notna()]
    refused = int(read["refused"].astype(bool).sum())
    unread = len(base) - len(read)
    yield Finding(
        f"Of {some(len(read), 'target request')} whose answer could be read, the model refused {refused:,} and "
        f"complied with {len(read) - refused:,}" + (f"; {unread:,} could not be read." if unread else "."),
        "labels.parquet",
    )


def _probe(run: Record) -> Iterator[Finding]:
    probe = run.json("probe")
    if not present(probe.get("auroc_test")):
        return
    read = estimate(probe["auroc_test"], probe["auroc_low"], probe["auroc_high"], "AUROC", n=probe["n"])
    yield Finding(
        f"A linear probe at {probe['site']}, layer {probe['layer']}, tells refused from complied rollouts of new "
        f"prompts with an AUROC of {read} (n = {probe['n']} prompt groups); with permuted labels "
        f"{number(probe['control_auroc'])}.",
        "probe.json",
    )
    language = probe.get("language", {})
    words = language.get("bag_of_words_refusal_auroc")
    if present(words):
        told = estimate(words, language.get("bag_of_words_refusal_low"), language.get("bag_of_words_refusal_high"))
        over = words >= probe["auroc_test"]
        yield Finding(
            f"The words of the prompt alone reach {told}"
            + (", which is no less: that refusing can be read says little by itself." if over else "."),
            "probe.json",
        )


def _effects(run: Record, variant: str, asked: bool = True) -> dict[str, dict[str, Any]]:
    cliff = run.table("cliff", edited=True)
    if cliff is None:
        return {}
    rows = cliff[(cliff["variant"] == variant) & (cliff["target"] == asked)]
    return {row["name"]: row for row in rows.to_dict("records")}


def _text(row: dict[str, Any]) -> str:
    return estimate(row["estimate"], row["low"], row["high"], row["unit"], n=row["n"])


def _cliff(run: Record) -> Iterator[Finding]:
    base = _effects(run, "base")
    if "normalised_drop" not in base:
        return
    drop = base["normalised_drop"]
    if not present(drop["estimate"]):
        yield Finding(
            f"The cliff could not be measured: {drop.get('reason') or 'no reason recorded'}.", "cliff.parquet"
        )
        return
    known = present(drop["low"]) and drop["low"] > 0
    yield Finding(
        "In target requests that were complied with, the normalised score (0 reads like complying, 1 like refusing) "
        "goes "
        f"from {number(base['normalised_plateau']['estimate'])} at the end of thinking to "
        f"{number(base['normalised_final']['estimate'])} at the last token before the answer: "
        f"{'a drop of' if known else 'no drop that can be told from none,'} {_text(drop)} "
        f"(n = {int(drop['n'])} prompts).",
        "cliff.parquet",
    )


def _heads(run: Record) -> Iterator[Finding]:
    table = run.table("heads")
    if table is None:
        return
    found = table[table["found"]].sort_values("rank")
    yield from _above_delta(run)
    told = "; ".join(
        f"{heads([(row['layer'], row['head'])])} "
        f"{estimate(row['effect'], row['low'], row['high'], 'nats', signed=True, n=row['n'])}"
        for row in found.to_dict("records")
    )
    rest = table.loc[~table["found"] & (table["head"] >= 0), "effect"]
    yield Finding(
        f"Zeroed one at a time, the {some(len(found), 'head')} ranked highest change the refusal log-odds by {told} "
        f"nats (n = {int(found['n'].min())} prompts that did not rank them); "
        f"the other {len(rest)} by {number(rest.min(), 'nats', signed=True)} to "
        f"{number(rest.max(), 'nats', signed=True)}.",
        "heads.parquet",
    )
    yield from _made_good(found)


def _made_good(found: pd.DataFrame) -> Iterator[Finding]:
    """What later layers take back of the found heads' direct effects."""
    if "direct" not in found or found["direct"].isna().any():
        return
    told = "; ".join(
        f"{heads([(row['layer'], row['head'])])} {number(row['direct'], 'nats', signed=True)} directly, of which "
        f"{estimate(row['compensated'], row['compensated_low'], row['compensated_high'], 'nats', signed=True)}"
        for row in found.to_dict("records")
    )
    yield Finding(
        f"Taken out of the last stream alone, with nothing run again, what they write is worth {told} nats are made "
        "good by later layers when the head is really gone (below zero: it also acts through them).",
        "heads.parquet",
    )


def _above_delta(run: Record) -> Iterator[Finding]:
    """Which heads exceed the smallest effect that counts, with that effect."""
    told = run.json("heads")
    if not present(told.get("delta")):
        return
    named = f": {heads(told['selected'])}" if told["selected"] else ""
    yield Finding(
        f"Zeroed one at a time, {some(len(told['selected']), 'head')} raise the refusal log-odds by more than "
        f"{number(told['delta'], told['unit'])} {told['unit']}{named} (family-wise error {told['alpha']:g} over all "
        f"heads and sublayers, n = {told['n']} prompts). That smallest effect is {told['delta_is']}{_apart(told)}. "
        f"Above zero, at the same error, lie {some(told['above_zero'], 'part')}: that alone says little.",
        "heads.json",
    )


def _apart(told: dict[str, Any]) -> str:
    if not present(told["gap"]):
        return ""
    gap = estimate(told["gap"], told["gap_low"], told["gap_high"], told["unit"])
    return f": refused and complied rollouts lie {gap} apart"


def _ablation(run: Record) -> Iterator[Finding]:
    table = run.table("ablation")
    if table is None or not (table["kind"] == "found").any():
        return
    found = table[table["kind"] == "found"].to_dict("records")[0]
    random = table.loc[table["kind"] == "random", "estimate"]
    beyond = present(found["p"]) and found["p"] <= ALPHA
    yield Finding(
        "Zeroed together, on the model's own tokens, they change the refusal log-odds by "
        f"{estimate(found['estimate'], found['low'], found['high'], 'nats', signed=True, n=found['n'])} nats; "
        f"{some(len(random), 'random set')} of as many heads in the same layers by at most "
        f"{number(random.max(), 'nats', signed=True)} (p = {number(found['p'])}"
        f"{')' if beyond else ', which chance can give)'}.",
        "ablation.parquet",
    )


def _rates(run: Record, kind: str) -> pd.DataFrame | None:
    table = run.table("generation")
    return None if table is None else table[table["cell_kind"] == kind].set_index("variant")


def _freely(run: Record) -> Iterator[Finding]:
    for kind, name in (("target", "target"), ("control", "control")):
        rates = _rates(run, kind)
        if rates is None or not {"base", "ablated"} <= set(rates.index):
            continue
        told = [
            estimate(*rates.loc[variant, ["refused", "low", "high"]], "rate", n=rates.loc[variant, "n"])
            for variant in ("base", "ablated")
        ]
        yield Finding(
            f"Writing freely, the model refuses {told[0]} of the {name} requests as it is and {told[1]} without these "
            f"heads (n = {int(rates.loc['base', 'n'])} prompts).",
            "generation.parquet",
        )


def _planted(run: Record) -> Iterator[Finding]:
    found = run.json("summary").get("heads", {})
    if found.get("planted"):
        hits = {tuple(h) for h in found["planted"]} & {tuple(h) for h in found.get("top", [])}
        yield Finding(
            f"This model's mechanism is known: {heads(found['planted'])} were planted. Without being told, the study "
            f"found {len(hits)} of the {len(found['planted'])}.",
            "summary.json",
        )


def _permuted(run: Record) -> Iterator[Control]:
    probe = run.json("probe")
    if not present(probe.get("control_auroc")):
        return
    yield Control(
        "Labels permuted between prompts",
        "A probe fitted to shuffled labels should read nothing: about 0.5.",
        (
            Line(
                "AUROC, mean and range over refits",
                number(probe["control_auroc"]),
                null=interval(probe["control_low"], probe["control_high"]),
                n=f"{probe['control_refits']} refits",
            ),
            Line(
                "AUROC with the true labels",
                number(probe["auroc_test"]),
                ends(probe["auroc_test"], probe["auroc_low"], probe["auroc_high"], "AUROC", n=probe["n"]),
                n=f"{probe['n']} groups",
            ),
        ),
        "probe.json",
    )


def _other_nulls(run: Record) -> Iterator[Control]:
    table = run.table("probe_nulls")
    rows = [] if table is None else table[table["kind"] == "control"].to_dict("records")
    if rows:
        yield Control(
            "Control tasks and random directions",
            "What a probe of this kind reads where there is nothing to read, mean and range over draws. A random label "
            "per token or kind of prompt can be learned by reading which it is; selectivity is how much more the real "
            "label gets.",
            tuple(
                Line(
                    row["name"],
                    number(row["estimate"]),
                    null=interval(row["low"], row["high"]),
                    n=f"{int(row['n'])} draws",
                    note=_selectivity(row),
                )
                for row in rows
            ),
            "probe_nulls.parquet",
        )


def _writers(run: Record) -> Iterator[Control]:
    table = run.table("writers")
    rows = [] if table is None else table.to_dict("records")
    if not rows:
        return
    names = {"random": "random directions", "permuted": "probes fitted to permuted labels"}
    top = rows[0]
    writer = heads([(top["layer"], top["head"])])
    told = [Line(f"the probe; its strongest writer is {writer}", number(top["top"]), n="1 probe")]
    for row in rows:
        span = interval(row["null_low"], row["null_high"])
        told.append(
            Line(
                f"{names[row['kind']]}, mean and range",
                number(row["null_mean"]),
                null=span,
                p=number(row["p"]),
                n=f"{int(row['n'])} draws",
            )
        )
    yield Control(
        "Any direction has writers",
        "The strongest head's part of all heads' shares, before the answer. If the probe's is no larger than that of "
        "directions that mean nothing, having a strong writer says nothing.",
        tuple(told),
        "writers.parquet",
    )


def _selectivity(row: dict[str, Any]) -> str:
    over = row.get("selectivity")
    return f"selectivity {number(over)}" if present(over) else ""


def _leaks(run: Record) -> Iterator[Control]:
    table = run.table("leaks")
    if table is None:
        return
    rows = tuple(
        Line(
            f"{row['check']}: {row['what']}",
            str(row["severity"]),
            n=str(int(row["n"])) if present(row.get("n")) else "",
        )
        for row in table.to_dict("records")
    )
    yield Control(
        "Leaks looked for",
        "Duplicate prompts over the parts, label words in the text, labels that length, source or position tell.",
        rows or (Line("nothing found", "–"),),
        "leaks.parquet",
    )


_VARIANTS = {
    "reference": (
        "The reference",
        "The same requests in a model without the mechanism: the normalised score should not fall.",
    ),
    "ablated_fixed": (
        "Found heads zeroed, same tokens",
        "The very same rollouts, read again without the found heads: the normalised score should not fall.",
    ),
}


def _variant_control(run: Record, variant: str) -> Iterator[Control]:
    effects, base = _effects(run, variant), _effects(run, "base")
    if "normalised_drop" not in effects:
        return
    rows = [("drop of the normalised score, here", effects["normalised_drop"])]
    if "normalised_drop" in base:
        rows.append(("drop in the model under study", base["normalised_drop"]))
    if "normalised_excess" in effects:
        what = "how much further it falls in the model under study, paired by prompt"
        rows.append((what, effects["normalised_excess"]))
    name, expect = _VARIANTS[variant]
    yield Control(name, expect, tuple(_measured(what, row, "prompts") for what, row in rows), "cliff.parquet")


def _measured(what: str, row: dict[str, Any], of: str) -> Line:
    between = ends(row["estimate"], row["low"], row["high"], row["unit"], n=row["n"])
    return Line(what, number(row["estimate"], row["unit"]), between, n=f"{int(row['n'])} {of}")


def _random(run: Record) -> Iterator[Control]:
    rows: list[Line] = []
    for kind in ("target", "control"):
        rates = _rates(run, kind)
        if rates is None:
            continue
        for variant, words in (("base", "as it is"), ("ablated", "found heads zeroed"), ("reference", "reference")):
            if variant in rates.index:
                row = rates.loc[variant].to_dict()
                rows.append(
                    _measured(
                        f"{kind} requests refused, {words}",
                        row | {"estimate": row["refused"], "unit": "rate"},
                        "prompts",
                    )
                )
        random = rates[rates.index.str.startswith("random_")]
        if len(random):
            rows.append(
                Line(
                    f"{kind} requests refused, {some(len(random), 'random set')}, mean and range",
                    number(random["refused"].mean()),
                    null=interval(random["refused"].min(), random["refused"].max()),
                    n=f"{int(random['n'].min())} prompts a set",
                )
            )
    if rows:
        yield Control(
            "Random sets of heads",
            "As many heads of the same layers, drawn from those that were not found: refusals should stay as they are. "
            "Control requests should be complied with throughout.",
            tuple(rows),
            "generation.parquet",
        )
