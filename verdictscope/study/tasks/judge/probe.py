"""Stage ``verdict_probes``: what the judge says, which answer is right, and which verdicts follow a cue, from states.

Every probe is fitted, chosen and tested on the study's own split, on the model under study without thinking. The
verdict is read at the token before it and, beside it, at the tokens that close the thinking.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from verdictscope.judgments import Judged
from verdictscope.probes import bias_detector, correctness, verdict_probe, verdict_states
from verdictscope.probes.bias_detector import BiasDetector
from verdictscope.probes.correctness import Correctness
from verdictscope.probes.verdict_probe import VerdictProbe
from verdictscope.probes.verdict_states import VerdictStates
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.judge.generate import CONTROL, PLAIN, conditions, part_of, targets

SITE = "resid_post"
VERDICT = "last"
"""The token before the verdict's first."""
CLOSING = ("think_end[0]", "think_end[-1]")
"""The first and the last of the tokens between thinking and answer."""


def run_probe(run: RunFolder) -> None:
    """Write ``verdict_probe.parquet``, ``correctness.parquet``, ``bias_detector.parquet``, ``verdict_probes.json``."""
    variant, model = "base", run.model()
    said = {condition: run.judged(variant, condition, "off") for condition in conditions(run)}
    with run.ticking("verdict probes: hidden states") as tick:
        states = verdict_states(model, said, positions=VERDICT, site=SITE, progress=tick)
    part, section = part_of(run), run.study.probe
    given: dict[str, Any] = {"Cs": section.C, "permutations": section.permutations, "seed": run.study.seed}
    answers = {item.id: (item.a, item.b) for item in run.items()}
    probes = {}
    with run.ticking("verdict probes: what is said, by place") as tick:
        places = [VERDICT, *(place for place in CLOSING if _has(said[PLAIN], "think_end"))]
        for done, place in enumerate(places, start=1):
            here = (
                states if place == VERDICT else verdict_states(model, {PLAIN: said[PLAIN]}, positions=place, site=SITE)
            )
            probes[place] = verdict_probe(
                here, part, condition=PLAIN, answers=answers, contrasts=place == VERDICT, **given
            )
            tick(done, len(places))
    run.write("verdict_probe", _joined(variant, probes))
    with run.ticking("verdict probes: which answer is right") as tick:
        known = correctness(
            states, part, fitted_in=(PLAIN, CONTROL), control=CONTROL, answers=answers, progress=tick, **given
        )
    run.write("correctness", known.to_frame().assign(variant=variant)[["variant", *known.table.columns]])
    with run.ticking("verdict probes: followed cues") as tick:
        found = bias_detector(
            states,
            targets(run),
            part,
            control=CONTROL,
            plain=PLAIN,
            cues=list(run.study.data.cues),
            texts=_prompts(run, states, said),
            progress=tick,
            **given,
        )
    run.write("bias_detector", found.to_frame().assign(variant=variant)[["variant", *found.table.columns]])
    run.write_json("verdict_probes", _headline(probes[VERDICT], known, found))


def _has(said: Judged, segment: str) -> bool:
    return all(any(span.segment == segment for span in rollout.spans) for rollout in said.rollouts)


def _joined(variant: str, probes: dict[str, VerdictProbe]) -> pd.DataFrame:
    """The tables of all places, the verdict's own first."""
    table = pd.concat([probe.to_frame().assign(place=place) for place, probe in probes.items()], ignore_index=True)
    return table.assign(variant=variant)[["variant", "place", *(c for c in table.columns if c != "place")]]


def _prompts(run: RunFolder, states: VerdictStates, said: dict[str, Judged]) -> dict[str, str]:
    """What was shown, as text, by rollout."""
    tokenizer = run.model().tokenizer
    wanted = set(states.rows["rollout"])
    return {
        rollout.id: str(tokenizer.decode(list(rollout.ids[: rollout.n_prompt])))
        for each in said.values()
        for rollout in each.rollouts
        if rollout.id in wanted
    }


def _headline(probe: VerdictProbe, known: Correctness, found: BiasDetector) -> dict[str, Any]:
    """The headline numbers, and the probes as data."""
    cells = found.table[found.table["reason"] == ""]
    return {
        "site": SITE,
        "position": VERDICT,
        "verdict": _numbers(probe) | {"items": probe.counts},
        "correctness": {
            "layer": known.result.layer,
            "C": known.result.C,
            "fitted_in": list(known.fitted_in),
            "verdict_layer": known.mirror.layer,
        },
        "detector": {"cells": len(found.table), "filled": len(cells)},
        "readouts": {
            "verdict": probe.result.readout("verdict_probe").to_dict(),
            "correctness": known.result.readout("correctness_probe").to_dict(),
        },
    }


def _numbers(probe: VerdictProbe) -> dict[str, Any]:
    test, null = probe.result.test, probe.result.null
    return {
        "layer": probe.result.layer,
        "C": probe.result.C,
        "auroc": test.estimate,
        "low": test.low,
        "high": test.high,
        "n": test.n,
        "null_mean": null.mean,
        "null_low": null.low,
        "null_high": null.high,
        "p": null.p,
    }
