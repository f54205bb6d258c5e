"""Spans sum to their head, heads and MLPs to the contrast of the logit, on a random judge and on the bundled one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.judgments.judge_worlds import real, tiny_judge
from verdictscope.activations import load_model
from verdictscope.errors import InputError
from verdictscope.figures import spans
from verdictscope.interventions import attribute, attribute_spans
from verdictscope.interventions.span_attribution import SpanAttribution
from verdictscope.judgments import Insertion, JudgeSettings, PairItem, cue_contrast, judge, load_format, order_contrasts
from verdictscope.judgments.labels import encode_labels, label_log_odds
from verdictscope.judgments.shared_thinking import shared_thinking
from verdictscope.judgments.spans import token_spans
from verdictscope.rollouts import Sampling
from verdictscope.sources import models_folder

ITEMS = [
    PairItem(
        id=f"i{k}",
        question=f"What is {k} + {k}?",
        a=f"{2 * k}",
        b=f"{3 * k} or so",
        label="AB"[k % 2],
        group=f"g{k // 2}",
    )
    for k in range(1, 5)
]
TARGETS = {item.id: "AB"[k // 2 % 2] for k, item in enumerate(ITEMS)}


def crowd(item: PairItem, _: str) -> list[Insertion]:
    return [Insertion("note", "most readers chose {target}.", TARGETS[item.id])]


def world(model: Any, tok: Any, form: Any, items: list[PairItem], **how: Any) -> dict[str, Any]:
    plain = judge(model, items, form, **how).named("plain")
    cued = judge(model, items, form, settings=JudgeSettings(insertions=crowd), **how).named("cued")
    labels = form.labels()
    encoded = encode_labels(tok, [label.text for label in labels], form.lead, plain.rollouts[0].ids)
    names = token_spans(tok, form, items, plain.rollouts) | token_spans(tok, form, items, cued.rollouts, crowd)
    contrasts = {**order_contrasts(plain), "crowd": cue_contrast("crowd", plain, cued, TARGETS)}
    return {
        "model": model,
        "rollouts": [*plain.rollouts, *cued.rollouts],
        "contrasts": contrasts,
        "names": names,
        "readout": label_log_odds("verdict", encoded, [label.verdict for label in labels]),
    }


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    return world(tiny_judge(), real("qwen"), load_format("pair_letter"), ITEMS)


SIDES = {"content": {item.id: item.label for item in ITEMS}, "crowd": TARGETS}


@pytest.fixture(scope="module")
def parts(tiny: dict[str, Any]) -> SpanAttribution:
    return attribute_spans(**tiny, sides=SIDES, positions=("last", "think_end[0]"))


def test_spans_sum_to_heads_and_heads_to_the_contrast(tiny: dict[str, Any], parts: SpanAttribution) -> None:
    parts.check()
    taken = attribute(tiny["model"], tiny["rollouts"], tiny["readout"], positions="last")
    for name, contrast in tiny["contrasts"].items():
        part = parts.contrasts[name, "last"]
        whole = taken.on(contrast)
        own = [i for i, at in enumerate(whole.components) if at[0] == "head"]
        assert np.allclose(part.values.sum(-1), whole.values[own], atol=1e-4)
        assert np.allclose(part.attribution.values.sum(0), whole.logit, atol=1e-3)


def test_the_table_adds_up_and_names_the_sides(parts: SpanAttribution) -> None:
    table = parts.to_frame()
    assert len(table) == len(table.drop_duplicates(["contrast", "position", "component", "layer", "head", "span"]))
    for _, own in table.groupby(["contrast", "position"]):
        by = own.set_index(["component", "layer", "head", "span"])["estimate"]
        heads = own[(own["component"] == "heads") & (own["span"] != "")]["estimate"].sum()
        assert heads == pytest.approx(by["heads", -1, -1, ""], abs=1e-3)
        rest = own[own["component"].isin(["embed", "attn_bias", "bias", "norm_bias", "pos_embed"])]["estimate"].sum()
        total = by["heads", -1, -1, ""] + by["mlps", -1, -1, ""] + rest
        assert total == pytest.approx(by["logit", -1, -1, ""], abs=1e-3)
        one = own[(own["layer"] == 1) & (own["head"] == 2)]
        assert one[one["span"] != ""]["estimate"].sum() == pytest.approx(
            one[one["span"] == ""]["estimate"].item(), abs=1e-3
        )
    spans = table.groupby("contrast")["span"].agg(set)
    assert {"better answer", "worse answer"} <= spans["content"]
    assert {"named answer", "other answer", "cue"} <= spans["crowd"]
    assert {"first answer", "second answer"} <= spans["position"]
    assert "cue" not in spans["content"]
    assert (table["n"] == 3).all()


def test_the_figure_is_drawn_and_tells_what_it_does_not_show(parts: SpanAttribution) -> None:
    assert len(parts.plot().axes) == 4
    table = parts.to_frame()
    assert "Not shown" in spans(table[table["position"] == "last"]).caption
    spans(table[:0])
    assert "direct effect" in parts._repr_html_()


def test_by_hand_from_the_tokens(tiny: dict[str, Any], parts: SpanAttribution) -> None:
    """What head L1H2 takes from the better answer, added up token by token."""
    taken = attribute(tiny["model"], tiny["rollouts"], tiny["readout"], positions="last", sources=[(1, 2)])
    assert taken.sources is not None
    tokens, contrast = taken.sources.to_frame(), tiny["contrasts"]["content"]
    part = parts.contrasts["content", "last"]
    head, span = parts.heads.index((1, 2)), part.spans.index("better answer")
    labels = {item.id: item.label for item in ITEMS}
    for k, item in enumerate(contrast.items):
        total = 0.0
        for r, weight in zip(contrast.rollouts[k], contrast.weights[k], strict=True):
            place = "first" if r.split("/")[2][0] == labels[item] else "second"
            at = [i for i, name in enumerate(tiny["names"][r]) if name == f"{place} answer"]
            own = tokens[tokens["rollout"] == r].set_index("source")["attribution"]
            total += weight * own.loc[at].sum()
        assert part.values[head, k, span] == pytest.approx(total, abs=1e-4)


def test_what_cannot_be_taken_apart_is_said(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="one token"):
        attribute_spans(**tiny, positions=("user[:2]",))
    with pytest.raises(InputError, match="name every token"):
        attribute_spans(**{**tiny, "names": {}})


def test_one_thinking_in_both_orders_on_the_bundled_judge() -> None:
    """Under the same tokens what is thought of the places counts as position; with the names exchanged as content."""
    model = load_model(models_folder() / "judge")
    form = load_format(models_folder() / "judge" / "format.toml")
    items = [
        PairItem(id=f"u{k}", question="which list goes up?", a=f"{k} 12 19", b=f"19 12 {k}", label="A", group=f"u{k}")
        for k in range(1, 7)
    ]
    thought = judge(
        model,
        items,
        form,
        settings=JudgeSettings(thinking="on"),
        sampling=Sampling(temperature=0.7, max_new_tokens=120),
    )
    contrasts = order_contrasts(thought)
    encoded = encode_labels(model, [label.text for label in form.labels()], form.lead)
    readout = label_log_odds("verdict", encoded, [label.verdict for label in form.labels()])
    seen = {}
    for frame in ("place", "item"):
        shared = shared_thinking(model.tokenizer, thought.rollouts, frame=frame, sides=form.sides)
        names = token_spans(model, form, items, shared.rollouts)
        kept = {name: contrast.among(shared.items) for name, contrast in contrasts.items()}
        found = attribute_spans(model, shared.rollouts, readout, kept, names)
        found.check()
        seen[frame] = {name: abs(part.attribution.logit).mean() for (name, _), part in found.contrasts.items()}
    assert seen["item"]["content"] > seen["place"]["content"]
    assert seen["item"]["position"] < seen["place"]["position"]
