"""The wording of a judge study."""

from __future__ import annotations

from typing import Any

from verdictscope.report.wording import Example, Group, Point, Wording, heads_found, listed, named, point, say, truth
from verdictscope.report.words import clip, estimate, number, some, value
from verdictscope.study.criteria.bias import CONTENT, EVERY, POSITION, SHOWN, biases, moving
from verdictscope.study.folder import RunFolder
from verdictscope.study.results import Result, Results

AFTER = ", after thinking"
CONTROL = "control"


def summary(results: Results) -> list[Point]:
    """How the judge decides, what moves it, which heads, and what helps."""

    def rate(name: str, condition: str = "plain") -> Result | None:
        return results.find("generate", name, condition=condition)

    cues = [row.name for row in biases(results) if row.name != POSITION]
    test = results.find("probe", "AUROC", condition="last")
    right = results.find("probe", "AUROC", condition="correctness, plain")
    return [
        *point(
            "Without a cue",
            say(
                "The judge names the better answer in {right.percent} of verdicts ({right.n}).", right=rate("accuracy")
            ),
            say("Where both are equally good, it names the first in {first.percent}.", first=rate("first_in_ties")),
            say("In both orders it names the same answer for {same.percent} of pairs.", same=rate("consistency")),
            say("After its own thinking, accuracy is {right.percent}.", right=rate("accuracy", f"plain{AFTER}")),
            files=["verdict_rates.parquet"],
        ),
        *point(
            "With a cue",
            *(
                say(
                    f"With the {clip(cue, 60)} cue it names the side of the cue in {{follows.percent}}, and the better "
                    "answer in {wrong.percent} where the cue names the other.",
                    follows=rate("follows", cue),
                    wrong=rate("accuracy_named_wrong", cue),
                )
                for cue in cues
            ),
            say("With the control sentence: {follows.percent}.", follows=rate("follows", CONTROL)),
            say("Cues name the better answer as often as the other; 50 % is fair.", follows=rate("follows", CONTROL)),
            files=["verdict_rates.parquet"],
        ),
        *_moved(results),
        *_heads(results),
        *_helps(results),
        *(
            point(
                "Probes",
                say(
                    "A probe predicts the verdict with an AUROC of {test} ({test.n}), permuted labels {test.null}.",
                    test=test,
                ),
                say(
                    "Random directions at the same layer reach {random.value} ({random.null}).",
                    random=results.find("probe", "random directions", condition="last"),
                ),
                say("A probe of the correct answer reaches {right}.", right=right),
                *(_knows(results, c) for c in ("plain", *(r.name for r in moving(results) if r.name != POSITION))),
                files=["verdict_probe.parquet", "correctness.parquet"],
            )
        ),
    ]


def _moved(results: Results) -> list[Point]:
    content, rows = results.find("contrasts", CONTENT, condition=SHOWN), biases(results)
    if not rows:
        return []
    large = [row.name for row in moving(results)]
    parts = [f"{clip(row.name, 60)} {estimate(row)}" for row in ([content] if content else []) + rows if row]
    beyond = listed([clip(name, 60) for name in large]) or "none of the biases"
    text = f"Contrasts of the verdict's log-odds, in nats: {listed(parts)}."
    return point("Contrasts", text, f"Beyond the smallest effect that counts: {beyond}.", files=["bias_parts.parquet"])


def _heads(results: Results) -> list[Point]:
    sentences = []
    for row in moving(results):
        name, heads = clip(row.name, 60), heads_found(results, row.name)
        sentences.append(f"{name}: {heads or 'none confirmed'}.")
        sets = results.find("ablate", "size", variant="random sets, ablated", condition=row.name)
        sentences.append(
            say(
                "With all selected heads ablated, {left} of {base.value} nats remain; {sets.row.n} random sets of "
                "heads leave at least {least}.".replace("{least}", (number(sets.null_low, 2) if sets else "–")),
                base=results.find("ablate", "size", condition=row.name),
                left=results.find("ablate", "size", variant="ablated", condition=row.name),
                sets=results.find("ablate", "size", variant="random sets, ablated", condition=row.name),
            )
        )
    first = "Selected on one half of the items and confirmed on the other (nats by which the bias shrinks):"
    files = ["heads.parquet", "ablation.parquet"]
    return point("Heads", first, *sentences, truth(results), files=files) if sentences else []


def _helps(results: Results) -> list[Point]:
    rows = [r for r in results.select(stage="mitigate") if AFTER not in r.condition and r.estimate is not None]
    names, sentences = [row.name for row in moving(results)], []
    for condition in dict.fromkeys(r.condition for r in rows):
        own = {r.name: r for r in rows if r.condition == condition}
        right = own.get("accuracy")
        if right is None or right.kind not in ("none", "ablate", "prompt"):
            continue
        if right.kind != "none" and right.about != EVERY:
            continue
        left = [f"{clip(name, 60)} {value(own[name])}" for name in names if name in own]
        what = "Without a mitigation" if right.kind == "none" else f"“{clip(condition, 120)}”"
        sentences += [say(f"{what}: {listed(left)} nats, accuracy {{right.percent}}.", right=right)] if left else []
    return point("Mitigations", *sentences, files=["mitigations.parquet"])


def _knows(results: Results, condition: str) -> str:
    """Whether the states hold the correct answer where the verdict is wrong."""
    at = f"correctness, {condition}"
    wrong = results.find("probe", "right where the verdict is wrong", condition=at)
    gap = results.find("probe", "knows better than it says", condition=at)
    clear = gap is not None and gap.low is not None and gap.low > 0
    verdict = "more accurate" if clear else "not clearly more accurate"
    text = (
        f"Where the verdict is wrong ({clip(condition, 60)}), it is correct in {{wrong}} ({{wrong.n}}): {verdict} than "
    )
    return say(text + "the verdict, {gap}.", wrong=wrong, gap=gap)


def headline(results: Results) -> list[tuple[str, Result]]:
    """The numbers of terminal, comparison and documents."""
    rates = {"accuracy": "accuracy", "first_in_ties": "first answer in ties", "consistency": "same in both orders"}
    rows = [(label, "generate", name, "base", "plain") for name, label in rates.items()]
    every = [row.name for row in results.select(stage="contrasts", variant="base", condition=SHOWN)]
    cues = [name for name in every if name not in (CONTENT, POSITION)]
    rows += [(f"follows the {cue} cue", "generate", "follows", "base", cue) for cue in (*cues, CONTROL)]
    rows += [(f"{name}, log-odds", "contrasts", name, "base", SHOWN) for name in every]
    rows += [(f"{name}, log-odds, reference model", "contrasts", name, "reference", SHOWN) for name in every]
    left = "selected heads ablated"
    rows += [(f"{name}, {left}", "ablate", "size", "ablated", name) for name in every]
    rows += [(f"accuracy, {left}", "ablate", "size", "ablated", "accuracy")]
    rows += [("smallest effect of a head that counts", "heads", "delta", "base", "all")]
    rows += [("recall of the planted heads", "truth", "recall", "base", "planted heads")]
    rows += [("probe of the verdict: test AUROC", "probe", "AUROC", "base", "last")]
    rows += [("probe of the correct answer: test AUROC", "probe", "AUROC", "base", "correctness, plain")]
    return named(results, *rows)


GROUPS = (
    Group(
        "Rates by condition",
        "Over all items in both orders; verdicts that could not be parsed are neither correct nor for either side.",
        {
            "stage": "generate",
            "name": ("accuracy", "first_in_ties", "consistency", "follows", "accuracy_named_wrong", "pull"),
            "variant": "base",
        },
        "{condition}: {name}",
    ),
    Group(
        "The reference model's contrasts",
        "A model that differs only in the bias: content as in the model under study, every bias near 0.",
        {"stage": "contrasts", "variant": "reference"},
        "{name}, {condition}",
    ),
    Group(
        "Contrasts without and after thinking",
        "Content: towards the better answer. Position: towards the answer shown first. Cue: towards the side named.",
        {"stage": "contrasts", "variant": "base"},
        "{name}, {condition}",
    ),
    Group(
        "Selected heads ablated against random sets",
        "Random sets hold as many heads of the same layers: with them ablated everything should stay.",
        {"stage": "ablate", "name": "size"},
        "{condition}, {variant}",
    ),
    Group(
        "What the probe of the verdict reaches where there is nothing to predict",
        "Labels permuted between items, random labels and random directions, and classifiers of words and lengths.",
        {"stage": "probe", "condition": "last", "kind": ("test", "permuted", "control", "baseline")},
    ),
    Group(
        "Detectors of a biased verdict",
        "Whether a cue or the order changed the verdict, predicted from the states of new items, within one bias and "
        "from one to another.",
        {"stage": "probe", "condition": "bias detector*"},
        "{condition}: {name}",
    ),
    Group(
        "When the verdict settles",
        "From which share of the thinking on a predictor names one answer until the end.",
        {"stage": "trace", "condition": "commitment"},
    ),
    Group(
        "The verdict after part of the thinking",
        "Content, in nats, with the thinking cut after a number of tokens.",
        {"stage": "trace", "condition": "plain, thinking cut*", "variant": "base", "name": "content*"},
        "{name}: {about} tokens",
    ),
)


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """The study as terms and their values."""
    study: Any = run.study
    cues = "; ".join(f"{name}: {_cue(section)}" for name, section in study.data.cues.items())
    items = run.find_table("items")
    many = "" if items is None else f": {some(len(items), 'pair')} in {some(items['group'].nunique(), 'group')}"
    thinking = (
        f" and after thinking, sampled at temperature {study.sampling.temperature:g}, at most "
        f"{study.sampling.max_new_tokens:,} tokens"
        if study.data.verdicts.thinking
        else ""
    )
    return [
        ("Items", f"{study.data.items.file}, loaded as {study.data.items.reader}{many}"),
        ("Prompt", study.data.items.format),
        ("Cues", cues),
        ("Control", f"{_cue(study.data.control)}; names the same side as the cues without speaking for it"),
        ("Decision", "log-odds of the answer shown first against the second; every item in both orders"),
        ("Thinking", f"verdicts without thinking{thinking}; seed {study.seed}"),
    ]


def _cue(section: Any) -> str:
    if section.kind is not None:
        return f"the shipped cue {section.kind}"
    more = f" (one of {len(section.texts)})" if len(section.texts) > 1 else ""
    return f"“{clip(section.texts[0], 160)}”{more}"


def prompts(run: RunFolder) -> set[str]:
    """Source and id of every item."""
    table = run.find_table("verdicts")
    return set() if table is None else set(table["source"].astype(str) + " " + table["item"].astype(str))


def examples(run: RunFolder) -> list[Example]:
    """One test item without and with each cue: the first whose verdict a cue turns, if there is one."""
    table = run.find_table("verdicts")
    if table is None:
        return []
    thinking = "on" if (table["thinking"] == "on").any() else "off"
    split = "split" if "split" in table else "part"
    rows = table[(table["variant"] == "base") & (table["thinking"] == thinking) & (table[split] == "test")]
    rows = rows[rows["order"] == "AB"]
    if rows.empty:
        return []
    plain = rows[rows["condition"] == "plain"].set_index("item")
    right = plain.index[plain["verdict"] == plain["label"]]
    cued = rows[~rows["condition"].isin(["plain", CONTROL]) & rows["item"].isin(right)]
    turned = cued[(cued["verdict"] == cued["target"]) & (cued["verdict"] != cued["label"])]
    item = (turned if len(turned) else rows)["item"].iloc[0]
    found = []
    for row in rows[rows["item"] == item].to_dict("records"):
        text = _written(run, thinking, row)
        if text is not None:
            verdict = f"verdict {row['shown']}" if isinstance(row["shown"], str) else f"not parsed ({row['status']})"
            better = {"A": "the first answer is better", "B": "the second answer is better"}
            found.append(
                Example(
                    f"{row['condition']}: {verdict}; {better.get(str(row['label']), 'both answers are equally good')}",
                    clip(f"{row['condition']}/{row['rollout']}", 120),
                    text,
                )
            )
    return found


def _written(run: RunFolder, thinking: str, row: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """What was shown and written, from the verdicts kept in the run folder."""
    # A condition is a folder that lies there: its name is data, and may be any text or path.
    if row["condition"] not in {f.name for f in (run.out / "judged" / "base" / thinking).glob("*")}:
        return None
    for kept in ("whole", "readings"):
        table = run.find_table(f"judged/base/{thinking}/{row['condition']}/{kept}")
        own = None if table is None else table[table["rollout"] == row["rollout"]]
        if own is not None and len(own):
            texts = (own.iloc[0].get(f"{part}_text") for part in ("prompt", "thinking", "answer"))
            shown = (clip(text, 2000) if isinstance(text, str) else "" for text in texts)
            return tuple(zip(("Prompt", "Thinking", "Answer"), shown, strict=True))
    return None


WORDING = Wording(
    summary=summary,
    headline=headline,
    groups=GROUPS,
    counts="verdicts",
    facts=facts,
    examples=examples,
    prompts=prompts,
    figures={
        "bias_parts": "Contrasts of the verdict",
        "heads": "The heads that carry each bias",
        "verdict_spans": "The spans that heads attend to",
        "mitigations": "Mitigations",
        "verdict_probe": "Where the verdict can be read",
        "correctness": "The correct answer in the hidden states",
        "bias_detector": "Detecting a biased verdict from hidden states",
        "verdict_trace": "The verdict through the thinking",
        "forced_lengths": "The verdict after part of the thinking",
    },
    about_examples="A pair of the test split, if there is one, whose correct verdict a cue turns.",
)
