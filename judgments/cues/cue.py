"""Cues: what should not move a judge, put into a prompt beside a control that differs in nothing else.

Every cue makes two variants of an item, control and cued. The same sentence serves the right and the wrong side;
where the
variants differ by a text, the control holds a neutral one of the same number of tokens at the same point, so that
length
and distance are no explanation. Faults of earlier studies that this rules out are named in arXiv 2504.09946's own code:
other sentences for right and wrong options, and a place that moves with the condition.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.judgments.asking import Insertion
from verdictscope.judgments.cues.padding import ALONE, INLINE, matched
from verdictscope.judgments.items import ChoiceItem, Item, PairItem
from verdictscope.provenance import digest


@cache
def sentences() -> Mapping[str, tuple[str, tuple[str, ...]]]:
    """Place and sentences of every cue that is a text."""
    data = tomllib.loads((Path(__file__).parent / "sentences.toml").read_text(encoding="utf-8"))
    return {kind: (entry["place"], tuple(entry["texts"])) for kind, entry in data.items()}


TEXTED = tuple(sentences())
"""Cues that are a text put into the prompt; ``citation`` is authority at the end of an answer."""

KINDS = (*TEXTED, "position", "wrong_reference", "random_reference", "no_reference", "version")
"""All cues. ``position`` shows the target first instead of last; the references replace the item's own; ``version``
takes the cued wording from a second version of the same items (RBD's rewritten options)."""

UNSIDED = ("reflection", "no_reference", "random_reference", "version")
"""Cues that favour no side of the item."""


@dataclass(frozen=True)
class Variant:
    """One condition of an item: the item as it is asked, what is put into its prompt, and its order where fixed."""

    item: Item
    insertions: tuple[Insertion, ...] = ()
    order: str | None = None


@dataclass(frozen=True)
class Cue:
    """A cue on one item."""

    kind: str
    target: str | None
    toward: str | None
    text: str
    place: str
    neutral: str
    control: Variant
    cued: Variant


def targets(item: Item, toward: str) -> str | None:
    """The verdict a cue should favour: the right one, or a wrong one (of several, drawn from the item's id)."""
    if toward not in ("right", "wrong"):
        raise InputError(f"toward {toward!r} is neither right nor wrong")
    sides = item.verdicts if isinstance(item, ChoiceItem) else ("A", "B")
    if item.label not in sides:
        return None  # a tie or no label: no side is wrong
    wrong = [side for side in sides if side != item.label]
    return item.label if toward == "right" else wrong[int(digest(item.id)[:8], 16) % len(wrong)]


def make_cue(
    kind: str,
    item: Item,
    target: str | None = None,
    *,
    text: str | int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    other: Item | None = None,
) -> Cue:
    """A cue on an item."""
    if kind not in KINDS:
        raise InputError(f"cue {kind!r} is not one of {', '.join(KINDS)}")
    if target is None and kind not in UNSIDED:
        raise InputError(f"cue {kind} favours a side: name the target (a tie or an item without label has none)")
    if target is not None and target not in item.verdicts:
        raise InputError(f"item {item.id} has no side {target!r}: there are {', '.join(item.verdicts)}")
    toward = None if target is None or item.label is None else "right" if target == item.label else "wrong"
    if kind == "position":
        named = target or ""
        if isinstance(item, ChoiceItem):
            at, last = item.letters.index(named), len(item.options) - 1
            variants = Variant(item.moved(at, last)), Variant(item.moved(at, 0))
        else:
            first = "AB" if named == "A" else "BA"
            variants = Variant(item, order=first[::-1]), Variant(item, order=first)
        return Cue("position", named, toward, "", "order", "", *variants)
    if kind == "version":
        if other is None or other.id != item.id or other.label != item.label:
            raise InputError(f"item {item.id}: name the same item (id and label) in its cued wording")
        return Cue("version", None, toward, "", "item", "", Variant(item), Variant(other))
    if kind.endswith("reference"):
        # the item's own reference against none, another question's, or the target's answer passed off as one
        if item.reference is None and kind != "wrong_reference":
            raise InputError(f"item {item.id} has no reference to be replaced")
        shown: str | None = None
        if kind == "random_reference":
            if other is None or other.reference is None or other.reference == item.reference:
                raise InputError(f"item {item.id}: name another item with a reference of its own")
            shown = other.reference
        if kind == "wrong_reference":
            sides = {"A": item.a, "B": item.b} if isinstance(item, PairItem) else {}
            options = dict(zip(item.letters, item.options, strict=True)) if isinstance(item, ChoiceItem) else {}
            shown = (sides | options).get(target or "") or (None if other is None else other.reference)
            if shown is None:
                raise InputError(f"item {item.id}: there is no answer to pass off as the reference")
        return Cue(
            kind,
            target,
            toward,
            shown or "",
            "reference",
            item.reference or "",
            Variant(item),
            Variant(replace(item, reference=shown)),
        )
    place, known = sentences()[kind]
    if isinstance(text, int) and not 0 <= text < len(known):
        raise InputError(f"cue {kind} has sentences 0 to {len(known) - 1}, not {text}")
    said = known[text] if isinstance(text, int) else text
    where = _where(place, item, target)
    around = INLINE if place == "answer" else ALONE
    beside = ALONE if kind == "verbosity" else around
    shown = said.replace("{target}", target or "")
    neutral = "" if tokenizer is None else matched(tokenizer, shown, around, beside)
    put = Insertion(where, said, target)
    # of verbosity the length is the cue: its control is as long, but not on the answer's account
    hold = (Insertion("note" if kind == "verbosity" else where, neutral, target),) if neutral else ()
    return Cue(kind, target, toward, said, where, neutral, Variant(item, hold), Variant(item, (put,)))


def _where(place: str, item: Item, target: str | None) -> str:
    if place == "answer":
        if isinstance(item, ChoiceItem):
            return "option"
        return "a" if target == "A" else "b"
    if place == "between" and isinstance(item, ChoiceItem):
        raise InputError("between two answers there is a place in pairs alone: use another cue for multiple choice")
    return place


def make_cues(
    kind: str,
    items: Sequence[Item],
    toward: str = "wrong",
    *,
    text: str | int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    others: Mapping[str, Item] | None = None,
) -> tuple[list[Cue], dict[str, str]]:
    """A cue on every item it fits.

    Args:
        kind: which.
        items: the items.
        toward: whether the cue favours the right or a wrong verdict.
        text: number of a sentence or a text, the same for all; by default each item draws a sentence from its id, the
            same one for its right and its wrong side.
        tokenizer: for matched controls.
        others: item id to the other item (references, versions); by default the next item's reference.

    Returns:
        The cues, and by id why an item has none (no label, a tie, no reference): none is left out in silence.

    Raises:
        InputError: an unknown kind, sentence or ``toward``.

    Example:
        >>> from verdictscope.judgments import PairItem
        >>> pair = PairItem(id="q1", question="Which is even?", a="2", b="3", label="A")
        >>> cues, without = make_cues("bandwagon", [pair], toward="wrong")
        >>> cues[0].target, without
        ('B', {})
    """
    if kind not in KINDS:
        raise InputError(f"cue {kind!r} is not one of {', '.join(KINDS)}")
    n = len(sentences()[kind][1]) if kind in TEXTED else 1
    if isinstance(text, int) and not 0 <= text < n:
        raise InputError(f"cue {kind} has sentences 0 to {n - 1}, not {text}")
    cues, left = [], {}
    for k, item in enumerate(items):
        said = int(digest(item.id)[:8], 16) // 7 % n if text is None else text
        other = (others or {}).get(item.id, items[(k + 1) % len(items)] if kind.endswith("reference") else None)
        target = None if kind in UNSIDED else targets(item, toward)
        try:
            cues.append(make_cue(kind, item, target, text=said, tokenizer=tokenizer, other=other))
        except InputError as error:
            left[item.id] = str(error)
    return cues, left
