"""Rows of public pair sets become pairs.

Where a set names the better answer by its column (chosen, positive), that answer is ``a`` and the label ``"A"``: judge
such a set in both orders, or in a random one, never in one alone.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from typing import Any

from verdictscope.judgments.items import PAIR_LABELS, PairItem
from verdictscope.judgments.loaders.registry import loader
from verdictscope.judgments.loading import BadRow, Notes, Row, identity, optional, rest, text

JUDGEBENCH = {"A>B": "A", "B>A": "B"}
LLMBAR = {1: "A", 2: "B", "1": "A", "2": "B"}
ANNOTATORS = ("annotator1", "annotator2", "annotator3")
CONTEXTUAL = tuple(
    f"{kind}_{task}"
    for kind, tasks in {
        "refusal": ("answerable", "unanswerable"),
        "faithfulness": ("qa", "summ"),
        "completeness": ("qa", "summ"),
        "conciseness": ("qa", "summ"),
    }.items()
    for task in tasks
)
PLAIN = ("id", "question", "answer_a", "answer_b", "label", "group", "source")


@loader("pairs in the plain form", name="pairs")
def plain(row: Row, notes: Notes, part: str) -> PairItem:
    """The plain form: ``id question answer_a answer_b``, and where known ``label`` (A, B or tie), ``group``,
    ``source``."""
    return PairItem(
        id=identity(row, "id"),
        question=text(row, "question"),
        a=text(row, "answer_a", empty=True),
        b=text(row, "answer_b", empty=True),
        label=None if row.get("label") in (None, "") else notes.label(row["label"], {s: s for s in PAIR_LABELS}),
        group=identity(row, "group", default=""),
        source=optional(row, "source") or part,
        tags=rest(row, *PLAIN),
    )


@loader(
    "pairs with an objectively right answer",
    hub="ScalerLab/JudgeBench",
    split="PART",
    parts=("gpt", "claude"),
    licence="none stated",
)
def judgebench(row: Row, notes: Notes, part: str) -> PairItem:
    """ScalerLab/JudgeBench: ``response_A``, ``response_B``, label ``A>B`` or ``B>A``; files of judges' outputs too."""
    label = notes.label(row.get("label"), JUDGEBENCH)
    return PairItem(
        id=identity(row, "pair_id"),
        question=text(row, "question"),
        a=text(row, "response_A", empty=True),
        b=text(row, "response_B", empty=True),
        label=label,
        source=f"judgebench/{row.get('source') or part}",
        tags=rest(row, "pair_id", "question", "response_A", "response_B", "label", "source", "judgments"),
    )


@loader("instruction following, natural and adversarial pairs", licence="MIT")
def llmbar(row: Row, notes: Notes, part: str, number: int) -> PairItem:
    """princeton-nlp/LLMBar: ``output_1``, ``output_2``, label 1 or 2. Rows have no id: they are numbered."""
    return PairItem(
        id=f"{part}-{number}",
        question=text(row, "input"),
        a=text(row, "output_1", empty=True),
        b=text(row, "output_2", empty=True),
        label=notes.label(row.get("label"), LLMBAR),
        source=f"llmbar/{part}",
        tags=rest(row, "input", "output_1", "output_2", "label"),
    )


@loader("pairs labelled by three annotators", licence="Apache-2.0")
def pandalm(row: Row, notes: Notes, part: str) -> PairItem:
    """WeOpenML/PandaLM: three annotators' 0 (tie), 1 or 2; the label is what more than half of them say."""
    votes = [notes.label(row[name], {0: "tie", 1: "A", 2: "B"}) for name in ANNOTATORS if row.get(name) is not None]
    label, count = Counter(votes).most_common(1)[0] if votes else (None, 0)
    if label is not None and 2 * count <= len(votes):
        notes.add("unknown_label", f"no majority among {votes}")
        label = None
    # six answers that are the word "True" stand in the file as booleans
    row = {**row, **{k: str(row[k]) for k in ("response1", "response2") if isinstance(row.get(k), bool)}}
    asked = [optional(row, name) for name in ("instruction", "input")]  # either may be blank
    return PairItem(
        id=identity(row, "idx"),
        question="\n\n".join(words for words in asked if words),
        a=text(row, "response1", empty=True),
        b=text(row, "response2", empty=True),
        label=label,
        source=f"pandalm/{row.get('motivation_app') or part}",
        tags={"votes": votes, **rest(row, "idx", "instruction", "input", "response1", "response2", *ANNOTATORS)},
    )


@loader("RBD's position and bandwagon pairs", name="rbd_arena", licence="none stated")
def arena(row: Row, notes: Notes, part: str) -> PairItem:
    """RBD's position and bandwagon pairs: both orders in one row, each with its own truth."""
    original, turned = _mapping(row["original"]), _mapping(row["reversed"])
    names = {1: "A", 2: "B"}
    label = notes.label(row.get("ground_truth_original"), names)
    other = row.get("ground_truth_reversed")
    if (original["response_a"], original["response_b"]) != (turned["response_b"], turned["response_a"]):
        notes.add("mixed_order", "the reversed answers are not the original ones exchanged")
        label = None
    elif label is not None and other in names and names[other] == label:
        notes.add("mixed_order", f"truth {row['ground_truth_original']}, and {other} in the reversed order")
        label = None
    return PairItem(
        id=identity(row, "id"),
        question=text(row, "prompt"),
        a=text(original, "response_a", empty=True),
        b=text(original, "response_b", empty=True),
        label=label,
        source="rbd/arena",
        tags={"model_a": original.get("model_a"), "model_b": original.get("model_b")},
    )


@loader("RBD's verbosity pairs", name="rbd_gsm8k", licence="none stated")
def gsm8k(row: Row, notes: Notes, part: str, number: int) -> PairItem:
    """RBD's verbosity pairs: a full right solution (A) against a wrong one; ``tags["short"]`` is the right number."""
    return PairItem(
        id=f"gsm8k-{number}",
        question=text(row, "question"),
        a=text(row, "answer", empty=True),
        b=text(row, "gemma_answer", empty=True),
        label="A",
        source="rbd/gsm8k",
        tags={"short": text(row, "single_correct_answer")},
    )


@loader(
    "code generation, repair and tests",
    hub="mattymchen/codejudgebench",
    config="PART",
    parts=("codegen", "coderepair", "testgen"),
    licence="Apache-2.0 (code)",
)
def codejudgebench(row: Row, notes: Notes, part: str, number: int) -> PairItem:
    """mattymchen/codejudgebench: code generation and repair (``pos_response``) and tests (``pos_input``)."""
    question = text(row, "question_content")
    if optional(row, "wrong_code"):
        question += f"\n\nProgram to be repaired:\n{row['wrong_code']}"
    if meta := row.get("wrong_meta"):
        known = meta if isinstance(meta, Mapping) else {}
        told = [f"{key}: {value}" for key, value in known.items() if value not in (None, "") and key != "error_code"]
        question += "\n\nWhat is wrong with it:\n" + ("\n".join(told) if known else str(meta))
    used = ("question_content", "pos_response", "neg_response", "pos_input", "neg_input", "wrong_code", "wrong_meta")
    return PairItem(
        id=identity(row, "id", "question_id", default=f"{part}-{number}"),
        group=identity(row, "question_id", default=f"{part}-{number}"),
        question=question,
        a=text(row, "pos_response", "pos_input", empty=True),
        b=text(row, "neg_response", "neg_input", empty=True),
        label="A",
        source=f"codejudgebench/{part}",
        tags=rest(row, *used),
    )


@loader(
    "pairs judged by a context",
    hub="Salesforce/ContextualJudgeBench",
    split="PART",
    parts=CONTEXTUAL,
    licence="see the hub",
)
def contextualjudgebench(row: Row, notes: Notes, part: str, number: int) -> PairItem:
    """Salesforce/ContextualJudgeBench: a positive and a negative response to a question about a context."""
    return PairItem(
        id=f"{part}-{number}",  # its question_id says where a question is from, and repeats
        question=optional(row, "question") or "Summarise the passage.",
        a=text(row, "positive_response", empty=True),
        b=text(row, "negative_response", empty=True),
        label="A",
        context=text(row, "context"),
        source=f"contextualjudgebench/{part}",
        tags=rest(row, "question", "positive_response", "negative_response", "context"),
    )


@loader(
    "chosen against rejected", hub="allenai/reward-bench", split="PART", parts=("filtered", "raw"), licence="ODC-BY"
)
def rewardbench(row: Row, notes: Notes, part: str) -> PairItem | list[PairItem]:
    """allenai/reward-bench (``chosen``, ``rejected`` as text) and reward-bench-2 (lists: one pair per rejected one)."""
    chosen, rejected = row["chosen"], row["rejected"]
    source = f"rewardbench/{row.get('subset') or part}"
    if isinstance(chosen, str):
        return _preferred(row, identity(row, "id"), chosen, text(row, "rejected"), source)
    if not chosen or not rejected:
        raise BadRow("chosen or rejected is empty")
    group, pairs = identity(row, "id"), []
    for k, right in enumerate(chosen):
        for j, wrong in enumerate(rejected):
            pairs.append(_preferred(row, f"{group}/{k}-{j}", right, wrong, source, group))
    return pairs


@loader("pairs scored by GPT-4", hub="BAAI/JudgeLM-100K", split="PART", parts=("val", "train"), licence="see the hub")
def judgelm(row: Row, notes: Notes, part: str) -> PairItem:
    """BAAI/JudgeLM-100K: two answers with a teacher's scores; equal scores are a tie, a missing one (-1) no label."""
    scores = row.get("score")
    label = None
    if isinstance(scores, list | tuple) and len(scores) >= 2 and all(isinstance(s, int | float) for s in scores[:2]):
        first, second = float(scores[0]), float(scores[1])
        if min(first, second) < 0:
            notes.add("unknown_label", f"label {list(scores)}")
        else:
            label = "tie" if first == second else "A" if first > second else "B"
    elif scores is not None:
        notes.add("unknown_label", f"label {scores!r}")
    reference = row.get("reference")
    reference = reference.get("text") if isinstance(reference, Mapping) else reference
    return PairItem(
        id=identity(row, "question_id"),
        question=text(row, "question_body"),
        a=text(row, "answer1_body", empty=True),
        b=text(row, "answer2_body", empty=True),
        label=label,
        reference=reference if isinstance(reference, str) and reference.strip() else None,
        source=f"judgelm/{part}",
        tags={"score": scores, "model_a": row.get("answer1_model_id"), "model_b": row.get("answer2_model_id")},
    )


@loader("DPO pairs", name="emerton_dpo", hub="yleo/emerton_dpo_pairs_judge")
@loader("DPO pairs", name="orca_dpo", hub="Intel/orca_dpo_pairs", licence="Apache-2.0")
@loader("DPO pairs of Python code", name="py_dpo", hub="jondurbin/py-dpo-v0.1", licence="CC BY 4.0")
@loader("DPO pairs about truth", name="truthy_dpo", hub="jondurbin/truthy-dpo-v0.1", licence="CC BY 4.0")
def dpo(row: Row, notes: Notes, part: str, number: int) -> PairItem:
    """The four DPO sets of the judging-bias study (Emerton, Orca, Py, Truthy): chosen against rejected."""
    name = identity(row, "id", default=f"{part}-{number}")
    return _preferred(row, name, text(row, "chosen"), text(row, "rejected"), f"dpo/{part}")


def _preferred(row: Row, id: str, a: str, b: str, source: str, group: str = "") -> PairItem:
    question = text(row, "prompt", "question", "input")
    used = ("id", "prompt", "question", "input", "chosen", "rejected", "system")
    system = optional(row, "system")
    return PairItem(
        id=id, group=group, question=question, a=a, b=b, label="A", system=system, source=source, tags=rest(row, *used)
    )


def _mapping(value: Any) -> dict[str, Any]:
    """A dictionary, also where it is written as Python's repr."""
    found = ast.literal_eval(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise BadRow(f"{type(found).__name__} where a dictionary should be")
    return found
