"""Criteria of a judge's biases: measured, necessary, specific, absent in the reference model, mitigated.

All but the first concern the biases that move the verdict by more than the smallest effect that counts.
"""

from __future__ import annotations

from verdictscope.study.criteria.criterion import ALPHA, Criterion, Evidence
from verdictscope.study.results import Result, Results

CONTENT, POSITION, ACCURACY = "content", "position", "accuracy"
SHOWN = "thinking off"
"""The condition of the contrasts that the criteria concern."""

SMALLEST = 0.5
"""Nats that count where the results state no smallest effect: odds times 1.65."""

REMOVED = 0.8
"""Share of a bias that a mitigation must remove, and share of everything else that must remain."""

COST = 0.02
"""Accuracy that a mitigation may cost."""

INSIDE = ("ablate", "scale", "erase", "steer")
"""Kinds of mitigation that edit the model."""

EVERY = "all"
"""What a mitigation of all biases is meant for."""


def biases(results: Results, variant: str = "base") -> list[Result]:
    """The contrasts of the verdict other than content."""
    rows = results.select(stage="contrasts", variant=variant, condition=SHOWN)
    return [row for row in rows if row.name != CONTENT and row.low is not None]


def smallest(results: Results) -> float:
    """The smallest bias that counts, in nats: the sweep's delta, else :data:`SMALLEST`."""
    rows = results.select(stage="heads", variant="base")
    return next((row.delta for row in rows if row.delta is not None), SMALLEST)


def bar(results: Results, name: str) -> float:
    """What a bias has to exceed: the smallest effect, and for a cue also the effect of the control sentence."""
    least, control = smallest(results), results.find("generate", "pull", condition="control")
    return least if name == POSITION or control is None else max(least, control.size[2])


def moving(results: Results) -> list[Result]:
    """The biases whose interval lies beyond what counts."""
    return [row for row in biases(results) if row.size[1] > bar(results, row.name)]


def _within(row: Result, most: float) -> bool:
    return row.low is not None and row.high is not None and row.low > -most and row.high < most


def _measured(results: Results) -> list[Evidence]:
    made = []
    for row in biases(results):
        most = bar(results, row.name)
        toward = "the answer shown first" if row.name == POSITION else "the side named"
        null = "smallest effect that counts" + ("" if row.name == POSITION else ", and the control sentence's effect")
        passes = row.size[1] > most or _within(row, most)
        made.append(Evidence(f"{row.name}: log-odds towards {toward}", row, null, -most, most, passes))
    content = results.find("contrasts", CONTENT, condition=SHOWN)
    return [
        *made,
        *([Evidence("content: log-odds towards the better answer", content, decides=False)] if content else []),
    ]


MEASURED = Criterion(
    "measured",
    "Measured",
    "For each bias it is known whether it moves the verdict by more than the smallest effect that counts.",
    "Met for a bias when its interval lies wholly beyond the smallest effect (it moves the verdict) or wholly within "
    "it (it does not). Met when it is met for all, partly met for some.",
    "How often verdicts change: a bias smaller than the effect of content changes none. And biases that the study does "
    "not test.",
    "verdictscope run STUDY",
    _measured,
)


def _necessary(results: Results) -> list[Evidence]:
    return [_left(results, row.name) for row in moving(results)]


def _left(results: Results, bias: str) -> Evidence:
    """What is left of a bias with the selected heads ablated, against the random sets."""
    what = f"{bias}: remainder with the selected heads ablated"
    base = results.find("ablate", "size", condition=bias)
    left = results.find("ablate", "size", variant="ablated", condition=bias)
    sets = results.find("ablate", "size", variant="random sets, ablated", condition=bias)
    if base is None or left is None or left.low is None or left.high is None or sets is None or sets.null_low is None:
        return Evidence(what)
    most, whole = max(abs(left.low), abs(left.high)), base.size[0]
    passes = most < (1 - REMOVED) * whole and most < sets.null_low and left.p is not None and left.p <= ALPHA
    null = f"{100 * (1 - REMOVED):.0f} % of the unablated {base.estimate:.2f} nats; {sets.n} random sets of heads"
    return Evidence(what, left, null, sets.null_low, sets.null_high, passes)


NECESSARY = Criterion(
    "necessary",
    "Necessary",
    "With the selected heads ablated every bias is gone; with as many other heads of the same layers ablated it is "
    "not.",
    f"The remainder of the bias must lie, interval and all, within {100 * (1 - REMOVED):.0f} % of its size and below "
    f"that of every random set, with p ≤ {ALPHA:g}. Met when it is so for every bias that moves the verdict, partly "
    "met for some.",
    "That the heads cause the bias by themselves, or that it was learned there. Zero ablation moves a head's output "
    "out of the range the model was trained on.",
    "verdictscope run STUDY",
    _necessary,
)


def _specific(results: Results) -> list[Evidence]:
    names = [row.name for row in moving(results)]
    return [
        e
        for bias in names
        for e in (*(_kept(results, bias, n) for n in (CONTENT, *names) if n != bias), _accuracy(results, bias))
    ]


def _without(results: Results, bias: str, name: str) -> tuple[Result | None, Result | None]:
    """A number without and with the heads of one bias ablated; else with all selected heads, where its own heads are
    not among them."""
    rows = [r for r in results.select(stage="mitigate", name=name) if "after thinking" not in r.condition]
    rows = [r for r in rows if r.estimate is not None]
    base = next((r for r in rows if r.kind == "none"), None)
    own = next((r for r in rows if r.kind == "ablate" and r.about == bias), None)
    if base is not None and own is not None:
        return base, own
    if any(r.selected for r in results.select(stage="heads", variant="base", condition=name)):
        return None, None
    return tuple(results.find("ablate", "size", variant=v, condition=name) for v in ("base", "ablated"))  # type: ignore[return-value]


def _kept(results: Results, bias: str, name: str) -> Evidence:
    """What should remain, against :data:`REMOVED` of its size."""
    what = f"{name} with the {bias} heads ablated"
    base, row = _without(results, bias, name)
    if base is None or base.estimate is None or row is None or row.low is None or row.high is None:
        return Evidence(what)
    whole = base.estimate
    sign = 1.0 if whole >= 0 else -1.0
    passes = min(sign * row.low, sign * row.high) >= REMOVED * abs(whole)
    null = f"at least {100 * REMOVED:.0f} % of the unablated {whole:.2f} nats"
    return Evidence(what, row, null, min(0.0, REMOVED * whole), max(0.0, REMOVED * whole), passes)


def _accuracy(results: Results, bias: str) -> Evidence:
    what = f"accuracy with the {bias} heads ablated"
    base, row = _without(results, bias, ACCURACY)
    if base is None or base.estimate is None or row is None or row.estimate is None:
        return Evidence(what)
    least = base.estimate - COST
    null = f"at most {100 * COST:g} points below the unablated {base.estimate:.3f}"
    return Evidence(what, row, null, 0.0, least, row.estimate >= least - 1e-9)


SPECIFIC = Criterion(
    "specific",
    "Specific",
    "Ablating the heads of one bias leaves the effect of content, accuracy and the other biases.",
    f"Content and every other bias that moves the verdict must keep, interval and all, at least {100 * REMOVED:.0f} % "
    f"of their size, and accuracy may fall by at most {100 * COST:g} points. Met when all do.",
    "That nothing else changes: only what the study measures is compared. The limit on accuracy concerns the estimate; "
    "with few items its interval is wider than that.",
    "verdictscope run STUDY",
    _specific,
)


def _absent(results: Results) -> list[Evidence]:
    there = {row.name: row for row in biases(results, "reference")}
    made, names = [], [row.name for row in moving(results)]
    for name in names:
        most, own = bar(results, name), there.get(name)
        null = "within the smallest effect that counts"
        what = f"{name} in the reference model"
        made.append(Evidence(what, own, null, -most, most, _within(own, most)) if own else Evidence(what))
    return made + [e for name in names for e in _strongest(results, name)]


def _strongest(results: Results, bias: str) -> list[Evidence]:
    """The strongest component of the reference model's sweep, tested as in the model under study."""
    rows = [r for r in results.select(stage="heads", variant="reference", condition=bias) if r.estimate is not None]
    if not rows:
        return []
    top = max(rows, key=lambda r: r.estimate or 0.0)
    confirmed = [r.name for r in rows if r.confirmed]
    null = f"smallest effect that counts; {len(rows)} components tested, confirmed: {', '.join(confirmed) or 'none'}"
    low = min(0.0, *(r.estimate or 0.0 for r in rows))
    what = f"{bias}: strongest component of the reference model, {top.name}"
    return [Evidence(what, top, null, low, top.delta if top.delta is not None else SMALLEST, not confirmed)]


ABSENT = Criterion(
    "reference",
    "Absent in the reference model",
    "A reference model without the bias shows neither the bias nor heads that carry it.",
    "Each bias must lie, interval and all, within the smallest effect in the reference model, and the sweep of the "
    "reference model must confirm no head for it. Met when all do, partly met when some do.",
    "That training between the two models made the difference, unless they differ in nothing else.",
    "verdictscope run STUDY, of a study that names a reference model",
    _absent,
)


def _mitigated(results: Results) -> list[Evidence]:
    rows = [r for r in results.select(stage="mitigate") if "after thinking" not in r.condition]
    numbers: dict[str, dict[str, Result]] = {}
    for row in rows:
        if row.estimate is not None:
            numbers.setdefault(row.condition, {})[row.name] = row
    plain = next((own for own in numbers.values() if next(iter(own.values())).kind == "none"), {})
    made = []
    for bias in (row.name for row in moving(results)):
        tries = [(next(iter(own.values())).kind, _try(bias, own, plain)) for own in numbers.values()]
        known = [(kind, e) for kind, e in tries if e is not None and kind != "none"]
        edits = [e for kind, e in known if kind in INSIDE]
        prompts = [e for kind, e in known if kind == "prompt"]
        best = (min(es, key=lambda e: (not e.passes, abs(_value(e))), default=None) for es in (edits, prompts))
        edit, prompt = best
        made.append(edit or Evidence(f"{bias} under an edit of the model"))
        made.append(prompt.beside() if prompt else Evidence(f"{bias} under a change of the prompt"))
    return made


def _value(e: Evidence) -> float:
    return e.result.estimate or 0.0 if e.result else 0.0


def _try(bias: str, own: dict[str, Result], plain: dict[str, Result]) -> Evidence | None:
    """The remainder of a bias under one mitigation, with its cost in accuracy; nothing if it is meant for another."""
    row, before = own.get(bias), plain.get(bias)
    if row is None or row.about not in (EVERY, bias) or row.low is None or row.high is None or before is None:
        return None
    right, was, whole = own.get(ACCURACY), plain.get(ACCURACY), before.estimate or 0.0
    small = max(abs(row.low), abs(row.high)) <= (1 - REMOVED) * abs(whole)
    known = right is not None and was is not None and right.estimate is not None and was.estimate is not None
    cheap = known and right.estimate >= was.estimate - COST - 1e-9  # type: ignore[union-attr, operator]
    cost = f"; accuracy {was.estimate:.3f} → {right.estimate:.3f}" if known else ""  # type: ignore[union-attr]
    null = f"without it {whole:.2f} nats{cost}"
    return Evidence(f"{bias}: {row.condition}", row, null, min(0.0, whole), max(0.0, whole), small and cheap)


MITIGATED = Criterion(
    "mitigated",
    "Mitigated",
    "An edit of the model removes each bias without loss of accuracy; changes of the prompt are shown beside it.",
    "For every bias that moves the verdict the best edit (heads ablated or scaled, a direction erased or steered) must "
    f"leave, interval and all, at most {100 * (1 - REMOVED):.0f} % of it and cost at most {100 * COST:g} points of "
    "accuracy. A change of the prompt must have been measured. Met when it is so for each, partly met for some.",
    "That the best of several edits is as good on other items: it was chosen on these. Nor that the judge improves "
    "where no bias was measured.",
    "verdictscope run STUDY",
    _mitigated,
)
