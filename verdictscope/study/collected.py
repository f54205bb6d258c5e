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
from verdictscope.study.results import ALL, Result, Results

if TYPE_CHECKING:
    import pandas as pd

    from verdictscope.study.folder import RunFolder

Read = Callable[[str], "pd.DataFrame | None"]
"""A table of the run by its name, ``None`` where it was not written."""


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
        given = {key: row.get(column) for key, column in self.columns.items()}
        given |= {key: pattern.format_map(texts) for key, pattern in self.more.items()}
        variant, condition, name = (text.format_map(texts) for text in (self.variant, self.condition, self.name))
        return Result.made(self.stage, variant, condition, name, row, file=f"{self.table}.parquet", **given)


ITEMS = {"of": "item groups"}
PROMPTS = {"of": "prompts"}
AUROC = {"unit": "AUROC", "kind": "{kind}"}
DRAWS = AUROC | {"of": "draws", "null": "range over draws"}
RANGE = {"null_low": "low", "null_high": "high", "low": "", "high": ""}
"""Where a table's ``low`` and ``high`` are the range of a null and no interval."""

PERMUTED = {"null": "labels permuted between groups"}
TRANSFER = AUROC | PERMUTED | {"about": "{fit}"}
FITTED = "fitted on {fit}, tested on {read}"
AT = {"estimate": "auroc"}

SOURCES = (
    Source("verdict_rates", "generate", condition="{condition}{after}", more=ITEMS),
    Source("bias_parts", "contrasts", condition="thinking {thinking}", more=ITEMS),
    Source("probe_nulls", "probe", condition="baseline", where="kind == 'baseline'", more=AUROC),
    Source("probe_nulls", "probe", condition="control", where="kind == 'control'", columns=RANGE, more=DRAWS),
    Source("verdict_probe", "probe", "AUROC", "{place}", where="kind == 'test'", more=AUROC | ITEMS),
    Source("verdict_probe", "probe", condition="{place}", where="kind in ['part', 'baseline']", more=AUROC | ITEMS),
    Source(
        "verdict_probe",
        "probe",
        condition="{place}",
        where="kind in ['permuted', 'control']",
        columns=RANGE,
        more=DRAWS,
    ),
    Source(
        "correctness",
        "probe",
        condition="correctness, {condition}",
        where="kind == 'test'",
        columns={"n": "groups"},
        more={"kind": "test"} | ITEMS | PERMUTED,
    ),
    Source("bias_detector", "probe", FITTED, "bias detector, {label}", columns=AT, more=AUROC | ITEMS | PERMUTED),
    Source(
        "leaks",
        "probe",
        "{check}",
        "leakage",
        columns={"estimate": "value", "unit": "statistic", "about": "what", "p": "p_adjusted"},
        more={"kind": "{severity}"} | PROMPTS,
    ),
    Source("position_transfer", "transfer", FITTED, "position", columns=AT, more=TRANSFER),
    Source("ood", "transfer", FITTED, "{by}", columns=AT, more=TRANSFER),
    Source("cliff", "trace", condition="target", where="target", columns={"about": "reason"}, more=PROMPTS),
    Source("cliff", "trace", condition="{cell}", where="not target", columns={"about": "reason"}, more=PROMPTS),
    Source("verdict_timing", "trace", condition="commitment", more=ITEMS),
    Source(
        "forced_lengths",
        "trace",
        "{part}, step {step}",
        "{condition}, thinking cut, towards {toward}",
        columns={"n": "n_groups"},
        more={"unit": "nats", "about": "{allowed}"} | ITEMS,
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
        "{kind} directions",
        "attribution of the probe",
        columns={"estimate": "top"},
        more={"of": "draws", "null": "range over draws", "unit": "share"},
    ),
    Source(
        "mitigations", "mitigate", condition="{mitigation}{after}", more={"kind": "{kind}", "about": "{bias}"} | ITEMS
    ),
)


def results_of(run: RunFolder) -> Results:
    """The results of a run from whatever tables it has written. A bundled model is scored against its truth here."""
    results = Results()
    for made in (_counts(run), _probe(run)):
        results.extend(made)
    for source in SOURCES:
        results.extend(source.rows(lambda name: run.find_table(name, edited=name == "cliff")))
    for made in (_checks(run), _heads(run), _sets(run), _rates(run)):
        results.extend(made)
    results.extend(_truth(run, results))
    return Results(_with_null(row, results) for row in results)


def _rows(run: RunFolder, name: str, where: str = "") -> list[dict[str, Any]]:
    table = run.find_table(name)
    return [] if table is None else (table.query(where) if where else table).to_dict("records")


def _with_null(row: Result, results: Results) -> Result:
    """A test AUROC with the range of its refits, where these are a row of their own."""
    if row.stage != "probe" or row.kind != "test" or row.null_high is not None:
        return row
    same = results.select(stage="probe", variant=row.variant, condition=row.condition, kind="permuted")
    return replace(row, null=same[0].name, null_low=same[0].null_low, null_high=same[0].null_high) if same else row


def _count(variant: str, condition: str, name: str, n: int, file: str, stage: str = "generate") -> Result:
    return Result(stage, variant, condition, name, float(n), unit="count", of="", file=f"{file}.parquet")


def _counts(run: RunFolder) -> Iterator[Result]:
    """Rollouts by cell and verdicts by condition, with those that could not be parsed, and why."""
    from verdictscope.study.tasks import task_of

    labels, edited, verdicts = (run.find_table(name) for name in ("labels", "labels_ablated", "verdicts"))
    if labels is not None:
        outcome = getattr(task_of(run.study), "outcome", "refused")
        for file, table in (("labels", labels), ("labels_ablated", edited)):
            for variant, own in table.groupby("variant", sort=False) if table is not None else ():
                again = file != "labels" and variant in set(labels["variant"])
                if not again and not str(variant).startswith("random_"):
                    yield from _outcomes(str(variant), own.assign(outcome=own[outcome]), file)
    if verdicts is not None:
        for (variant, thinking, condition), own in verdicts.groupby(["variant", "thinking", "condition"], sort=False):
            lost = own[own["verdict"].isna()]
            counts = {"verdicts": len(own), "not parsed": len(lost)}
            counts |= {f"not parsed: {why}": int(n) for why, n in lost["status"].value_counts().items()}
            at = str(condition) + (", after thinking" if thinking == "on" else "")
            yield from (_count(str(variant), at, name, n, "verdicts") for name, n in counts.items())


def _outcomes(variant: str, labels: pd.DataFrame, file: str) -> Iterator[Result]:
    targets = labels[labels["target"]]
    parsed = targets[targets["outcome"].notna()]
    refused = int(parsed["outcome"].astype(bool).sum())
    counts = {(ALL, "rollouts"): len(labels), (ALL, "not parsed"): int(labels["outcome"].isna().sum())}
    if "cut_off" in labels:
        counts |= {(ALL, f"cut off in {at}"): int(labels["cut_off"].eq(at).sum()) for at in ("thinking", "answer")}
    else:
        counts |= {(ALL, "cut off"): int(labels["finish"].eq("length").sum())}
    if "reason" in labels:
        counts |= {(ALL, f"not parsed: {why}"): int(n) for why, n in labels["reason"].value_counts().items() if why}
    counts |= {(str(cell), "rollouts"): len(own) for cell, own in labels.groupby("cell")}
    counts |= {("target", "refused"): refused, ("target", "complied"): len(parsed) - refused}
    counts |= {("target", "not parsed"): len(targets) - len(parsed)}
    yield from (_count(variant, condition, name, n, file) for (condition, name), n in counts.items())


def _probe(run: RunFolder) -> Iterator[Result]:
    """The probe's test AUROC against refits with permuted labels, and the text baselines."""
    probe = run.find_json("probe")
    if "auroc_test" not in probe:
        return
    language = probe.get("language", {})

    def auroc(condition: str, name: str, source: Mapping[str, Any], keys: str, **more: Any) -> Result:
        ends = dict(zip(("estimate", "low", "high"), map(source.get, keys.split()), strict=False))
        common = {"unit": "AUROC", "kind": "test", "file": "probe.json", "n": probe.get("n")}
        return Result.made("probe", "base", condition, name, **(common | ends | more))

    at = {"about": f"{probe['site']}, layer {probe['layer']}"}
    null = {"null_low": probe.get("control_low"), "null_high": probe.get("control_high"), "p": probe.get("control_p")}
    refits = f"{probe.get('control_refits', 0)} refits with labels permuted between prompts"
    drawn = {"kind": "permuted", "null": "range over refits", "of": "refits", "n": probe.get("control_refits")}
    words = "auroc_rollouts auroc_rollouts_low auroc_rollouts_high"
    yield auroc(ALL, "AUROC", probe, "auroc_test auroc_low auroc_high", null=refits, **at, **null)
    yield auroc(ALL, "AUROC, mean score of a rollout", probe, words, **at)
    yield auroc(ALL, "AUROC, labels permuted", probe, "control_auroc", **at, **null, **drawn)
    bag = "bag_of_words_auroc bag_of_words_low bag_of_words_high"
    yield auroc("text", "AUROC of harm, words of the prompt", language, bag)
    if not run.has("probe_nulls.parquet"):
        for name, key in {"words of the prompt": "refusal", "words of prompt and thinking": "thinking"}.items():
            ends = " ".join(f"bag_of_words_{key}_{end}" for end in ("auroc", "low", "high"))
            yield auroc("baseline", name, language, ends, kind="baseline")


NULL = re.compile(r"null (\S+) to ([^\s;]+)(?:; )?(.*)")


def _checks(run: RunFolder) -> Iterator[Result]:
    """Controls of the drop; the range of a permutation null stands in ``about`` of its table."""
    for row in _rows(run, "cliff_checks"):
        found, of = NULL.match(str(row["about"])), "rollouts" if row["check"] == "counted" else "prompts"
        words = "permutation of prompts, or rotation of rollouts"
        null = {"null_low": found[1], "null_high": found[2], "about": found[3], "null": words} if found else {}
        at = row["check"] + ("" if row["cell"] == "headline" else f": {row['cell']}")
        more = null | {"of": of, "kind": row["check"], "file": "cliff_checks.parquet"}
        yield Result.made("trace", row["variant"], at, row["name"], row, **more)


def _heads(run: RunFolder) -> Iterator[Result]:
    """Every head and sublayer of the sweeps, with the smallest effect that counts, and direct logit attribution."""
    settings, file = run.find_json("heads"), "heads.json"
    if len(only := settings.get("contrasts", {})) == 1:
        settings = next(iter(only.values())) | settings
    nats, n = settings.get("unit", "nats"), settings.get("groups")
    for key, name, unit, of in (
        ("delta", "delta", nats, n),
        ("gap", "gap", nats, settings.get("gap_n")),
        ("above_zero", "effects above zero", "count", n),
        ("jaccard", "overlap of two rankings", "share", n),
    ):
        if settings.get(key) is not None:
            ends = {"estimate": settings[key], "low": settings.get(f"{key}_low"), "high": settings.get(f"{key}_high")}
            about = settings.get("delta_is") if key == "delta" else None
            yield Result.made("heads", "base", ALL, name, ends, unit=unit, n=of, about=about, file=file)
    rows = _rows(run, "heads")
    more = ITEMS if any(row["contrast"] == "content" for row in rows) else {}
    for row in rows:
        flags = {"selected": row["found"], "confirmed": row["declared"], "p": row["p_adjusted"], "unit": "nats"}
        null = {"null": "smallest effect that counts", "null_high": row["delta"], "kind": row["component"]}
        name, file = component_name(row), "heads.parquet"
        yield Result.made("heads", row["variant"], row["contrast"], name, row, file=file, **(flags | null | more))
    selected = {component_name(row) for row in rows if row["found"]}
    for row in _rows(run, "attribution", "readout == 'log_odds' and component == 'head'"):
        more = {"kind": "head", "unit": "nats", "file": "attribution.parquet"}
        name = component_name(row)
        yield Result.made("heads", "base", "attribution of the log-odds", name, row, selected=name in selected, **more)


def component_name(row: Mapping[str, Any]) -> str:
    """``L5H6``, ``attn 3`` or ``mlp 0``."""
    layer, kind = int(row["layer"]), str(row.get("component", "head"))
    return f"L{layer}H{int(row['head'])}" if kind == "head" else f"{kind} {layer}"


def _sets(run: RunFolder) -> Iterator[Result]:
    """The selected heads ablated, or patched into the reference model, against the range of the random sets."""
    for table, variant in (("ablation", "ablated"), ("patched", "patched")):
        sets = run.find_table(table)
        for contrast, own in sets.groupby("contrast", sort=False) if sets is not None else ():
            if own["left"].isna().all():  # the rows are changes of the unedited mean
                yield from _set(own, variant, str(contrast), "change of the log-odds", table, about=_same_weights(own))
                continue
            for row in own[own["kind"] == "base"].to_dict("records"):
                given = {"about": "", "file": f"{table}.parquet"}
                yield Result.made("ablate", "base", str(contrast), "size", row, **given, **ITEMS)
            yield from _set(own, variant, str(contrast), "size", table, about="", **ITEMS)


def _same_weights(frame: pd.DataFrame) -> str:
    same = int(frame["same_weights"].sum()) if "same_weights" in frame else 0
    return f"{same} of the random sets have the same weights in both models" if same else ""


def _set(frame: pd.DataFrame, variant: str, condition: str, name: str, table: str, **more: Any) -> Iterator[Result]:
    random, file = frame.loc[frame["kind"] == "random", "estimate"].dropna(), f"{table}.parquet"
    span = {"null_low": random.min(), "null_high": random.max(), "null": f"{len(random)} random sets of heads"}
    for row in frame[frame["kind"] == "found"].to_dict("records"):
        null = span if len(random) else {}
        yield Result.made("ablate", variant, condition, name, row, file=file, **(null | more))
    if len(random):
        sizes = random.abs()
        given = {"estimate": random.mean(), "null_low": sizes.min(), "null_high": sizes.max(), "n": len(random)}
        words = {"unit": frame["unit"].iloc[0], "of": "sets", "null": "range of absolute values over the sets"}
        yield Result.made("ablate", f"random sets, {variant}", condition, name, given, file=file, **words)


def _rates(run: RunFolder) -> Iterator[Result]:
    """Refusal rates in free generation, and how far two variants' rates lie apart."""
    table, file = run.find_table("generation"), {"file": "generation.parquet", "unit": "rate"}
    for kind, own in table.groupby("cell_kind", sort=False) if table is not None else ():
        drawn, made = own["variant"].str.startswith("random_"), {}
        for row in own[~drawn].to_dict("records"):
            rate = Result.made("ablate", row["variant"], kind, "refusal rate", row, estimate=row["refused"], **file)
            made[row["variant"]] = rate
            yield rate
            yield _count(row["variant"], kind, "not parsed", int(row["unread"]), "generation", "ablate")
        random, null = own.loc[drawn, "refused"], {}
        if len(random):
            span = {"null_low": random.min(), "null_high": random.max(), "n": len(random)}
            words = {"of": "sets", "null": "range over the sets", "estimate": random.mean()}
            yield Result.made("ablate", "random sets", kind, "refusal rate", span, **words, **file)
            rise = float(random.max()) - (made["base"].estimate or 0.0) if "base" in made else 0.0
            null = {"null": f"{len(random)} random sets of heads", "null_low": min(0.0, rise), "null_high": rise}
        if {"ablated", "base"} <= set(made):
            yield _change("rise of the refusal rate", "ablated", made["ablated"], made["base"], **null)
        if {"reference", "patched"} <= set(made):
            yield _change("fall of the refusal rate", "patched", made["reference"], made["patched"])


def _change(name: str, variant: str, upper: Result, lower: Result, **null: Any) -> Result:
    """One refusal rate minus another with the interval of independent estimates."""
    one, other = ((float(r.estimate or 0.0), float(r.low or 0.0), float(r.high or 0.0)) for r in (upper, lower))
    estimate, low, high = independent_difference(one, other)
    ends = {"estimate": estimate, "low": low, "high": high, "n": lower.n}
    return Result.made("ablate", variant, upper.condition, name, ends, unit="rate", file=upper.file, **null)


def _truth(run: RunFolder, results: Results) -> Iterator[Result]:
    """What a bundled model is known to hold, and how much of it was selected and confirmed."""
    rows = [r for r in results.select(stage="heads", variant="base", kind="head") if r.selected and r.confirmed]
    top = list(dict.fromkeys(r.name for r in sorted(rows, key=lambda r: r.rank or 0)))
    card = None
    with suppress(OSError):  # a name that no folder can have
        pairs = [[int(n) for n in name.removeprefix("L").split("H")] for name in top]
        card = score_heads(pairs, run.model_folder()) if results.select(stage="heads") else None
    for layer, head in card["planted"] if card else ():
        name = f"L{layer}H{head}"
        yield Result("truth", "base", "planted heads", name, float(name in top), unit="selected", of="")
    if card:
        n = len(card["planted"])
        yield Result("truth", "base", "planted heads", "recall", card["recall"], n=n, of="planted heads")
