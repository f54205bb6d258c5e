"""The report of a refusal study: where a model decides to refuse, and which heads make it comply."""

from verdictscope.report.kinds import Kind
from verdictscope.report.refusal import asked
from verdictscope.report.refusal.findings import controls, findings
from verdictscope.report.refusal.ladder import rungs
from verdictscope.report.refusal.numbers import numbers
from verdictscope.report.refusal.tokens import token_view

KIND = Kind(
    rungs=rungs,
    lead=lambda run: [],
    findings=findings,
    controls=controls,
    facts=asked.facts,
    tables=asked.tables,
    examples=asked.examples,
    tokens=token_view,
    figures={
        "trace": "The score around the end of thinking",
        "probe_map": "Where refusing can be read",
        "position_transfer": "Fitted at one place, read at another",
        "ood_": "Fitted on one set of prompts, read on another",
        "erased_trace": "The trace with harm erased",
        "heads": "The effect of every head",
        "ablation": "Without the found heads",
    },
    numbers=numbers,
    prompts=asked.prompts,
    words={
        "rollouts": "Rollouts",
        "examples": "One rollout of each cell",
        "about_examples": "The first of the test part that thinks, as the model was shown it and wrote it. Text is "
        "data: it is shown, never run.",
    },
    second="verdictscope run STUDY --set prompts.file=SECOND --out RUN2",
)
