"""Data that would be a page, a script or a style sheet if it were not kept as text."""

from __future__ import annotations

from typing import Any

from report_runs import Change, rollouts

ATTACKS = {
    "script": "<script>window.pwned=1;document.title='pwned'</script>",
    "image": '<img src=x onerror="window.pwned=1"><svg onload=window.pwned=1>',
    "style": "</style><style>*{display:none!important}</style>",
    "closing": "</script></pre></dl></table></section></main></dialog><base href='//evil.example'><plaintext>",
    "attribute": '" autofocus onfocus="window.pwned=1" x=\'',
    "comment": "<!-- --><!DOCTYPE html><iframe srcdoc='<script>top.pwned=1</script>'></iframe>",
    "template": "{{ 7 * 7 }}{% include 'base.html' %}{{ config }}",
    "override": "\u202eabc\u2066def\u2069\u200fghi\u061c",
    "control": "\x00\x07\x1b[2J\r\u2028\ufeff",
    "javascript": "javascript:window.pwned=1",
    "long": "x" * 1_000_000,
}
"""The last one is a megabyte in one word."""


def plain(made: dict[str, Any]) -> None:
    """The same places as :func:`hostile`, filled with a word."""
    _fill(made, "word")


def hostile(text: str) -> Change:
    """Put a text wherever a run's data can hold one."""
    return lambda made: _fill(made, text)


def _fill(made: dict[str, Any], text: str) -> None:
    study, word = made["study"], text[:9999]
    prompts = study.data.prompts.model_copy(update={"file": word, "target": {word: word}, "control": {"harm": word}})
    words = dict.fromkeys(("name", "question", "model", "reference", "revision"), word)
    made["study"] = study.model_copy(update=words | {"data": study.data.model_copy(update={"prompts": prompts})})
    table = rollouts()
    table[["prompt_text", "thinking_text", "answer_text"]] = text if len(text) < 9999 else "long"
    # A megabyte is held by the rollout that is shown first, not by each of them.
    shown = table["variant"].eq("base") & table["prompt"].isin(["p1-True", "p1-False"])
    table.loc[shown, ["prompt_text", "thinking_text", "answer_text"]] = text
    renamed = table["prompt"] + text[:2000]
    made["rollouts"] = table.assign(prompt=renamed, rollout=renamed + "/0", group=table["group"] + text[:2000])
    for name in ("labels", "labels_ablated"):
        labels = made[name]
        renamed = labels["prompt"] + text[:2000]
        made[name] = labels.assign(prompt=renamed, rollout=renamed + "/0", group=labels["group"] + text[:2000])
    made["cliff"]["reason"] = made["ablation"]["heads"] = text[:9999]
    # No file can be named with a slash or a NUL, nor at any length.
    name = text.replace("/", "|").replace("\0", "|")[:60]
    made["captions"] = {"trace": text, name: text, "novel": text, "../" + text[:9999]: text}
    state = made["provenance"]
    state["commit"] = text
    state["versions"] = {"python": text, text: text}
    state["machine"] = {"accelerator": text, text: text}
    state["models"] = {
        variant: dict.fromkeys(("name", "revision", "config", "template", text), text) for variant in ("base", text)
    }
    state["plans"] = {text: {"batches": [[1]]}}
    made["probe"] |= {"site": text, "layer": text}


def hostile_judge(text: str) -> Change:
    """Put a text wherever a judge run's data can hold one."""
    return lambda made: _fill_judge(made, text)


def _fill_judge(made: dict[str, Any], text: str) -> None:
    study, word = made["study"], text[:9999]
    said = type(study.data.control)(texts=[word])
    items = study.data.items.model_copy(update={"file": word, "reader": word, "format": word})
    words = dict.fromkeys(("name", "question", "model", "reference", "revision"), word)
    data = study.data.model_copy(update={"items": items, "control": said, "cues": {word: said, "b": said}})
    made["study"] = study.model_copy(update=words | {"data": data})
    renamed = {"bandwagon": word, "authority": "b"}
    for name in ("verdicts", "verdict_rates", "bias_parts", "heads", "ablation", "mitigations"):
        made[name] = made[name].replace(renamed)
    verdicts = made["verdicts"]
    more = text[:2000]
    made["verdicts"] = verdicts.assign(rollout=verdicts["rollout"] + more, item=verdicts["item"] + more, source=more)
    made["verdicts"].loc[verdicts["status"] != "ok", "status"] = word
    unnamed = made["mitigations"]["mitigation"].isin(["found heads zeroed", "told by the system text"])
    made["mitigations"].loc[unnamed, "mitigation"] += more
    made["verdict_probe"]["name"] += more
    made["correctness"] = made["correctness"].replace({"bandwagon": word})
    made["bias_detector"] = made["bias_detector"].replace({"bandwagon": word, "authority": "b"})
    for name in [n for n in made if n.startswith("judged/")]:
        table = made.pop(name).assign(prompt_text=text, thinking_text=text, answer_text=text)
        table["rollout"] = table["rollout"] + more
        if name.endswith("plain/whole"):
            made[name] = table
    name = text.replace("/", "|").replace("\0", "|")[:60]
    made["captions"] = {"bias_parts": text, name: text, "novel": text, "../" + text[:9999]: text}
    state = made["provenance"]
    state["commit"] = text
    state["versions"] = {"python": text, text: text}
    state["models"] = {variant: dict.fromkeys(("name", "revision", "config", text), text) for variant in ("base", text)}
