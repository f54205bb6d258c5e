"""Content, position and cues: weighted sums over an item's rollouts, of values, of effects and of shares alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.judgments.judge_worlds import real, tiny_judge
from verdictscope.errors import InputError
from verdictscope.interventions import HeadEdit, HeadSweep, attribute, effects, sweep_heads
from verdictscope.interventions.mitigation import rejudged
from verdictscope.judgments import (
    Contrast,
    Insertion,
    Judged,
    JudgeSettings,
    PairItem,
    cue_contrast,
    judge,
    load_format,
    order_contrasts,
)
from verdictscope.judgments.labels import encode_labels, label_log_odds
from verdictscope.rollouts import Rollout, Span

ITEMS = [
    *(
        PairItem(
            id=f"i{k}",
            question=f"What is {k} + {k}?",
            a=f"{2 * k}",
            b=f"{3 * k}",
            label="AB"[k % 2],
            group=f"g{k // 2}",
        )
        for k in range(4)
    ),
    PairItem(id="tie", question="Say hello.", a="hello", b="hello!", label="tie"),
]


def made(odds: dict[tuple[str, str], float], labels: dict[str, str]) -> tuple[Judged, list[str], np.ndarray]:
    """Verdicts and log-odds of items in orders, with rollouts that hold no text of interest."""
    rows, rollouts, values = [], [], []
    for (item, order), value in odds.items():
        name = f"{item}/{order}"
        rows.append(
            {
                "item": item,
                "group": item,
                "order": order,
                "run": 0,
                "label": labels[item],
                "rollout": name,
                "verdict": "A",
                "shown": "first",
                "probability": 0.9,
                "status": "ok",
            }
        )
        rollouts.append(Rollout(name, item, (1, 2), (Span("user", 0, 2),), 2))
        values.append(value)
    names = [r.id for r in rollouts]
    empty = pd.DataFrame(columns=["rollout", "said", "verdict", "value", "logp"])
    return Judged(pd.DataFrame(rows), empty, tuple(rollouts)), names, np.array(values)


def test_content_and_position_are_told_apart() -> None:
    labels = {"a": "A", "b": "B", "t": "tie"}
    content, position = {"a": 2.0, "b": 3.0, "t": 0.5}, {"a": 1.0, "b": -0.5, "t": 4.0}
    towards_a = {"a": 1, "b": -1, "t": 1}
    odds = {}
    for item in labels:
        odds[item, "AB"] = towards_a[item] * content[item] + position[item]
        odds[item, "BA"] = -towards_a[item] * content[item] + position[item]
    judged, names, values = made(odds, labels)
    found = order_contrasts(judged)
    assert dict(zip(found["position"].items, found["position"].of(values, names), strict=True)) == position
    assert dict(zip(found["content"].items, found["content"].of(values, names), strict=True)) == {"a": 2.0, "b": 3.0}
    assert np.array_equal((-found["position"]).of(values, names), -found["position"].of(values, names))


def test_swapping_the_sides_of_an_item_changes_neither() -> None:
    rng = np.random.default_rng(0)
    odds = {(item, order): float(rng.normal()) for item in "abc" for order in ("AB", "BA")}
    labels = {"a": "A", "b": "B", "c": "tie"}
    judged, names, values = made(odds, labels)
    other = {"AB": "BA", "BA": "AB"}
    flip = {"A": "B", "B": "A", "tie": "tie"}
    turned = {(item, other[order]): value for (item, order), value in odds.items()}
    swapped, names2, values2 = made(turned, {item: flip[label] for item, label in labels.items()})
    first, second = order_contrasts(judged), order_contrasts(swapped)
    for name in ("content", "position"):
        assert np.allclose(first[name].of(values, names), second[name].of(values2, names2))


def test_a_cue_counts_towards_the_side_it_names_wherever_that_is_shown() -> None:
    labels = {"a": "A", "b": "B"}
    base = {("a", "AB"): 1.0, ("a", "BA"): -2.0, ("b", "AB"): 0.5}
    targets = {"a": "B", "b": "B"}
    push = 1.5
    moved = {(i, o): v + (push if o.startswith(targets[i]) else -push) for (i, o), v in base.items()}
    control, names, values = made(base, labels)
    cued, _, values2 = made(moved, labels)
    contrast = cue_contrast("crowd", control.named("control"), cued.named("cued"), targets)
    named = [f"{variant}/{name}" for variant in ("control", "cued") for name in names]
    found = contrast.of(np.concatenate([values, values2]), named)
    assert dict(zip(contrast.items, found, strict=True)) == pytest.approx({"a": push, "b": push})


def test_what_is_missing_is_said() -> None:
    judged, names, values = made({("a", "AB"): 1.0}, {"a": "A"})
    with pytest.raises(InputError, match="both orders"):
        order_contrasts(judged)
    with pytest.raises(InputError, match="judged under both"):
        cue_contrast("crowd", judged, judged, {})
    judged, names, values = made({("a", "AB"): 1.0, ("b", "BA"): 1.0}, {"a": "A", "b": "A"})
    with pytest.raises(InputError, match="both orders"):
        order_contrasts(judged)
    contrast = Contrast("x", ("a",), ("a",), (("r", "s"),), ((1.0, -1.0),))
    with pytest.raises(InputError, match="needs rollout s"):
        contrast.of(np.zeros(1), ["r"])
    with pytest.raises(InputError, match="several values"):
        contrast.of(np.zeros(3), ["r", "s", "s"])


@pytest.fixture(scope="module", name="judge")
def judge_world() -> tuple:
    """A random judge: (model, readout, plain verdicts, cued verdicts, targets)."""
    model, tok = tiny_judge(), real("qwen")
    form = load_format("pair_letter")
    targets = {item.id: "AB"[k % 2] for k, item in enumerate(ITEMS)}

    def crowd(item: PairItem, _: str) -> list[Insertion]:
        return [Insertion("note", "Most people chose {target}.", targets[item.id])]

    plain = judge(model, ITEMS, form).named("plain")
    cued = judge(model, ITEMS, form, settings=JudgeSettings(insertions=crowd)).named("cued")
    labels = form.labels()
    encoded = encode_labels(tok, [label.text for label in labels], form.lead, plain.rollouts[0].ids)
    return model, label_log_odds("verdict", encoded, [label.verdict for label in labels]), plain, cued, targets


def test_shares_and_effects_of_a_contrast_are_those_of_its_rollouts(judge: tuple) -> None:
    model, readout, plain, cued, targets = judge
    rollouts = [*plain.rollouts, *cued.rollouts]
    contrasts = {**order_contrasts(plain), "crowd": cue_contrast("crowd", plain, cued, targets)}
    taken = attribute(model, rollouts, readout, positions="last")
    swept = effects(model, rollouts, readout, [HeadEdit(((0, 0),)), HeadEdit(((1, 1),))])
    for name, contrast in contrasts.items():
        part = taken.on(contrast)
        part.check()
        assert np.allclose(part.values.sum(0), part.logit, atol=1e-4)
        assert np.allclose(part.logit, swept.on(contrast).base, atol=1e-4)
        assert len(part.to_frame()) == len(taken.components) + 2
        by_hand = [
            sum(w * swept.change[1][swept.rollouts.index(r)] for r, w in zip(rs, ws, strict=True))
            for rs, ws in zip(contrast.rollouts, contrast.weights, strict=True)
        ]
        assert np.allclose(swept.on(contrast).change[1], by_hand), name


def test_a_sweep_signs_effects_so_that_a_smaller_contrast_counts(judge: tuple) -> None:
    model, readout, plain, cued, targets = judge
    rollouts = [*plain.rollouts, *cued.rollouts]
    contrasts = {**order_contrasts(plain), "crowd": cue_contrast("crowd", plain, cued, targets)}
    swept = sweep_heads(model, rollouts, readout, contrasts, heads=[(0, 0), "L1H0"], sublayers=["mlp_out"], delta=0.1)
    assert isinstance(swept, HeadSweep)
    assert swept.biases == ("position", "crowd")
    table = swept.to_frame()
    assert set(table["contrast"]) == {"position", "content", "crowd"}
    assert (table["component"] == "mlp").sum() == 3 * model.n_layers
    plainly = effects(model, rollouts, readout, [HeadEdit(((1, 0),))])
    for name, contrast in contrasts.items():
        values = plainly.on(contrast)
        row = table[(table["contrast"] == name) & (table["layer"] == 1) & (table["head"] == 0)]
        change = values.edited[0].mean() - values.base.mean()
        assert row["estimate"].item() == pytest.approx(-np.sign(values.base.mean()) * change, abs=1e-4)
    alone = sweep_heads(model, rollouts, readout, {"position": contrasts["position"]}, heads=[(1, 0)])
    assert alone.delta is None, "without content no smallest effect follows"
    assert alone.table()["estimate"].item() == pytest.approx(swept["position"].means[1], abs=1e-4)
    assert "0.1 nats (stated)" in str(swept)


def test_rejudged_verdicts_follow_the_log_odds(judge: tuple) -> None:
    _, _, plain, _, _ = judge
    ids = [r.id for r in plain.rollouts]
    own = np.log(plain.verdicts["p_first"]) - np.log(plain.verdicts["p_second"])
    same = rejudged(plain.verdicts, ids, own.to_numpy())
    assert same["verdict"].tolist() == plain.verdicts["verdict"].tolist()
    turned = rejudged(plain.verdicts, ids, -own.to_numpy())
    assert (turned["verdict"].to_numpy() != plain.verdicts["verdict"].to_numpy()).all()
    part = rejudged(plain.verdicts, ids[:3], np.full(3, 40.0))
    assert part["shown"].tolist() == ["first"] * 3
    assert part["probability"].tolist() == [pytest.approx(1.0)] * 3
