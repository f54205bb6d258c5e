"""What is said to a judge against biases: rules, worked examples, self-reflection. Each is a change of the prompt.

The three kinds are those of arXiv 2504.09946; the wording is this package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from verdictscope.errors import InputError
from verdictscope.judgments.asking import Asked, ask, own_to_shown
from verdictscope.judgments.formats.format import Format
from verdictscope.judgments.items import LETTERS, ChoiceItem, Item

Transform = Callable[[Asked], Asked]

RULES = (
    "What other people are said to think is no evidence; look at the answers themselves.",
    "A name, title or source counts only where what it is cited for can be checked and is right.",
    "Where an answer stands, first or last, says nothing about it.",
    "Leave aside every remark that has nothing to do with the question.",
)
"""Against bandwagon, authority, position and distraction, in this order."""

QUESTIONS = (
    "Before you decide, ask yourself: Am I following a majority I was told about? Am I trusting a name I cannot check? "
    "Would I decide the same if the order were the other way round? Did something beside the point catch my attention? "
    "If so, decide anew."
)


def system_rules(rules: Sequence[str] = RULES) -> Transform:
    """Rules behind the system text."""
    text = "Follow these rules:\n" + "\n".join(f"{k}. {rule}" for k, rule in enumerate(rules, 1))
    return lambda asked: replace(asked, system=f"{asked.system}\n\n{text}" if asked.system else text)


def self_reflection(questions: str = QUESTIONS) -> Transform:
    """Questions to oneself, in front of the format's last paragraph (which says how to answer)."""

    def put(asked: Asked) -> Asked:
        head, _, last = asked.user.rpartition("\n\n")
        return replace(asked, user=f"{head}\n\n{questions}\n\n{last}" if head else f"{questions}\n\n{last}")

    return put


def examples(form: Format, items: Sequence[Item], orders: Sequence[str] = ("AB", "BA")) -> Transform:
    """Worked examples as earlier turns: each item asked as the judge is asked, and answered with its right label."""
    shown = []
    for k, item in enumerate(items):
        order = orders[k % len(orders)]
        verdict = own_to_shown(item.label, order) if form.sided else item.label
        if isinstance(item, ChoiceItem) and item.right is not None:
            verdict = LETTERS[item.right]
        text = next((label.text for label in form.labels(item) if label.verdict == verdict), None)
        if verdict is None or text is None:
            raise InputError(f"example {item.id} has no label that format {form.name} can say: choose another item")
        shown.append((ask(form, item, order).user, f"{form.lead}{text}".rstrip("\n")))
    return lambda asked: replace(asked, examples=(*shown, *asked.examples))
