"""Rows of public sets of single answers, multiple-choice questions, questions and debates."""

from __future__ import annotations

from functools import partial
from typing import Any

from verdictscope.judgments.items import LETTERS, AnswerItem, ChoiceItem, DebateItem, Step, Turn
from verdictscope.judgments.loaders.registry import loader
from verdictscope.judgments.loading import BadRow, Notes, Row, identity, optional, rest, text

JUDGES = (
    *("Mistral-7B", "Llama-7B", "Llama-13B", "Llama3-8B", "Gemma-2B", "Llama-70B", "EM", "Llama3-70B", "GPT-4"),
    *("JudgeLM", "Contains"),
)
"""Columns of the Judging-the-Judges log that hold judges' verdicts."""


@loader("TriviaQA answers with a human's verdict", licence="MIT by classifier")
def judging_the_judges(row: Row, notes: Notes, part: str, number: int) -> AnswerItem:
    """UMass-Meta-LLM-Eval/llm_eval: exam answers with references and a human's verdict; rows of one question are a
    group."""
    label = notes.right(row.get("HumanJudgement"))
    question = text(row, "question")
    tags = {"model": row.get("model"), "judges": {name: row[name] for name in JUDGES if name in row}}
    return AnswerItem(
        id=f"{part}-{number}",
        group=question,
        question=question,
        answer=text(row, "response", empty=True),
        label=label,
        reference=text(row, "references"),
        source=f"judging_the_judges/{row.get('benchmark') or part}",
        tags=tags,
    )


@loader("answers of graded quality", licence="MIT")
def trustjudge(row: Row, notes: Notes, part: str) -> list[AnswerItem]:
    """TrustJudge/TrustJudge: questions with answers sorted by score; one item an answer, the score in its tags."""
    found = []
    for answer in row["answers"]:
        said = answer["text"] if isinstance(answer["text"], list) else [answer["text"]]
        judged = answer.get("judgement") or [None] * len(said)
        for k, (one, judgement) in enumerate(zip(said, judged, strict=True)):
            found.append(
                AnswerItem(
                    id=f"{identity(row, 'question_id')}/{answer['score']}-{k}",
                    group=identity(row, "question_id"),
                    question=text(row, "question"),
                    answer=one,
                    label=str(answer["score"]),
                    allowed=("1", "2", "3", "4", "5"),
                    source=f"trustjudge/{row.get('category') or part}",
                    tags={"judgement": judgement},
                )
            )
    if not found:
        raise BadRow("no answers")
    return found


@loader("questions with GPT-4 reference answers", licence="Apache-2.0")
def mt_bench(row: Row, notes: Notes, part: str) -> AnswerItem:
    """lm-sys/FastChat: reference answers of the first turn, joined with the questions by ``question_id``."""
    turns = row["choices"][0]["turns"]
    return AnswerItem(
        id=identity(row, "question_id"),
        question=row["turns"][0],
        answer=turns[0],
        reference=turns[0],
        allowed=(),
        source=f"mt_bench/{row.get('category') or part}",
        tags={"model": row.get("model_id"), "questions": row["turns"], "answers": turns},
    )


@loader("RBD's sentiment set, plain options", name="rbd_scienceqa", licence="CC BY-NC-SA 4.0")
def scienceqa(row: Row, notes: Notes, part: str, number: int, options: str = "choices") -> ChoiceItem:
    """RBD's sentiment set: ``choices``, or ``sentiment_choices`` where tone was rewritten and facts were not."""
    choices, rewritten = list(row["choices"]), list(row["sentiment_choices"])
    if len(choices) != len(rewritten):
        raise BadRow(f"{len(choices)} options and {len(rewritten)} rewritten ones")
    return ChoiceItem(
        id=f"scienceqa-{number}",
        question=text(row, "question"),
        options=tuple(rewritten if options == "sentiment_choices" else choices),
        label=_letter(row.get("answer"), len(choices), notes),
        context=optional(row, "hint"),
        source=f"rbd/scienceqa/{row.get('subject') or part}",
        tags={"skill": row.get("skill"), "grade": row.get("grade"), "options": options},
    )


@loader("up to ten options", hub="TIGER-Lab/MMLU-Pro", split="PART", parts=("test", "validation"), licence="MIT")
def mmlu_pro(row: Row, notes: Notes, part: str) -> ChoiceItem:
    """TIGER-Lab/MMLU-Pro: up to ten options, ``answer`` a letter and ``answer_index`` its number."""
    options = tuple(row["options"])
    label = _letter(row.get("answer_index"), len(options), notes)
    letter = row.get("answer")
    if label is not None and letter is not None and letter != label:
        notes.add("mixed_order", f"answer {letter!r} and answer_index {row['answer_index']} name different options")
        label = None
    return ChoiceItem(
        id=identity(row, "question_id"),
        question=text(row, "question"),
        options=options,
        label=label,
        source=f"mmlu_pro/{row.get('category') or part}",
        tags=rest(row, "question_id", "question", "options", "answer", "answer_index", "category"),
    )


@loader("solutions with step labels, in the plain form", name="steps")
def projudge(row: Row, notes: Notes, part: str, number: int) -> AnswerItem:
    """A solution with step labels: ``steps`` (texts), ``labels`` (right or not), ``errors`` (types); gaps are null."""
    texts, labels = list(row["steps"]), list(row["labels"])
    kinds = list(row.get("errors") or [None] * len(texts))
    if not len(texts) == len(labels) == len(kinds):
        raise BadRow(f"{len(texts)} steps, {len(labels)} labels and {len(kinds)} error types")
    right = [{"correct": True, "incorrect": False}.get(notes.right(label) or "") for label in labels]
    steps = tuple(Step(text, ok, kind) for text, ok, kind in zip(texts, right, kinds, strict=True))
    return AnswerItem(
        id=identity(row, "id", default=f"{part}-{number}"),
        question=text(row, "question"),
        answer="\n".join(texts),
        steps=steps,
        label=None if None in right else "correct" if all(right) else "incorrect",
        reference=optional(row, "reference"),
        source=f"steps/{row.get('category') or part}",
        tags=rest(row, "id", "question", "steps", "labels", "errors", "reference", "category"),
    )


@loader("debates, in the plain form")
def debate(row: Row, notes: Notes, part: str, number: int) -> DebateItem:
    """A debate in the plain form: ``question a b label`` and ``turns`` as a list of speaker (A or B) and text."""
    turns = tuple(Turn(turn["speaker"], turn["text"]) for turn in row["turns"])
    label = row.get("label")
    if label not in ("A", "B", None):
        notes.add("unknown_label", f"label {label!r}")
        label = None
    return DebateItem(
        id=identity(row, "id", default=f"{part}-{number}"),
        question=text(row, "question"),
        a=text(row, "a", empty=True),
        b=text(row, "b", empty=True),
        turns=turns,
        label=label,
        context=optional(row, "context"),
        source=f"debate/{part}",
        tags=rest(row, "id", "question", "a", "b", "turns", "label", "context"),
    )


def _letter(index: Any, n: int, notes: Notes) -> str | None:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n:
        notes.add("unknown_label", f"label {index!r}")
        return None
    return LETTERS[index]


_SENTIMENT = loader("RBD's sentiment set, options rewritten in tone", name="rbd_sentiment", licence="CC BY-NC-SA 4.0")(
    partial(scienceqa, options="sentiment_choices")
)
