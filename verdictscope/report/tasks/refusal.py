"""The wording of a refusal study."""

from __future__ import annotations

from typing import Any

from verdictscope.report.wording import BASE, Example, Group, Point, Wording, heads_found, named, point, say, truth
from verdictscope.report.words import clip, some
from verdictscope.study.folder import RunFolder
from verdictscope.study.results import Result, Results

TARGET = ("base", "target")


def summary(results: Results) -> list[Point]:
    """What the model does, what can be read, what drops, which heads, and what ablating them changes."""

    def find(stage: str, name: str, variant: str = "base", condition: str = "target") -> Result | None:
        return results.find(stage, name, variant=variant, condition=condition)

    drop, plateau, final = (find("trace", f"normalised_{n}") for n in ("drop", "plateau", "final"))
    clear = drop is not None and drop.low is not None and drop.low > 0
    why = results.select(stage="trace", variant="base", condition="target", name="normalised_drop")
    failed = f"The drop could not be measured: {why[0].about}." if why and drop is None and why[0].about else ""
    rates = {v: find("ablate", "refusal rate", v) for v in ("base", "ablated", "reference", "patched")}
    control = {v: find("ablate", "refusal rate", v, "control") for v in ("base", "ablated")}
    probe, log_odds = results.find("probe", "AUROC"), find("ablate", "change of the log-odds", "ablated", "refusal")
    text = results.find("probe", "words of prompt and thinking", condition="baseline")
    heads = heads_found(results, "refusal")
    return [
        *point(
            "Behaviour",
            say(
                "Of the target requests whose answer could be parsed, the model refused {refused.value} and complied "
                "with {complied.value}; {unread.value} could not be parsed.",
                refused=find("generate", "refused"),
                complied=find("generate", "complied"),
                unread=find("generate", "not parsed"),
            ),
            files=["labels.parquet"],
        ),
        *point(
            "Probe",
            say(
                "A linear probe at {probe.about} predicts refusal on new prompts with an AUROC of {probe} "
                "({probe.n}); refits with permuted labels reach {probe.null}.",
                probe=probe,
            ),
            say("The words of prompt and thinking alone reach {text}.", text=text),
            files=["probe.json", "probe_nulls.parquet"],
        ),
        *point(
            "Drop",
            say(
                "In target requests that the model complied with, the normalised score (0: as in complied rollouts, "
                "1: as in refused ones) goes from {plateau.value} at the end of thinking to {final.value} at the last "
                "token before the answer: "
                + ("a drop of {drop}" if clear else "no drop distinguishable from 0, {drop}")
                + " ({drop.n}).",
                plateau=plateau,
                final=final,
                drop=drop,
            ),
            failed,
            say(
                "With the selected heads ablated, on the same tokens, it is {ablated}.",
                ablated=find("trace", "normalised_drop", "ablated_fixed"),
            ),
            files=["cliff.parquet"],
        ),
        *point(
            "Heads",
            f"Selected on one half of the prompts and confirmed on the other: {heads} (nats of refusal log-odds when "
            "the head alone is ablated)."
            if heads
            else "",
            truth(results),
            files=["heads.parquet"],
        ),
        *point(
            "Ablation",
            say(
                "Ablated together, on the model's own tokens, they change the refusal log-odds by {effect} nats "
                "({effect.n}); {effect.row.null} change it by {effect.null} (p = {effect.p}).",
                effect=log_odds,
            ),
            say(
                "In free generation the refusal rate of target requests goes from {base} to {ablated}.",
                base=rates["base"],
                ablated=rates["ablated"],
            ),
            say("That of control requests goes from {base} to {ablated}.", **control),
            say(
                "Patching the heads' weights into the reference model changes its refusal rate from {reference} to "
                "{transplanted}.",
                reference=rates["reference"],
                transplanted=rates["patched"],
            ),
            files=["ablation.parquet", "generation.parquet"],
        ),
        *point("Timing", *_timing(results), files=["cliff_checks.parquet"]),
    ]


def _timing(results: Results) -> list[str]:
    """Where in the rollout the score changes, and when each predictor settles."""

    def find(check: str, name: str) -> Result | None:
        return results.find("trace", name, condition=check)

    return [
        say(
            "In single rollouts the largest change of level lies in the closing tokens in {inside} of cases; it is "
            "{size} logits ({inside.n}).",
            inside=find("change point", "change lies in the closing tokens"),
            size=find("change point", "size of the change"),
        ),
        say(
            "The sign of the probe's score settles after {probe} of the thinking, that of a classifier of the text "
            "after {text} ({text.n}).",
            probe=find("commitment", "probe settled"),
            text=find("commitment", "text settled"),
        ),
        say(
            "With its thinking cut there, the model gives its final verdict from {forced} of the thinking on.",
            forced=find("commitment", "forced settled"),
        ),
    ]


def headline(results: Results) -> list[tuple[str, Result]]:
    """The numbers of terminal, comparison and documents."""
    same = ("ablated_fixed", "target")
    return named(
        results,
        ("probe: test AUROC", "probe", "AUROC", *BASE),
        ("probe: AUROC, labels permuted", "probe", "AUROC, labels permuted", *BASE),
        ("text: AUROC, words of prompt and thinking", "probe", "words of prompt and thinking", "base", "baseline"),
        ("normalised score, end of thinking", "trace", "normalised_plateau", *TARGET),
        ("normalised score, last token before the answer", "trace", "normalised_final", *TARGET),
        ("normalised drop", "trace", "normalised_drop", *TARGET),
        ("normalised drop, selected heads ablated", "trace", "normalised_drop", *same),
        ("normalised drop, reference model", "trace", "normalised_drop", "reference", "target"),
        ("excess of the drop over the ablated model's", "trace", "normalised_excess", *same),
        ("smallest effect of a head that counts", "heads", "delta", *BASE),
        ("recall of the planted heads", "truth", "recall", "base", "planted heads"),
        ("change of the log-odds, heads ablated", "ablate", "change of the log-odds", "ablated", "refusal"),
        (
            "change of the log-odds, heads patched into reference",
            "ablate",
            "change of the log-odds",
            "patched",
            "refusal",
        ),
        ("refusal rate, target requests", "ablate", "refusal rate", *TARGET),
        ("refusal rate, target, heads ablated", "ablate", "refusal rate", "ablated", "target"),
        ("refusal rate, target, random sets ablated", "ablate", "refusal rate", "random sets", "target"),
        ("refusal rate, control requests", "ablate", "refusal rate", "base", "control"),
        ("refusal rate, control, heads ablated", "ablate", "refusal rate", "ablated", "control"),
        ("refusal rate, target, reference model", "ablate", "refusal rate", "reference", "target"),
        ("refusal rate, target, heads patched into reference", "ablate", "refusal rate", "patched", "target"),
    )


GROUPS = (
    Group(
        "Permuted labels, control tasks and random directions",
        "What a probe of this kind reaches where there is nothing to predict. A random label per token or kind of "
        "prompt can be learned by recognising the token or the prompt.",
        {"stage": "probe", "kind": ("permuted", "control")},
    ),
    Group(
        "Text, length and position",
        "Classifiers of the text, its length and the token's position, on the same test prompts.",
        {"stage": "probe", "kind": "baseline"},
    ),
    Group(
        "The drop against its nulls",
        "Whole prompts are exchanged between the cells of a comparison (or paired, where both cells hold the same "
        "prompts), and whole rollouts are rotated; single tokens are never shuffled, since neighbours are alike.",
        {"stage": "trace", "kind": ("exchange", "paired", "shift")},
    ),
    Group(
        "Drop by variant and cell",
        "It should be absent in the reference model and with the selected heads ablated. Excess: the model under study "
        "minus this variant, paired by prompt.",
        {"stage": "trace", "name": ("normalised_drop", "normalised_excess"), "kind": ""},
        "{variant}, {condition}: {name}",
    ),
    Group(
        "Normaliser fitted on one kind of refusal",
        "The headline drop should appear whichever refusals the normaliser is fitted on, and refusals of the other "
        "kind should not drop. Where they do, the normalised score also separates kinds of refusal.",
        {"stage": "trace", "kind": ("normaliser from*", "anchors from*"), "name": "normalised_drop"},
        "{condition}",
    ),
    Group(
        "The statistic as published",
        "The same scores averaged with sequences padded by zeros, as in earlier code: a curve that rises by padding is "
        "no plateau.",
        {"stage": "trace", "kind": "as published"},
    ),
    Group(
        "Rollouts with a plateau and an end",
        "Truncated rollouts, thinking that never closes and thinking too short for a plateau are counted and left out.",
        {"stage": "trace", "kind": "counted"},
        "{variant}, {condition}: {name}",
    ),
    Group(
        "Strongest heads",
        "Each selected head ablated alone, on the prompts that did not select it; p adjusted over all components.",
        {"stage": "heads", "condition": "refusal", "selected": "True"},
    ),
    Group(
        "Concentration of the probe's attribution",
        "The strongest head's share of the attribution. Directions without meaning have strong heads as well.",
        {"stage": "heads", "condition": "attribution of the probe"},
    ),
    Group(
        "Refusal rates in free generation",
        "Random sets hold as many heads of the same layers. Control requests should be complied with throughout.",
        {"stage": "ablate", "name": "refusal rate", "condition": ("target", "control")},
        "{condition} requests, {variant}",
    ),
    Group(
        "Leakage checks",
        "Duplicate prompts across splits, label words in the text, labels predictable from length, source or position.",
        {"stage": "probe", "condition": "leakage"},
        "{name} ({kind}): {about}",
    ),
)

CELLS = ("harmful_complied", "harmful_refused", "harmless_complied", "harmless_refused", "unread")


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """The study as terms and their values."""
    study: Any = run.study
    sampling, labels = study.sampling, run.find_table("labels")
    base = None if labels is None else labels[labels["variant"] == "base"]
    many = (
        ""
        if base is None
        else f": {some(base['prompt'].nunique(), 'prompt')} in {some(base['group'].nunique(), 'group')}"
    )
    return [
        ("Prompts", study.data.prompts.name + many),
        ("Target requests", _where(study.data.prompts.target)),
        ("Control requests", _where(study.data.prompts.control)),
        (
            "Sampling",
            f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, at most {sampling.max_new_tokens:,} "
            f"tokens, {some(study.data.prompts.samples, 'rollout')} a prompt, seed {study.seed}",
        ),
    ]


def _where(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {str(v).lower() if isinstance(v, bool) else v}" for key, v in values.items())


def prompts(run: RunFolder) -> set[str]:
    """The distinct requests."""
    rollouts = run.find_table("rollouts")
    return set() if rollouts is None else set(rollouts["prompt_text"])


def examples(run: RunFolder) -> list[Example]:
    """The first test rollout of each cell of the model under study that thinks, or the first where none does."""
    labels, rollouts = run.find_table("labels"), run.find_table("rollouts")
    if labels is None or rollouts is None:
        return []
    split = "split" if "split" in labels else "part"
    base = labels[(labels["variant"] == "base") & (labels[split] == "test")]
    texts = rollouts[rollouts["variant"] == "base"].drop_duplicates("rollout").set_index("rollout")
    thinks = base["rollout"].map(texts["thinking_text"]).fillna("").astype(str).str.strip().ne("")
    first = base.assign(silent=~thinks).sort_values("silent", kind="stable").drop_duplicates("cell")
    firsts = first.set_index("cell")["rollout"]
    found = []
    for cell in CELLS:
        if cell in firsts.index and firsts[cell] in texts.index:
            row = texts.loc[firsts[cell]]
            written = (row[f"{part}_text"] for part in ("prompt", "thinking", "answer"))
            shown = (clip(text) if isinstance(text, str) else "" for text in written)  # no thinking is NaN
            parts = tuple(zip(("Prompt", "Thinking", "Answer"), shown, strict=True))
            found.append(Example(cell.replace("_", " request, "), clip(firsts[cell], 120), parts))
    return found


WORDING = Wording(
    summary=summary,
    headline=headline,
    groups=GROUPS,
    facts=facts,
    examples=examples,
    prompts=prompts,
    figures={
        "trace": "The score around the end of thinking",
        "probe_map": "Where refusal can be read",
        "position_transfer": "Fitted at one position, tested at another",
        "ood_": "Fitted on one set of prompts, tested on another",
        "erased_trace": "The trace with harm erased",
        "heads": "The effect of every head",
        "ablation": "The selected heads ablated",
    },
    scale=("as when complying", "as when refusing"),
    about_examples="The first of the test split that thinks, of each cell.",
)
