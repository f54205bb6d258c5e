"""The tables of a run folder: columns with type, unit and meaning. ``docs/formats.md`` is generated from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """One column: ``str``, ``int``, ``float``, ``bool`` or ``list``, its unit, and what it holds."""

    type: str
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """One table of a run folder.

    Attributes:
        stage: the stage that writes it.
        rows: what a row is.
        columns: names of all columns, of which :data:`COMMON` describes those that are not in ``own``.
        own: columns that mean something particular here.
    """

    stage: str
    rows: str
    columns: tuple[str, ...]
    own: Mapping[str, Column] = field(default_factory=dict)

    def column(self, name: str) -> Column:
        """The description of a column."""
        return self.own.get(name) or COMMON[name]


def _s(meaning: str) -> Column:
    return Column("str", meaning)


def _i(meaning: str, unit: str = "") -> Column:
    return Column("int", meaning, unit)


def _f(meaning: str, unit: str = "") -> Column:
    return Column("float", meaning, unit)


def _b(meaning: str) -> Column:
    return Column("bool", meaning)


INTERVAL = "estimate low high n"
EFFECT = f"{INTERVAL} unit seed delta p p_adjusted"
"""The columns of an ``Effect``."""

COMMON: dict[str, Column] = {
    "variant": _s(
        "model that wrote or was read: `base`, `reference`, `ablated` (heads ablated, text regenerated), "
        "`ablated_fixed` (heads ablated, the base model's tokens), "
        "`transplanted` (heads patched into the reference model), `random_N`"
    ),
    "rollout": _s("id of the rollout"),
    "prompt": _s("id of the prompt"),
    "group": _s("id of the group; rows of one group never stand on both sides of a split"),
    "split": _s("`train`, `validation` or `test`"),
    "part": _s("split: `train`, `validation` or `test`"),
    "cell": _s("what was asked and what was done, such as `harmful_complied`; `unread` where it could not be parsed"),
    "target": _b("whether the study's question concerns the row: target requests"),
    "control": _b("control requests"),
    "estimate": _f("the estimate"),
    "low": _f("lower end of the 95 % interval"),
    "high": _f("upper end"),
    "n": _i("independent units (prompt or item groups) behind the estimate"),
    "unit": _s("unit of the estimate: `AUROC`, `rate`, `nats`, `logit`, `normalised` …"),
    "seed": _i("seed of the resampling"),
    "delta": _f("smallest effect that counts, in `unit`"),
    "p": _f("p-value"),
    "p_adjusted": _f("p-value adjusted for the family"),
    "q": _f("Benjamini-Hochberg q-value"),
    "name": _s("what was estimated"),
    "kind": _s("kind of row"),
    "about": _s("remark, such as how a row was made"),
    "reason": _s("why there is no number"),
    "definition": _s("what the rate counts"),
    "layer": _i("layer, from 0"),
    "head": _i("query head, from 0; -1 for other components"),
    "heads": _s("the heads ablated"),
    "component": _s("`head`, `attn` or `mlp` (a whole sublayer), or another term of the attribution"),
    "readout": _s("`probe`, the decision's log-odds, or another readout"),
    "C": _f("inverse regularisation strength"),
    "site": _s("hook point"),
    "set": _s("name of the set of heads"),
    "fit": _s("where the probe was fitted"),
    "read": _s("where it was tested"),
    "auroc": _f("AUROC on test rows", "AUROC"),
    "n_fit": _i("rollouts fitted on"),
    "null_mean": _f("mean of the null"),
    "null_low": _f("lower end of the null's range"),
    "null_high": _f("upper end of the null's range"),
    "selectivity": _f("AUROC minus the mean of the null"),
    "held": _f("AUROC among requests of equal harm", "AUROC"),
    "held_low": _f("lower end of its interval"),
    "held_high": _f("upper end"),
    "by": _s("column of the prompts that names the sets"),
    "pos": _i("position in the rollout, from 0"),
    "segment": _s("segment of the token"),
    "token": _s("text the token adds"),
    "token_id": _i("id of the token"),
    "score": _f("the readout at the token", "see `unit`, else logit"),
    "finish": _s("`stop`, or `length` where the token limit cut it"),
    "n_thinking": _i("thinking tokens", "tokens"),
    "rel_think_end": _i("position relative to the first closing token of the thinking", "tokens"),
    "rel_answer": _i("position relative to the first answer token; -1 is the last token before it", "tokens"),
    "rel_prompt_end": _i("position relative to the last prompt token", "tokens"),
    "rel_thinking": _i("position relative to the first thinking token", "tokens"),
    "rel_verdict": _i("position relative to the first verdict token", "tokens"),
    "thinking_fraction": _f("position within the thinking, 0 to 1"),
    "low_all": _f("lower end of the simultaneous band over the whole curve"),
    "high_all": _f("upper end"),
    "n_groups": _i("groups behind the estimate"),
    "n_missing": _i("rollouts without a value here"),
    "rank": _i("place in the ranking by effect on the exploring half"),
    "found": _b("selected: among the first `heads.k` of the ranking"),
    "selected": _b("confirmed: `p_adjusted` at most 0.05 on the reporting half"),
    "declared": _b("confirmed, with content spared"),
    "effect": _f("change of the decision's log-odds when the component alone is ablated, reporting half", "nats"),
    "effect_explore": _f("the same on the exploring half", "nats"),
    "reader": _s("the predictor: `probe`, `text`, `forced` (the model, its thinking closed there), `lens` …"),
    "commit": _i("thinking tokens by which it has settled", "tokens"),
    "after": _i("thinking tokens by which it had not settled yet", "tokens"),
    "sign": _i("the sign it settles on"),
    "thinking": _s("`off`, or `on`: after the judge's own thinking"),
    "condition": _s("`plain`, `control` or the name of a cue"),
    "contrast": _s("`content`, `position` or the name of a cue"),
    "order": _s("`AB` (answer a shown first) or `BA`"),
    "item": _s("id of the item"),
    "label": _s("the correct verdict: `A`, `B` or `tie`"),
    "verdict": _s("the parsed verdict in the item's own frame; missing where it could not be parsed"),
    "status": _s("`ok`, or why there is no verdict"),
    "toward": _s("what the cue speaks for, and whether that is right"),
    "run": _i("repeat of the same prompt, from 0"),
}

ROLLOUT = "variant rollout prompt group ids segments n_prompt finish temperature top_p max_new_tokens seed engine tags"
RELATIVE = "group finish n_thinking rel_think_end rel_answer rel_prompt_end rel_thinking rel_verdict thinking_fraction"

_ROLLOUTS = {
    "ids": Column("list", "token ids in order"),
    "segments": Column("list", "(segment, start, stop), a partition of the ids"),
    "n_prompt": _i("tokens the model was shown", "tokens"),
    "n_forced": _i("tokens after the prompt that this rollout did not draw", "tokens"),
    "temperature": _f("of the sampling"),
    "top_p": _f("of the sampling"),
    "max_new_tokens": _i("of the sampling", "tokens"),
    "seed": _i("of the sampling"),
    "engine": _s("what wrote it"),
    "tags": _s("JSON object of the prompt file's other columns"),
    "thinking_text": _s("decoded for people, never read back"),
    "answer_text": _s("the same"),
    "prompt_text": _s("the same"),
}
_LABELS = {
    "harm": _b("the varied factor of the prompt"),
    "refused": _b("the outcome; missing where it could not be parsed"),
    "cut_off": _s("where the token limit cut it: `thinking` or `answer`"),
    "reason": _s("why the outcome is missing: `cut`, `unclosed`, `empty` or `language`"),
}
_TRANSFER = {
    "kind": _s("`within` (new prompts, same place), `transfer`, or `left out`"),
    "p": _f("one-sided, against refits with permuted labels"),
    "p_adjusted": _f("adjusted over all cells that are not `within` (Westfall and Young)"),
}
_SETS = {
    "left": _f("share of the unedited value that remains (of a judge)"),
    "kind": _s("`base` (the value itself), `found` (selected heads) or `random` (changes from base)"),
}


def _t(stage: str, rows: str, columns: str, /, **own: Column) -> Table:
    return Table(stage, rows, tuple(columns.split()), own)


TABLES: dict[str, Table] = {
    "rollouts": _t("generate", "a rollout", f"{ROLLOUT} thinking_text answer_text prompt_text n_forced", **_ROLLOUTS),
    "labels": _t(
        "generate",
        "a rollout's outcome and split",
        "variant rollout prompt group harm refused cell target control finish cut_off reason part",
        **_LABELS,
    ),
    "rollouts_ablated": _t(
        "ablate",
        "a rollout written under an edit",
        f"{ROLLOUT} thinking_text answer_text prompt_text n_forced",
        **_ROLLOUTS,
    ),
    "labels_ablated": _t(
        "ablate",
        "its outcome",
        "variant rollout prompt group harm refused cell target control finish cut_off reason part",
        **_LABELS,
    ),
    "probe": _t(
        "probe",
        "a layer and penalty of the sweep",
        "layer C auroc_validation se chosen n_rows n_groups",
        auroc_validation=_f("AUROC on validation rows", "AUROC"),
        se=_f("its standard error over groups"),
        chosen=_b("the probe that is reported"),
        n_rows=_i("training rows"),
        n_groups=_i("training groups"),
    ),
    "probe_map": _t(
        "probe",
        "a layer at one position class",
        "layer position segment order auroc low high n",
        position=_s("position class, such as `thinking 3/8` or `think_end 2`"),
        order=_i("order of the classes along the rollout"),
        auroc=_f("AUROC of the layer's probe on validation rows", "AUROC"),
    ),
    "probe_nulls": _t(
        "probe",
        "a null, control or baseline of the probe",
        f"kind name {INTERVAL} p selectivity about",
        kind=_s("`permuted`, `control` (control tasks, random directions) or `baseline` (text, length, position)"),
        estimate=_f("mean over draws; of a baseline its test AUROC", "AUROC"),
        low=_f("lower end of the range over draws; of a baseline, of its interval"),
        high=_f("upper end"),
        n=_i("draws; of a baseline, prompt groups"),
    ),
    "leaks": _t(
        "probe",
        "a finding of the leakage checks",
        "check what severity statistic value n p p_adjusted",
        check=_s("the check"),
        what=_s("what it found"),
        severity=_s("`leak` (test rows were known) or `confounded` (something else predicts the label)"),
        statistic=_s("what `value` is"),
        value=_f("the statistic"),
        n=_i("prompt groups"),
    ),
    "position_transfer": _t(
        "transfer",
        "a pair of position classes",
        "fit read kind auroc low high n n_fit null_mean null_low null_high selectivity p p_adjusted held held_low "
        "held_high reason",
        **_TRANSFER,
    ),
    "ood": _t(
        "transfer",
        "a pair of sets of prompts",
        "fit read kind auroc low high n n_fit null_mean null_low null_high selectivity p p_adjusted held held_low "
        "held_high reason by",
        **_TRANSFER,
    ),
    "trace": _t(
        "trace", "a token of a rollout", f"variant rollout pos segment token_id readout layer score {RELATIVE}"
    ),
    "trace_mean": _t(
        "trace",
        "a position of the averaged trace",
        f"variant cell target rel_think_end {INTERVAL} low_all high_all n_groups kind",
        kind=_s("`raw` (logit) or `normalised`"),
        n=_i("rollouts"),
    ),
    "cliff": _t(
        "trace",
        "a statistic of the drop, by cell and variant",
        f"variant cell target name {EFFECT} n_rollouts reason",
        name=_s(
            "`normalised_` or `raw_` with `plateau`, `final`, `drop`; `normalised_excess`: the drop minus a variant's"
        ),
        n_rollouts=_i("rollouts"),
    ),
    "cliff_checks": _t(
        "trace",
        "a control of the drop",
        f"check variant cell name {INTERVAL} unit p about",
        check=_s("`counted`, `exchange`, `paired`, `shift`, `normaliser from CELL`, `as published`, `change point` …"),
    ),
    "change_points": _t(
        "trace",
        "a rollout of the headline cell",
        "rollout location low high size size_low size_high correlation deviation n drift reason location_rel_think_end "
        "low_rel_think_end high_rel_think_end",
        location=_i("token of the largest change of level, from the start of thinking", "tokens"),
        low=_i("lower end of its interval", "tokens"),
        high=_i("upper end", "tokens"),
        size=_f("the change", "logit"),
        size_low=_f("lower end", "logit"),
        size_high=_f("upper end", "logit"),
        correlation=_f("correlation of neighbouring tokens"),
        deviation=_f("residual standard deviation", "logit"),
        n=_i("tokens"),
        drift=_i("slow components that fit better; above 0 the intervals are too short"),
        location_rel_think_end=_i("location relative to the first closing token", "tokens"),
        low_rel_think_end=_i("lower end", "tokens"),
        high_rel_think_end=_i("upper end", "tokens"),
    ),
    "commitment": _t("trace", "a rollout and a predictor", "rollout group reader n_thinking commit after sign reason"),
    "erasure": _t(
        "erase",
        "a probe with a concept erased from the states",
        f"name {EFFECT} read probe erased part draw",
        read=_s("the concept, the outcome, or the cell of a trace"),
        probe=_s("`old` (as fitted, on erased states) or `refitted`"),
        erased=_s("`none`, `concept`, `random` (a random direction) or `permuted` (the concept's labels permuted)"),
        draw=_i("draw of the null"),
    ),
    "erased_trace": _t(
        "erase",
        "a position of the averaged trace with the concept erased",
        f"probe erased cell target rel_think_end kind {INTERVAL} n_groups random_low random_high permuted_low "
        "permuted_high",
        probe=_s("`old` or `refitted`"),
        erased=_s("`none` or `concept`"),
        kind=_s("`raw` or `normalised`"),
        n=_i("rollouts"),
        random_low=_f("range of the curve over random directions, lower end"),
        random_high=_f("upper end"),
        permuted_low=_f("range over permuted concepts, lower end"),
        permuted_high=_f("upper end"),
    ),
    "heads": _t(
        "heads",
        "a head or sublayer and a contrast of the decision",
        f"variant contrast size component layer head {INTERVAL} unit seed delta p p_adjusted q selected content_loss "
        "declared effect_explore content_loss_explore rank found found_again attribution attribution_probe direct "
        "direct_low direct_high compensated compensated_low compensated_high",
        size=_f("the contrast unedited", "nats"),
        estimate=_f(
            "change of the contrast when the component alone is zero-ablated, report split; of a judge how much "
            "smaller it is",
            "nats",
        ),
        content_loss=_f("how much smaller content is (of a judge)", "nats"),
        content_loss_explore=_f("the same on the explore split", "nats"),
        found_again=_f("share of resamples of the explore split in which it is selected"),
        attribution=_f("direct logit attribution to the contrast of the decision", "nats"),
        attribution_probe=_f("direct logit attribution to the probe (of outcomes)", "logit"),
        direct=_f("change of the log-odds when only its output is removed from the last residual stream", "nats"),
        direct_low=_f("lower end", "nats"),
        direct_high=_f("upper end", "nats"),
        compensated=_f("`direct` minus `estimate`: what later layers restore", "nats"),
        compensated_low=_f("lower end", "nats"),
        compensated_high=_f("upper end", "nats"),
    ),
    "attribution": _t(
        "heads",
        "a component's direct logit attribution to a contrast of a readout",
        f"component layer head {INTERVAL} readout contrast variant",
    ),
    "writers": _t(
        "heads",
        "a null of the concentration of the probe's attribution",
        "layer head kind n top null_mean null_low null_high p same_head readout",
        kind=_s("`random` directions or `permuted` probes"),
        n=_i("draws"),
        top=_f("largest head's share of all heads' absolute attribution"),
        same_head=_f("share of draws in which the same head is largest"),
    ),
    "ablation": _t(
        "ablate",
        "a contrast of the decision, or a rate, under a set of heads zero-ablated on the base model's tokens",
        f"contrast set kind heads {INTERVAL} unit left p delta about norm",
        estimate=_f("its mean; of outcomes the change of the unedited mean"),
        norm=_f("output norm of the set over that of the selected heads"),
        **_SETS,
    ),
    "curve": _t(
        "ablate",
        "the first k heads of the ranking ablated together, or k random ones",
        f"k share kind set heads name {EFFECT}",
        k=_i("heads ablated"),
        share=_f("share of all heads"),
        kind=_s("`top` or `random`"),
    ),
    "patched": _t(
        "ablate",
        "the decision of the reference model with a set of heads patched in",
        f"contrast set kind heads {INTERVAL} unit left p same_weights delta",
        estimate=_f("change of the unedited mean", "nats"),
        same_weights=_b("both models have the same weights there"),
        **_SETS,
    ),
    "generation": _t(
        "ablate",
        "refusal rate of a variant in free generation, test split",
        "variant cell_kind refused low high n rollouts unread",
        cell_kind=_s("`target`, `control`, `harmful` or `harmless`"),
        refused=_f("refusal rate", "rate"),
        rollouts=_i("rollouts parsed"),
        unread=_i("rollouts that could not be parsed"),
    ),
    "tokens": _t(
        "tokens",
        "a token of an example rollout",
        "rollout pos token token_id segment readout layer unit score variant cell target",
    ),
    "items": _t(
        "generate", "an item", "item group label part target", target=_s("the side that control and cues name")
    ),
    "verdicts": _t(
        "generate",
        "a verdict",
        "variant condition thinking target part item group judge order run verdict shown probability label status "
        "source rollout format said mass n_thinking answer p_first p_second p_tie",
        target=_s("the side named"),
        judge=_s("who judged"),
        shown=_s("the verdict as shown: `first`, `second` or `tie`"),
        probability=_f("of the verdict among the label strings"),
        source=_s("dataset"),
        format=_s("prompt format"),
        said=_s("the label string"),
        mass=_f("probability that any label string comes there"),
        answer=_s("as written, if it was"),
        p_first=_f("probability of the first answer among the label strings"),
        p_second=_f("of the second"),
        p_tie=_f("of a tie"),
    ),
    "bias_parts": _t(
        "generate",
        "a contrast of the verdict's log-odds",
        f"variant thinking name items {INTERVAL} unit",
        name=_s("`content`, `position` or the name of a cue"),
        items=_i("items"),
    ),
    "verdict_rates": _t(
        "results",
        "a rate of the verdicts",
        f"variant thinking condition name {INTERVAL} unit verdicts missing definition",
        verdicts=_i("verdicts behind the rate"),
        missing=_i("groups without one"),
    ),
    "verdict_tokens": _t(
        "heads",
        "a component, a contrast and a span of the prompt",
        f"variant thinking contrast position component layer head span {INTERVAL} tokens",
        position=_s("where the readout is taken"),
        span=_s("span attended to: an answer, the cue, the instruction …"),
        estimate=_f("attribution through the span", "nats"),
        tokens=_f("mean length of the span", "tokens"),
    ),
    "mitigations": _t(
        "mitigate",
        "a number under a mitigation",
        f"mitigation kind bias thinking name {INTERVAL} unit definition about",
        mitigation=_s("what was done"),
        kind=_s("`none`, `ablate`, `scale`, `erase`, `steer` or `prompt`"),
        bias=_s("the bias it is meant for, or `all`"),
    ),
    "verdict_probe": _t(
        "probe",
        "a probe of the verdict, its nulls and baselines",
        f"variant place kind name layer C {INTERVAL} p selectivity about",
        place=_s("position the states are from"),
        kind=_s("`test`, `part`, `permuted`, `control`, `baseline` or `layer`"),
        estimate=_f("AUROC; of a null its mean over draws", "AUROC"),
    ),
    "correctness": _t(
        "probe",
        "a number of the probe of the correct answer",
        f"variant kind condition name layer {INTERVAL} groups unit null_mean null_low null_high p about",
        n=_i("items"),
        groups=_i("item groups"),
    ),
    "bias_detector": _t(
        "probe",
        "a detector of changed verdicts, fitted on one bias and tested on another",
        "variant label fit read kind auroc low high n n_fit positive null_mean null_low null_high selectivity p layer "
        "C words words_low words_high odds odds_low odds_high reason",
        label=_s("what it predicts: `cued`, `flip` or `yield`"),
        kind=_s("`within`, `transfer` or `left out`"),
        positive=_i("positive test rows"),
        words=_f("AUROC of a classifier of the words", "AUROC"),
        words_low=_f("lower end"),
        words_high=_f("upper end"),
        odds=_f("AUROC of the verdict's own log-odds", "AUROC"),
        odds_low=_f("lower end"),
        odds_high=_f("upper end"),
    ),
    "verdict_trace": _t(
        "trace",
        "a token of a judge's rollout",
        f"variant condition item order target label verdict status rollout pos segment token_id readout layer score "
        f"{RELATIVE} run",
        target=_s("the side named"),
    ),
    "verdict_trace_mean": _t(
        "trace",
        "a position of the averaged trace of a contrast",
        f"variant condition toward part readout layer place name {INTERVAL} low_all high_all n_groups n_missing",
        part=_s("the contrast"),
        place=_i("position class through the thinking"),
        n=_i("items"),
    ),
    "verdict_timing": _t("trace", "when a predictor settles", f"name {EFFECT} about"),
    "verdict_commitment": _t(
        "trace",
        "a rollout and a predictor",
        "rollout group reader n_thinking commit after sign reason item order status variant condition",
    ),
    "forced_lengths": _t(
        "trace",
        "a contrast with the thinking cut after a number of tokens",
        f"variant condition toward part step allowed {INTERVAL} low_all high_all n_groups n_missing ended",
        part=_s("the contrast"),
        step=_i("index of the length"),
        allowed=_i("thinking tokens allowed; missing where it ends by itself", "tokens"),
        n=_i("items"),
        ended=_f("share of rollouts whose thinking ended before"),
    ),
    "results": _t(
        "results",
        "a reported number; (stage, variant, condition, name) names it",
        "stage variant condition name estimate low high n of unit kind delta null null_low null_high p rank selected "
        "confirmed about file",
        stage=_s("stage, `contrasts` of verdicts, or `truth` of a bundled model"),
        condition=_s("what it was measured under: a cell, cue, contrast or mitigation; `all` without one"),
        of=_s("what `n` counts"),
        null=_s("what it is compared with"),
        rank=_i("place of a head in its contrast's ranking"),
        selected=_b("the exploring half selected the head"),
        confirmed=_b("its effect exceeds `delta` on the reporting half"),
        p=_f("p-value, adjusted where a family was tested"),
        about=_s("the contrast a mitigation is meant for, where a probe was fitted, or a remark"),
        file=_s("table it comes from"),
    ),
}

for _name, _of in (("trace_ablated", "trace"), ("trace_mean_ablated", "trace_mean"), ("cliff_ablated", "cliff")):
    TABLES[_name] = Table(
        "ablate", f"as {_of}.parquet, of the variants under an edit", TABLES[_of].columns, TABLES[_of].own
    )

KINDS = {"int": "iuf", "float": "fiu", "bool": "b", "str": "OT", "list": "O"}
"""Kinds of NumPy types that a declared type may be stored as; a column without a value may be of any."""


def faults(name: str, table: pd.DataFrame) -> list[str]:
    """Where a table is not as declared: columns missing, undeclared or of another type; empty where it is."""
    if name not in TABLES:
        return [f"{name} is not declared"]
    declared = TABLES[name]
    found = [f"{name} lacks {c}" for c in declared.columns if c not in table]
    found += [f"{name}.{c} is not declared" for c in table.columns if c not in declared.columns]
    for column in (c for c in declared.columns if c in table and table[c].notna().any()):
        values = table[column].dropna()
        kind = "T" if str(values.dtype) in ("str", "string") else getattr(values.dtype, "kind", "O")
        fits = kind in KINDS[declared.column(column).type]
        if not fits or (declared.column(column).type == "int" and kind == "f" and (values % 1 != 0).any()):
            found.append(f"{name}.{column} is {values.dtype}, declared {declared.column(column).type}")
    return found
