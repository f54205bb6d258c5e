"""Criteria of a study of refusal's heads: located, direct attribution, necessary, specific, sufficient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from verdictscope.study.criteria.criterion import ALPHA, Criterion, Evidence
from verdictscope.study.results import Result, Results

MINIMUM = {"nats": 1.0, "rate": 0.1, "normalised": 0.1}
"""Smallest effects that count, where the results state none (``delta``): one nat of log-odds (odds times 2.7), ten
points of a rate, a tenth of the way from complying to refusing."""

HARMLESS = "control"
"""The condition of requests that are to be complied with throughout."""


def located(contrasts: Sequence[str] | None = None) -> Criterion:
    """The criterion *located*.

    Args:
        contrasts: whose heads; ``None`` for those of every bias that moves the verdict.
    """

    def evidence(results: Results) -> list[Evidence]:
        from verdictscope.study.criteria.bias import moving

        names = contrasts if contrasts is not None else [row.name for row in moving(results)]
        return [e for name in names for e in _selected(results, name)]

    return Criterion(
        "located",
        "Located",
        "Single heads carry it: heads that one half of the data selects are confirmed on the other half.",
        "A head counts when ablating it alone changes the contrast by more than the smallest effect on the half that "
        f"did not select it, over all heads and sublayers at once (max-T, family-wise error {ALPHA:g}); of a bias, it "
        "must also cost less content than that. Met when every selected head counts, partly met when some do.",
        "That no other heads carry it: heads that can stand in for one another have small effects alone.",
        "verdictscope run STUDY --until heads",
        evidence,
    )


def _selected(results: Results, contrast: str) -> list[Evidence]:
    rows = [r for r in results.select(stage="heads", variant="base", condition=contrast) if r.estimate is not None]
    others = [r.estimate or 0.0 for r in rows if not r.selected]
    most = max(others, default=0.0)
    chosen = sorted((r for r in rows if r.selected), key=lambda r: r.rank if r.rank is not None else 0)
    null = f"smallest effect that counts, and the largest effect of the {len(others)} others"
    return [
        Evidence(
            f"{contrast}: {row.name} ablated alone",
            row,
            null,
            min([*others, 0.0]),
            max(most, row.delta or 0.0),
            row.confirmed,
        )
        for row in chosen
    ]


def _attributed(results: Results) -> list[Evidence]:
    rows = [r for r in results.select(stage="heads", condition="attribution of the log-odds") if r.estimate is not None]
    others = [r.estimate or 0.0 for r in rows if not r.selected]
    bar = min([*others, 0.0])
    chosen = sorted((r for r in rows if r.selected), key=lambda r: r.estimate or 0.0)
    null = f"0, and the lowest attribution of the {len(others)} other heads"
    return [
        Evidence(f"{row.name}: direct attribution to the refusal log-odds", row, null, bar, 0.0, row.high < bar)
        for row in chosen
        if row.high is not None
    ]


ATTRIBUTION = Criterion(
    "attribution",
    "Acts directly",
    "The selected heads lower the refusal log-odds directly, through what they write to the residual stream.",
    "A head counts when its exact direct logit attribution, interval and all, lies below 0 and below that of every "
    "head that was not selected. Met when all selected heads count, partly met when some do.",
    "That the contribution matters: attribution does not tell what would happen without the head. A head that acts "
    "through later heads has a small attribution and a large effect.",
    "verdictscope run STUDY --until heads",
    _attributed,
)


def _necessary(results: Results) -> list[Evidence]:
    fall = results.find("trace", "normalised_excess", variant="ablated_fixed", condition="target")
    return [
        beyond(
            "change of the refusal log-odds, same tokens",
            results.find("ablate", "change of the log-odds", variant="ablated", condition="refusal"),
            tested=True,
        ),
        beyond(
            "rise of the refusal rate in free generation",
            results.find("ablate", "rise of the refusal rate", variant="ablated", condition="target"),
        ),
        beyond("drop of the normalised score in excess of the drop with the heads ablated, same tokens", fall),
    ]


def beyond(what: str, row: Result | None, *, tested: bool = False, sign: float = 1.0) -> Evidence:
    """An effect against its smallest effect and the null's range, both of which it has to exceed.

    Args:
        what: what was estimated.
        row: the effect.
        tested: whether its p-value has to be at most :data:`ALPHA` as well.
        sign: -1 where the effect is to be negative.
    """
    if row is None or row.low is None or row.high is None:
        return Evidence(what)
    minimum = row.delta if row.delta is not None else MINIMUM[row.unit]
    if sign < 0:
        low, high = (-v if v is not None else None for v in (row.null_high, row.null_low))
        row = replace(row, estimate=-(row.estimate or 0.0), low=-row.high, high=-row.low, null_low=low, null_high=high)
    bar = max(row.null_high or 0.0, minimum)
    passes = row.low is not None and row.low > bar and (not tested or (row.p is not None and row.p <= ALPHA))
    null = f"smallest effect that counts ({minimum:.3g} {row.unit})" + (f"; {row.null}" if row.null else "")
    return Evidence(what, row, null, min(0.0, row.null_low or 0.0), bar, passes)


NECESSARY = Criterion(
    "necessary",
    "Necessary",
    "With the selected heads ablated, the model refuses requests that it otherwise complies with; ablating other heads "
    "of the same layers does not have this effect.",
    f"Each effect must exceed, interval and all, its smallest effect ({MINIMUM['nats']:g} nat, {MINIMUM['rate']:g} of "
    f"a rate, {MINIMUM['normalised']:g} of the normalised score, or the table's own delta) and every random set of "
    f"heads, with p ≤ {ALPHA:g} where a test was made. Met when all three do, partly met when some do.",
    "That these heads are the only path, or that they do nothing else. Zero ablation moves a head's output out of the "
    "range the model was trained on.",
    "verdictscope run STUDY --until ablate",
    _necessary,
)


def _specific(results: Results) -> list[Evidence]:
    row = results.find("ablate", "rise of the refusal rate", variant="ablated", condition=HARMLESS)
    if row is None or row.high is None:
        return [Evidence("rise of the refusal rate of control requests")]
    bar = MINIMUM["rate"]
    null = f"at most {bar:g} of a rate"
    return [Evidence("rise of the refusal rate of control requests", row, null, -bar, bar, row.high < bar)]


SPECIFIC = Criterion(
    "specific",
    "Specific",
    "Ablating the selected heads does not make the model refuse control requests.",
    f"Met when the refusal rate of control requests rises, interval and all, by less than {MINIMUM['rate']:g}.",
    "That nothing else changes: only refusals are counted.",
    "verdictscope run STUDY --until ablate",
    _specific,
)


def _sufficient(results: Results) -> list[Evidence]:
    moved = results.find("ablate", "change of the log-odds", variant="patched", condition="refusal")
    rate = results.find("ablate", "fall of the refusal rate", variant="patched", condition="target")
    return [
        beyond("fall of the reference model's refusal log-odds, same tokens", moved, tested=True, sign=-1.0),
        beyond("fall of the reference model's refusal rate in free generation", rate),
    ]


SUFFICIENT = Criterion(
    "sufficient",
    "Sufficient",
    "Patched into the reference model, the weights of the selected heads make it comply.",
    "Each effect must exceed, interval and all, its smallest effect: the fall of the reference model's refusal "
    f"log-odds on its own tokens, which must also exceed that of every matched random set with p ≤ {ALPHA:g}, and "
    "the fall of its refusal rate in free generation. Met when both do, partly met when one does.",
    "That the heads do the same in the reference model as in the model under study: weight patching takes them out of "
    "their context.",
    "verdictscope run STUDY --until ablate, of a study that names a reference model",
    _sufficient,
)
