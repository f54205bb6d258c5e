"""Which rows of a run's tables are its results: declared table by table, computed nowhere else."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from verdictscope.organisms.scorecards import score_heads
from verdictscope.stats import independent_difference
from verdictscope.study.results import ALL, Result, Results, _clean

if TYPE_CHECKING:
    import pandas as pd

    from verdictscope.study.folder import RunFolder

Read = Callable[[str], "pd.DataFrame | None"]
"""A table of the run by its name, ``None`` where it was not written."""

ReadJson = Callable[[str], dict[str, Any]]

NUMBERS = ("estimate", "low", "high", "n", "unit", "delta", "null_low", "null_high", "p", "rank", "about")


@dataclass(frozen=True)
class Source:
    """A table whose rows are results.

    Attributes:
        table: its name.
        stage: stage of the rows.
        name: pattern of their names over the columns of a row, as all texts below.
        condition: pattern of the condition.
        variant: pattern of the variant.
        where: which rows, as a pandas query.
        columns: columns that are called otherwise: field of the result to column.
        more: fields that are the same in every row, as patterns.
    """

    table: str
    stage: str
    name: str = "{name}"
    condition: str = ALL
    variant: str = "{variant}"
    where: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)

    def rows(self, read: Read) -> Iterator[Result]:
        """The results of the table; none where it was not written."""
        table = read(self.table)
        if table is None or table.empty:
            return
        if self.where:
            table = table.query(self.where)
        for row in table.to_dict("records"):
            yield self._row(row)

    def _row(self, row: dict[str, Any]) -> Result:
        texts = defaultdict(str, {str(k): v for k, v in row.items() if not isinstance(v, float) or v == v})
        texts |= {key: "" for key, value in row.items() if value is None or str(value) == "<NA>"}
        texts["after"] = ", after thinking" if row.get("thinking") == "on" else ""
        texts.setdefault("variant", "base")
        given = {key: row[at] for key in NUMBERS if (at := self.columns.get(key, key)) in row}
        given |= {key: pattern.format_map(texts) for key, pattern in self.more.items()}
        given |= {"file": f"{self.table}.parquet"}
        variant, condition, name = (text.format_map(texts) for text in (self.variant, self.condition, self.name))
        return Result(self.stage, variant, condition, name, **_clean(given))


PARTS = "item groups"
AUROC = {"unit": "AUROC"}

SOURCES = (
    Source("verdict_rates", "generate", condition="{condition}{after}", more={"of": PARTS}),
    Source("bias_parts", "contrasts", condition="thinking {thinking}", more={"of": PARTS}),
    Source("probe_nulls", "probe", condition="baseline", where="kind == 'baseline'", more=AUROC | {"kind": "baseline"}),
    Source(
        "probe_nulls",
        "probe",
        condition="control",
        where="kind == 'control'",
        columns={"null_low": "low", "null_high": "high", "low": "", "high": ""},
        more=AUROC | {"kind": "control", "of": "draws", "null": "range over draws"},
    ),
    Source(
        "verdict_probe",
        "probe",
        condition="{place}",
        where="kind in ['part', 'baseline']",
        more=AUROC | {"kind": "{kind}", "of": PARTS},
    ),
    Source(
        "verdict_probe",
        "probe",
        condition="{place}",
        where="kind in ['permuted', 'control']",
        columns={"null_low": "low", "null_high": "high", "low": "", "high": ""},
        more=AUROC | {"kind": "{kind}", "of": "draws", "null": "range over draws"},
    ),
    Source(
        "verdict_probe",
        "probe",
        name="AUROC",
        condition="{place}",
        where="kind == 'test'",
        more=AUROC | {"kind": "test", "of": PARTS},
    ),
    Source(
        "correctness",
        "probe",
        condition="correctness, {condition}",
        where="kind == 'test'",
        columns={"n": "groups"},
        more={"kind": "test", "of": PARTS, "null": "labels permuted between items"},
    ),
    Source(
        "bias_detector",
        "probe",
        condition="bias detector, {label}",
        name="fitted on {fit}, tested on {read}",
        columns={"estimate": "auroc"},
        more=AUROC | {"kind": "{kind}", "of": PARTS, "null": "labels permuted between items"},
    ),
    Source(
        "position_transfer",
        "transfer",
        condition="position",
        name="fitted on {fit}, tested on {read}",
        columns={"estimate": "auroc"},
        more=AUROC | {"kind": "{kind}", "null": "labels permuted between prompts", "about": "{fit}"},
    ),
    Source(
        "ood",
        "transfer",
        condition="{by}",
        name="fitted on {fit}, tested on {read}",
        columns={"estimate": "auroc"},
        more=AUROC | {"kind": "{kind}", "null": "labels permuted between prompts", "about": "{fit}"},
    ),
    Source("cliff", "trace", condition="target", where="target", columns={"about": "reason"}, more={"of": "prompts"}),
    Source(
        "cliff", "trace", condition="{cell}", where="not target", columns={"about": "reason"}, more={"of": "prompts"}
    ),
    Source("verdict_timing", "trace", condition="commitment", more={"of": PARTS}),
    Source(
        "forced_lengths",
        "trace",
        condition="{condition}, thinking cut, towards {toward}",
        name="{part}, step {step}",
        columns={"n": "n_groups"},
        more={"unit": "nats", "of": PARTS, "about": "{allowed}"},
    ),
    Source(
        "erasure",
        "erase",
        condition="{probe} probe, {erased} erased, {read}",
        where="erased in ['none', 'concept'] and part == 'test'",
    ),
    Source(
        "writers",
        "heads",
        condition="attribution of the probe",
        name="{kind} directions",
        columns={"estimate": "top"},
        more={"of": "draws", "null": "range over draws", "unit": "share", "about": ""},
    ),
    Source(
        "mitigations",
        "mitigate",
        condition="{mitigation}{after}",
        more={"kind": "{kind}", "about": "{bias}", "of": "item groups"},
    ),
    Source(
        "leaks",
        "probe",
        condition="leakage",
        name="{check}",
        columns={"estimate": "value", "unit": "statistic", "about": "what", "p": "p_adjusted"},
        more={"kind": "{severity}", "of": "prompts"},
    ),
)


def results_of(run: RunFolder) -> Results:
    """The results of a run from whatever tables it has written. A bundled model is scored against its truth here."""
    results = _collect(lambda name: run.find_table(name, edited=name == "cliff"), run.find_json, outcome_of(run))
    rows = [r for r in results.select(stage="heads", variant="base", kind="head") if r.selected and r.confirmed]
    top = list(dict.fromkeys(r.name for r in sorted(rows, key=lambda r: r.rank or 0)))
    pairs = [[int(n) for n in name.removeprefix("L").split("H")] for name in top]
    with suppress(OSError):  # a name that no folder can have
        card = score_heads(pairs, run.model_folder()) if results.select(stage="heads") else None
        results.extend(_truth(card["planted"], card["recall"], pairs) if card else ())
    return results


def outcome_of(run: RunFolder) -> str:
    """The column of ``labels.parquet`` that holds the outcome of a rollout."""
    from verdictscope.study.tasks import task_of

    return getattr(task_of(run.study), "outcome", "")


def _collect(read: Read, read_json: ReadJson, outcome: str) -> Results:
    results = Results()
    for made in (_counts(read, outcome), _probe(read, read_json)):
        results.extend(made)
    for source in SOURCES:
        results.extend(source.rows(read))
    for made in (_checks(read), _heads(read, read_json), _sets(read), _rates(read)):
        results.extend(made)
    return Results(_with_null(row, results) for row in results)


def _with_null(row: Result, results: Results) -> Result:
    """A test AUROC with the range of its refits, where these are a row of their own."""
    if row.stage != "probe" or row.kind != "test" or row.null_high is not None:
        return row
    same = results.select(stage="probe", variant=row.variant, condition=row.condition, kind="permuted")
    return replace(row, null=same[0].name, null_low=same[0].null_low, null_high=same[0].null_high) if same else row


def _counts(read: Read, outcome: str) -> Iterator[Result]:
    """Rollouts by cell and verdicts by condition, with those that could not be parsed, and why."""
    labels, more = read("labels"), read("labels_ablated")
    tables = [] if labels is None else [("labels", labels)]
    if labels is not None and more is not None:
        tables.append(("labels_ablated", more[~more["variant"].isin(labels["variant"])]))
    for file, table in tables:
        for variant, own in table.groupby("variant", sort=False):
            if not str(variant).startswith("random_"):
                yield from _outcomes(str(variant), own, outcome, f"{file}.parquet")
    verdicts = read("verdicts")
    if verdicts is not None:
        for (variant, thinking, condition), own in verdicts.groupby(["variant", "thinking", "condition"], sort=False):
            after = ", after thinking" if thinking == "on" else ""
            unread = own[own["verdict"].isna()]
            counts = {"verdicts": len(own), "not parsed": len(unread)}
            counts |= {f"not parsed: {why}": int(n) for why, n in unread["status"].value_counts().items()}
            for name, n in counts.items():
                yield _count("generate", str(variant), f"{condition}{after}", name, n, "verdicts.parquet")


def _outcomes(variant: str, labels: pd.DataFrame, outcome: str, file: str) -> Iterator[Result]:
    targets = labels[labels["target"]]
    parsed = targets[targets[outcome].notna()]
    refused = int(parsed[outcome].astype(bool).sum())
    counts = {(ALL, "rollouts"): len(labels), (ALL, "not parsed"): int(labels[outcome].isna().sum())}
    if "cut_off" in labels:
        counts |= {(ALL, f"cut off in {at}"): int(labels["cut_off"].eq(at).sum()) for at in ("thinking", "answer")}
    else:
        counts |= {(ALL, "cut off"): int(labels["finish"].eq("length").sum())}
    if "reason" in labels:
        counts |= {(ALL, f"not parsed: {why}"): int(n) for why, n in labels["reason"].value_counts().items() if why}
    counts |= {(str(cell), "rollouts"): len(own) for cell, own in labels.groupby("cell")}
    counts |= {("target", "refused"): refused, ("target", "complied"): len(parsed) - refused}
    counts |= {("target", "not parsed"): len(targets) - len(parsed)}
    for (condition, name), n in counts.items():
        yield _count("generate", variant, condition, name, n, file)


def _count(stage: str, variant: str, condition: str, name: str, n: int, file: str) -> Result:
    return Result(stage, variant, condition, name, float(n), unit="count", of="", file=file)


def _probe(read: Read, read_json: ReadJson) -> Iterator[Result]:
    """The probe's test AUROC against refits with permuted labels, and the text baselines of older tables."""
    probe = read_json("probe")
    if "auroc_test" not in probe:
        return
    at = f"{probe['site']}, layer {probe['layer']}"
    numbers = {name: probe.get(f"auroc_{name}") for name in ("test", "low", "high")}
    common = {"unit": "AUROC", "kind": "test", "file": "probe.json", "about": at, "n": probe.get("n")}
    null = {"null_low": probe.get("control_low"), "null_high": probe.get("control_high"), "p": probe.get("control_p")}
    words = f"{probe.get('control_refits', 0)} refits with labels permuted between prompts"
    test = {"estimate": numbers["test"], "low": numbers["low"], "high": numbers["high"], "null": words}
    yield Result("probe", "base", ALL, "AUROC", **_clean(common | test | null))
    whole = {
        key: probe.get(f"auroc_rollouts{end}") for key, end in (("estimate", ""), ("low", "_low"), ("high", "_high"))
    }
    yield Result("probe", "base", ALL, "AUROC, mean score of a rollout", **_clean(common | whole))
    permuted = {"estimate": probe.get("control_auroc"), "n": probe.get("control_refits"), "of": "refits"}
    range_ = {"kind": "permuted", "null": "range over refits"}
    yield Result("probe", "base", ALL, "AUROC, labels permuted", **_clean(common | permuted | null | range_))
    language = probe.get("language", {})
    harm = {k: language.get(f"bag_of_words_{e}") for k, e in (("estimate", "auroc"), ("low", "low"), ("high", "high"))}
    yield Result("probe", "base", "text", "AUROC of harm, words of the prompt", **_clean(common | harm | {"about": ""}))
    if read("probe_nulls") is None:  # the baselines are in a table of their own wherever they were measured by groups
        for name, key in {"words of the prompt": "refusal", "words of prompt and thinking": "thinking"}.items():
            ends = (("estimate", "auroc"), ("low", "low"), ("high", "high"))
            row = {k: language.get(f"bag_of_words_{key}_{e}") for k, e in ends}
            more = common | row | {"kind": "baseline", "about": ""}
            yield Result("probe", "base", "baseline", name, **_clean(more))


NULL = re.compile(r"null (\S+) to ([^\s;]+)(?:; )?(.*)")


def _checks(read: Read) -> Iterator[Result]:
    """Controls of the drop; the range of a permutation null stands in ``about`` of its table."""
    table = read("cliff_checks")
    for row in [] if table is None else table.to_dict("records"):
        found = NULL.match(str(row["about"]))
        null = {"null_low": found[1], "null_high": found[2], "about": found[3], "null": _NULLS} if found else {}
        given = {key: row[key] for key in ("estimate", "low", "high", "n", "unit", "p", "about")} | null
        cell = "" if row["cell"] == "headline" else f": {row['cell']}"
        more = _clean(given | {"of": "rollouts" if row["check"] == "counted" else "prompts", "kind": row["check"]})
        yield Result("trace", row["variant"], row["check"] + cell, row["name"], file="cliff_checks.parquet", **more)


_NULLS = "permutation of prompts, or rotation of rollouts"


def _heads(read: Read, read_json: ReadJson) -> Iterator[Result]:
    """Every head and sublayer of the sweeps, with the smallest effect that counts, and direct logit attribution."""
    refusal, bias = read("heads"), read("bias_heads")
    told = read_json("heads") | read_json("bias_heads")
    for key in ("delta", "gap", "above_zero", "jaccard"):
        if told.get(key) is not None:
            ends = {"estimate": told[key], "low": told.get(f"{key}_low"), "high": told.get(f"{key}_high")}
            unit = told.get("unit", "nats") if key in ("delta", "gap") else "count" if key == "above_zero" else "share"
            about = str(told.get("delta_is", "")) if key == "delta" else ""
            more = _clean(ends | {"n": told.get("gap_n") if key == "gap" else told.get("n"), "unit": unit})
            name = {"above_zero": "effects above zero", "jaccard": "overlap of two rankings"}.get(key, key)
            yield Result(
                "heads", "base", ALL, name, about=about, file="heads.json" if refusal is not None else "", **more
            )
    if refusal is not None:
        yield from (_head(row, "refusal", row["effect"], "selected", "heads") for row in refusal.to_dict("records"))
        yield from _attribution(read, refusal)
    if bias is not None:
        yield from (
            _head(row, row["contrast"], row["estimate"], "declared", "bias_heads") for row in bias.to_dict("records")
        )


def _head(row: dict[str, Any], contrast: str, estimate: float, confirmed: str, file: str) -> Result:
    given = {key: row.get(key) for key in ("low", "high", "n", "delta", "rank")} | {
        "estimate": estimate,
        "unit": "nats",
    }
    flags = {"selected": row.get("found"), "confirmed": row.get(confirmed), "p": row.get("p_adjusted")}
    of = "prompt groups" if file == "heads" else PARTS
    more = _clean(given | flags | {"of": of, "null": "smallest effect that counts", "null_high": row.get("delta")})
    variant = str(row.get("variant", "base"))
    return Result(
        "heads",
        variant,
        contrast,
        component_name(row),
        kind=str(row.get("component", "head")),
        file=f"{file}.parquet",
        **more,
    )


def component_name(row: Mapping[str, Any]) -> str:
    """``L5H6``, ``attn 3`` or ``mlp 0``."""
    layer, kind = int(row["layer"]), str(row.get("component", "head"))
    return f"L{layer}H{int(row['head'])}" if kind == "head" else f"{kind} {layer}"


def _attribution(read: Read, heads: pd.DataFrame) -> Iterator[Result]:
    table = read("attribution")
    if table is None:
        return
    selected = {(int(a), int(b)) for a, b in heads.loc[heads["found"], ["layer", "head"]].to_numpy()}
    for row in table[(table["readout"] == "log_odds") & (table["component"] == "head")].to_dict("records"):
        given = {key: row[key] for key in ("estimate", "low", "high", "n")} | {
            "unit": "nats",
            "file": "attribution.parquet",
        }
        flag = {"selected": (int(row["layer"]), int(row["head"])) in selected}
        yield Result(
            "heads", "base", "attribution of the log-odds", component_name(row), kind="head", **_clean(given | flag)
        )


def _sets(read: Read) -> Iterator[Result]:
    """The selected heads ablated, or put into the reference model, against the range of the random sets."""
    for table, variant in (("ablation", "ablated"), ("transplant", "transplanted")):
        frame = read(table)
        if frame is not None:
            more = {"of": "prompt groups", "about": _same_weights(frame)}
            yield from _set(frame, variant, "refusal", "change of the log-odds", f"{table}.parquet", more)
    sets = read("bias_sets")
    if sets is None:
        return
    for contrast, own in sets.groupby("contrast", sort=False):
        for row in own[own["kind"] == "base"].to_dict("records"):
            given = {key: row[key] for key in ("estimate", "low", "high", "n", "unit")} | {"of": PARTS}
            yield Result("ablate", "base", str(contrast), "size", file="bias_sets.parquet", **_clean(given))
        yield from _set(own, "ablated", str(contrast), "size", "bias_sets.parquet", {"of": PARTS, "about": ""})


def _same_weights(frame: pd.DataFrame) -> str:
    random = frame[frame["kind"] == "random"]
    same = int(random["same_weights"].sum()) if "same_weights" in random else 0
    return f"{same} of the random sets have the same weights in both models" if same else ""


def _set(
    frame: pd.DataFrame, variant: str, condition: str, name: str, file: str, more: dict[str, Any]
) -> Iterator[Result]:
    random = frame.loc[frame["kind"] == "random", "estimate"].dropna()
    span = {"null_low": random.min(), "null_high": random.max(), "null": f"{len(random)} random sets of heads"}
    for row in frame[frame["kind"] == "found"].to_dict("records"):
        given = {key: row[key] for key in ("estimate", "low", "high", "n", "unit", "delta", "p") if key in row}
        given |= span if len(random) else {}
        yield Result("ablate", variant, condition, name, file=file, **_clean(given | more))
    if len(random):
        sizes = random.abs()
        given = {"estimate": random.mean(), "null_low": sizes.min(), "null_high": sizes.max(), "n": len(random)}
        given |= {"unit": frame["unit"].iloc[0], "of": "sets", "null": "range of absolute values over the sets"}
        yield Result("ablate", f"random sets, {variant}", condition, name, file=file, **_clean(given))


def _rates(read: Read) -> Iterator[Result]:
    """Refusal rates in free generation, and how far two variants' rates lie apart."""
    table = read("generation")
    if table is None:
        return
    file = {"file": "generation.parquet", "unit": "rate"}
    for kind, own in table.groupby("cell_kind", sort=False):
        drawn = own["variant"].str.startswith("random_")
        made: dict[str, Result] = {}
        for row in own[~drawn].to_dict("records"):
            given = file | {"estimate": row["refused"], "low": row["low"], "high": row["high"], "n": row["n"]}
            made[row["variant"]] = Result("ablate", row["variant"], str(kind), "refusal rate", **_clean(given))
            yield made[row["variant"]]
            yield _count("ablate", row["variant"], str(kind), "not parsed", int(row["unread"]), file["file"])
        random = own.loc[drawn, "refused"]
        if len(random):
            given = file | {"estimate": random.mean(), "null_low": random.min(), "null_high": random.max()}
            given |= {"n": len(random), "of": "sets", "null": "range over the sets"}
            yield Result("ablate", "random sets", str(kind), "refusal rate", **_clean(given))
        for upper, lower, variant in (("ablated", "base", "ablated"), ("reference", "transplanted", "transplanted")):
            if upper in made and lower in made:
                change = _difference(made[upper], made[lower], variant)
                if variant == "ablated" and len(random) and made["base"].estimate is not None:
                    high = float(random.max()) - made["base"].estimate
                    change = replace(
                        change, null=f"{len(random)} random sets of heads", null_low=min(0.0, high), null_high=high
                    )
                yield change


def _difference(upper: Result, lower: Result, variant: str) -> Result:
    ends = [(float(r.estimate or 0.0), float(r.low or 0.0), float(r.high or 0.0)) for r in (upper, lower)]
    estimate, low, high = independent_difference(*ends)
    name = "rise of the refusal rate" if variant == "ablated" else "fall of the refusal rate"
    return replace(upper, variant=variant, name=name, estimate=estimate, low=low, high=high, n=lower.n)


def _truth(planted: list[list[int]], recall: float | None, top: list[list[int]]) -> Iterator[Result]:
    """What a bundled model is known to hold, and how much of it was selected and confirmed."""
    for layer, head in planted:
        hit = [layer, head] in top
        yield Result("truth", "base", "planted heads", f"L{layer}H{head}", float(hit), unit="selected", of="")
    yield Result("truth", "base", "planted heads", "recall", recall, n=len(planted), of="planted heads")
