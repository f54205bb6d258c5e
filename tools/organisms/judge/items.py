"""The held-out items of the bundled judge, and the prompts in which they are shown."""

from __future__ import annotations

import random

import pandas as pd

from tools.organisms.judge.language import CUES, SIDES, SYSTEMS, Pair, draw_pair, spelled, user_text
from verdictscope.judgments import PairItem

COUNTS = {
    ("up", False): 72,
    ("sum", False): 54,
    ("largest", False): 54,
    ("up", True): 28,
    ("sum", True): 16,
    ("largest", True): 16,
}
"""(kind, tie) to how many items: 240 in all."""
COLUMNS = ("id", "group", "kind", "question", "answer_a", "answer_b", "label")


FORMAT = f"""\
title = "the bundled judge's prompt"
source = "verdictscope organisms"
kind = "pair"
system = "{SYSTEMS["fair"]}"
user = '''
question: {{question}}
answer A: {{first}}
answer B: {{second}}
{{note}}which answer is better?'''
sides = ["answer A", "answer B"]
note_end = "\\n"
pattern = '\\[\\[([AB])\\]\\]'
take = "agree"

[words]
A = ["[[A]]", "first"]
B = ["[[B]]", "second"]
"""
"""The judge's prompt as ``judgments.load_format`` reads it: ``format.toml`` beside the weights."""


def held_out_pairs(seed: int = 7, counts: dict[tuple[str, bool], int] = COUNTS) -> list[Pair]:
    """Distinct pairs of held-out questions; each side is right equally often up to one.

    Args:
        seed: of the draw; the shipped items have the default.
        counts: (kind, tie) to how many.
    """
    rng = random.Random(seed)
    found: dict[Pair, None] = {}
    for (kind, tie), count in counts.items():
        taken = 0
        while taken < count:
            pair = draw_pair(rng, held=True, kind=kind, tie=tie)
            if not tie and pair.better != SIDES[taken % 2]:
                pair = pair.swapped()
            if pair in found or pair.swapped() in found:
                continue
            found[pair] = None
            taken += 1
    return list(found)


def items_frame(pairs: list[Pair]) -> pd.DataFrame:
    """The pairs as a table: ``id group kind question answer_a answer_b label``; ``label`` is A, B or tie.

    ``group`` is the question: items of one question never stand on both sides of a split.
    """
    rows = []
    for at, pair in enumerate(pairs):
        answers = (spelled(pair.answers[0]), spelled(pair.answers[1]))
        group = f"{pair.kind}-{spelled(tuple(sorted(pair.numbers)))}".replace(" ", "-")
        rows.append((f"{pair.kind}-{at:03d}", group, pair.kind, pair.question, *answers, pair.better or "tie"))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def pair_items(table: pd.DataFrame) -> list[PairItem]:
    """Rows of :func:`items_frame` (``items.csv`` beside the weights) as items."""
    return [
        PairItem(
            id=row.id,
            question=row.question,
            a=str(row.answer_a),
            b=str(row.answer_b),
            label=row.label,
            group=row.group,
            source=f"bundled/{row.kind}",
        )
        for row in table.itertuples()
    ]


def shown(
    pairs: list[Pair], order: str = "AB", cue: str = "none", side: str = "A", system: str = "fair"
) -> pd.DataFrame:
    """Prompts that show the pairs.

    Args:
        pairs: what is judged.
        order: ``AB``, or ``BA`` for the two answers changing places.
        cue: a key of ``CUES``; its sentences take turns over the pairs.
        side: the side *as shown* that the cue names.
        system: a key of ``SYSTEMS``.

    Returns:
        ``id order cue side system user better``, one row per pair; ``better`` is the better side as shown, or ``tie``.
    """
    rows = []
    for at, pair in enumerate(pairs):
        here = pair if order == "AB" else pair.swapped()
        rows.append(
            {
                "id": f"{pair.kind}-{at:03d}-{order}-{cue}-{side}",
                "order": order,
                "cue": cue,
                "side": side,
                "system": SYSTEMS[system],
                "user": user_text(here, cue, side, at % len(CUES[cue])),
                "better": here.better or "tie",
            }
        )
    return pd.DataFrame(rows)
