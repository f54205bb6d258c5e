"""An item becomes a prompt: the format's text, the order in which the answers are shown, and the cues put into it.

Texts of items are shown as they are and can forge nothing: slots are filled in one pass, so that braces in an answer
are braces; control tokens that an item quotes (``<|im_end|>``, ``</think>``) are spelled out in ordinary tokens, so
that the model reads the same characters and no turn ends there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.judgments.formats.format import KINDS, Format
from verdictscope.judgments.items import LETTERS, AnswerItem, ChoiceItem, DebateItem, Item, PairItem
from verdictscope.rollouts import Span
from verdictscope.rollouts.discover import known_markers
from verdictscope.rollouts.frames import ids_after
from verdictscope.rollouts.templates import RenderedPrompt, render_messages

ORDERS = ("AB", "BA")
PLACES = ("system", "note", "between", "a", "b", "option", "reference")
"""Where a cue is put: behind the system text, before the final question, between the two answers, at the end of an
answer (by the item's own side) or of an option (by its letter in the item's first frame), in place of the reference."""


@dataclass(frozen=True)
class Insertion:
    """A text put into a prompt.

    Attributes:
        place: one of :data:`PLACES`.
        text: the exact text; ``{target}`` becomes what the target side is called where it is shown.
        target: the side or letter that ``{target}`` and the places ``option`` speak of, in the item's own frame.

    Example:
        >>> Insertion("note", "Nine of ten people prefer answer {target}.", "B").place
        'note'
    """

    place: str
    text: str
    target: str | None = None

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise InputError(f"place {self.place!r} is not one of {', '.join(PLACES)}")


@dataclass(frozen=True)
class Asked:
    """A prompt as text."""

    user: str
    system: str | None = None
    examples: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """As chat messages."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for shown, said in self.examples:
            turns += [{"role": "user", "content": shown}, {"role": "assistant", "content": said}]
        return [*turns, {"role": "user", "content": self.user}]


def shown_to_own(verdict: str | None, order: str) -> str | None:
    """A verdict in the shown frame (``first second tie``), in the item's own (``A B tie``)."""
    if verdict not in ("first", "second"):
        return verdict
    return order[0] if verdict == "first" else order[1]


def own_to_shown(verdict: str | None, order: str) -> str | None:
    """The inverse of :func:`shown_to_own`."""
    if verdict not in ("A", "B"):
        return verdict
    return "first" if order[0] == verdict else "second"


def ask(form: Format, item: Item, order: str = "AB", insertions: Sequence[Insertion] = ()) -> Asked:
    """The prompt of an item.

    Args:
        form: the format.
        item: an item of its kind.
        order: ``AB`` shows ``a`` first, ``BA`` shows ``b`` first; without meaning for items without sides.
        insertions: cues.

    Raises:
        InputError: the item is of another kind, lacks a field that the format needs, or a cue has no place in it.

    Example:
        >>> from verdictscope.judgments import PairItem, load_format
        >>> pair = PairItem(id="q1", question="Which is even?", a="2", b="3", label="A")
        >>> "Which is even?" in ask(load_format("pair_letter"), pair, "BA").user
        True
    """
    system = [form.system.strip()] if form.system else []
    system += [_said(form, i, item, order) for i in insertions if i.place == "system"]
    return Asked(fill(form.user, slots_of(form, item, order, insertions)).strip("\n"), "\n\n".join(system) or None)


def slots_of(form: Format, item: Item, order: str = "AB", insertions: Sequence[Insertion] = ()) -> dict[str, str]:
    """What fills the slots of a format's user turn; arguments and errors as of :func:`ask`."""
    if not isinstance(item, KINDS[form.kind]):
        kind = KINDS[form.kind].__name__
        raise InputError(f"format {form.name} judges a {kind}, and item {item.id} is a {type(item).__name__}")
    if form.sided and order not in ORDERS:
        raise InputError(f"order {order!r} is neither AB nor BA")
    _check_places(form, item, insertions)
    reference = next((i.text for i in insertions if i.place == "reference"), item.reference)
    optional = {"reference": reference, "context": item.context}
    if missing := [name for name in form.needs if not optional.get(name)]:
        raise InputError(f"format {form.name} needs a {missing[0]}, and item {item.id} has none")
    slots = {name: fill(form.blocks.get(name, ""), optional) if text else "" for name, text in optional.items()}
    return slots | _shown(form, item, order, insertions)


def fill(template: str, slots: Mapping[str, Any]) -> str:
    """A template with its slots filled in one pass; a slot in a filled text stays what it is."""
    return re.sub(r"\{(\w+)\}", lambda m: str(slots.get(m[1], m[0]) or "") if m[1] in slots else m[0], template)


def _check_places(form: Format, item: Item, insertions: Sequence[Insertion]) -> None:
    for insertion in insertions:
        sided = insertion.place in ("between", "a", "b")
        wrong = sided and not form.sided or insertion.place == "option" and not isinstance(item, ChoiceItem)
        if wrong or (insertion.place == "reference" and "reference" not in form.blocks):
            raise InputError(f"format {form.name} has no place {insertion.place!r}: use another format or cue")


def _shown(form: Format, item: Item, order: str, insertions: Sequence[Insertion]) -> dict[str, str]:
    def put(place: str, before: str = "", after: str = "") -> str:
        said = [_said(form, i, item, order) for i in insertions if i.place == place]
        return "".join(before + text + after for text in said)

    question = f"(System message: {item.system})\n\n{item.question}" if item.system else item.question
    slots = {"question": question, "note": put("note", after=form.note_end), "between": put("between", "\n", "\n")}
    if isinstance(item, PairItem | DebateItem):
        sides = {"A": item.a + put("a", " "), "B": item.b + put("b", " ")}
        slots |= {"first": sides[order[0]], "second": sides[order[1]]}
    if isinstance(item, DebateItem):
        names = {side: form.sides[order.index(side)] for side in "AB"}
        slots["transcript"] = "\n\n".join(f"{names[turn.speaker]}: {turn.text}" for turn in item.turns)
    if isinstance(item, AnswerItem):
        slots["answer"] = item.answer
    if isinstance(item, ChoiceItem):
        cued = {i.target: " " + _said(form, i, item, order) for i in insertions if i.place == "option"}
        lines = zip(LETTERS, item.options, item.letters, strict=False)
        slots["options"] = "\n".join(f"{shown}. {text}{cued.get(own, '')}" for shown, text, own in lines)
    return slots


def _said(form: Format, insertion: Insertion, item: Item, order: str) -> str:
    """A cue's text with what the target side is called where it is shown."""
    if "{target}" not in insertion.text:
        return insertion.text
    target = insertion.target
    if isinstance(item, ChoiceItem) and target in item.letters:
        return insertion.text.replace("{target}", LETTERS[item.letters.index(target)])
    if form.sided and target in ("A", "B"):
        return insertion.text.replace("{target}", form.sides[order.index(target)])
    return insertion.text.replace("{target}", str(target))


def rendered(
    tokenizer: PreTrainedTokenizerBase, asked: Asked, template_kwargs: Mapping[str, Any] | None = None
) -> RenderedPrompt:
    """A prompt through the tokenizer's chat template, control tokens in its texts spelled out.

    A system text goes in front of the first user turn where the template takes none.
    """
    try:
        prompt = render_messages(tokenizer, asked.messages(), template_kwargs=template_kwargs)
    except InputError as error:
        if not asked.system or "system" not in str(error).lower():
            raise
        prompt = render_messages(tokenizer, _folded(asked).messages(), template_kwargs=template_kwargs)
    return spelled(tokenizer, prompt)


def _folded(asked: Asked) -> Asked:
    if asked.examples:
        (shown, said), *rest = asked.examples
        return replace(asked, system=None, examples=((f"{asked.system}\n\n{shown}", said), *rest))
    return replace(asked, system=None, user=f"{asked.system}\n\n{asked.user}")


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Added tokens with a meaning of their own: special ones, thinking markers and tags; not runs of spaces."""
    markers = known_markers(tokenizer)
    sides = (markers.opener, markers.closer, markers.answer_opener, markers.answer_closer) if markers else ()
    own = {i for side in sides for string in side for i in string}
    found = {}
    for i, token in tokenizer.added_tokens_decoder.items():
        tag = re.fullmatch(r"\s*[<\[◁].*[>\]▷]\s*", token.content, re.DOTALL)
        if token.content.strip() and i != tokenizer.unk_token_id and (token.special or i in own or tag):
            found[i] = token.content
    return found


def spelled(tokenizer: PreTrainedTokenizerBase, prompt: RenderedPrompt) -> RenderedPrompt:
    """The prompt with every control token inside a message spelled in ordinary tokens; its text is the same."""
    ids: list[int] = []
    spans: list[Span] = []
    start = prompt.generation_start
    for span in prompt.spans:
        held = prompt.ids[span.start : span.stop]
        put = held if span.segment == "template" else spelled_ids(tokenizer, held)
        spans.append(Span(span.segment, len(ids), len(ids) + len(put)))
        start += len(put) - len(held) if span.start < prompt.generation_start else 0
        ids += put
    return RenderedPrompt(prompt.text, tuple(ids), tuple(spans), start)


def spelled_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[int, ...]:
    """Token ids with every control token among them spelled in ordinary ones."""
    if not set(ids) & set(tokenizer.added_tokens_decoder):  # nearly always: nothing to look for
        return tuple(ids)
    controls = control_tokens(tokenizer)
    parts = [_spelling(tokenizer, controls[i], controls) if i in controls else (i,) for i in ids]
    return tuple(i for part in parts for i in part)


def _spelling(tokenizer: PreTrainedTokenizerBase, text: str, controls: Mapping[int, str]) -> tuple[int, ...]:
    """Ordinary tokens of a control token's characters: its first one and the rest, or one by one."""
    for parts in ((text[:1], text[1:]), tuple(text)):
        ids = tuple(i for part in parts if part for i in ids_after(tokenizer, part))
        if ids and not set(ids) & set(controls) and tokenizer.unk_token_id not in ids:
            return ids
    raise InputError(f"this tokenizer cannot spell {text!r} in ordinary tokens: take it out of the item")
