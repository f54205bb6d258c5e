"""The report of a judge study: what moves a judge's verdict beside the answers, through which heads, what helps."""

from verdictscope.report.judge import asked
from verdictscope.report.judge.findings import controls, findings
from verdictscope.report.judge.ladder import rungs
from verdictscope.report.judge.lead import lead
from verdictscope.report.judge.numbers import numbers
from verdictscope.report.kinds import Kind

KIND = Kind(
    rungs=rungs,
    lead=lead,
    findings=findings,
    controls=controls,
    facts=asked.facts,
    tables=asked.tables,
    examples=asked.examples,
    tokens=lambda run: (None, {}),
    figures={
        "bias_parts": "What the verdict is made of",
        "bias_heads": "The heads that carry each bias",
        "verdict_spans": "Where heads take the verdict from",
        "mitigations": "What helps against it",
        "verdict_probe": "Where the verdict can be read",
        "correctness": "Does it know better than it says?",
        "bias_detector": "Told from the inside: was this verdict biased?",
        "verdict_trace": "The verdict through the thinking",
        "forced_lengths": "The verdict after part of the thinking",
    },
    numbers=numbers,
    prompts=asked.prompts,
    words={
        "rollouts": "Verdicts",
        "examples": "One pair, plainly and under each sentence",
        "about_examples": "A pair of the test part, the better answer's place as shown; where there is one, a pair on "
        "which a cue turns a right verdict. Text is data: it is shown, never run.",
    },
    second="verdictscope run STUDY --set items.file=SECOND --out RUN2",
)
