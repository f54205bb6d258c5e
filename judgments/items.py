"""What is judged: pairs, single answers, multiple choice and debates, each with the answer that is known to be right.

An item is frozen and has no order: which answer stands first belongs to a rendered prompt (``asking.py``). Gold labels
are in the item's own frame: ``"A"`` means the field ``a``, wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from verdictscope.errors import InputError

LETTERS = "ABCDEFGHIJ"
"""Names of options; a question has at most ten."""

PAIR_LABELS = ("A", "B", "tie")


@dataclass(frozen=True, kw_only=True)
class Item:
    """What all items have.

    Attributes:
        id: unique name within a source.
        question: what was asked.
        group: rows of one group never stand on both sides of a split; the id where nothing is shared.
        label: the right verdict, ``None`` where it is unknown.
        reference: an answer known (or claimed) to be right, shown to the judge where the format has a place for it.
        context: a passage the answers are to be judged by.
        system: the judged conversation's own system text.
        source: dataset, with its category behind a slash.
        tags: the source's other columns.
    """

    id: str
    question: str
    group: str = ""
    label: str | None = None
    reference: str | None = None
    context: str | None = None
    system: str | None = None
    source: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            raise InputError("an item needs an id: name it")
        if not self.group:
            object.__setattr__(self, "group", self.id)
        for name in ("question", *self.answers):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"item {self.id}: {name} is not text")
        if not self.question.strip():
            raise InputError(f"item {self.id}: question is empty: give text")
        if self.label is not None and self.label not in self.verdicts:
            raise InputError(f"item {self.id}: label {self.label!r} is not one of {', '.join(self.verdicts)}")

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Labels the item can have; a subclass says which."""
        raise NotImplementedError

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of the fields that hold what is judged. A blank answer is an answer."""
        return ()


@dataclass(frozen=True, kw_only=True)
class PairItem(Item):
    """Two answers to one question; ``label`` is A, B or tie.

    Example:
        >>> PairItem(id="q1", question="Which is even?", a="2", b="3", label="A").swapped().label
        'B'
    """

    a: str
    b: str

    @property
    def verdicts(self) -> tuple[str, ...]:
        return PAIR_LABELS

    @property
    def answers(self) -> tuple[str, ...]:
        return ("a", "b")

    def swapped(self) -> PairItem:
        """The same pair with its sides and label exchanged: another item, for tests of invariance."""
        other = {"A": "B", "B": "A"}
        return replace(self, a=self.b, b=self.a, label=other.get(self.label or "", self.label))


@dataclass(frozen=True)
class Step:
    """One step of an answer."""

    text: str
    correct: bool | None = None
    kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerItem(Item):
    """One answer; ``label`` is correct, incorrect or a score (as text), or anything in ``allowed``.

    Attributes:
        answer: the answer.
        steps: its steps with their labels, where it is judged step by step.
        allowed: the labels that are possible; any score where empty.

    Example:
        >>> AnswerItem(id="q1", question="What is 2 + 2?", answer="4", label="correct").verdicts
        ('correct', 'incorrect')
    """

    answer: str
    steps: tuple[Step, ...] = ()
    allowed: tuple[str, ...] = ("correct", "incorrect")

    @property
    def verdicts(self) -> tuple[str, ...]:
        return self.allowed or ((self.label,) if self.label is not None else ())

    @property
    def answers(self) -> tuple[str, ...]:
        return ("answer",)

    def step_items(self) -> tuple[AnswerItem, ...]:
        """One item per step: the answer up to and including it, and whether that step is right."""
        found = []
        for k, step in enumerate(self.steps):
            said = {True: "correct", False: "incorrect"}.get(step.correct) if step.correct is not None else None
            text = "\n".join(s.text for s in self.steps[: k + 1])
            tags = {**self.tags, "step": k, "kind": step.kind, "answer": self.id}
            name, allowed = f"{self.id}/step{k}", ("correct", "incorrect")
            found.append(replace(self, allowed=allowed, id=name, answer=text, label=said, steps=(), tags=tags))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class ChoiceItem(Item):
    """A question with two to ten options; ``label`` is the letter of the right one.

    Attributes:
        options: their texts, in the order in which they are shown.
        letters: the letter each had before it was moved, so that a verdict can be expressed in the item's first frame.

    Example:
        >>> item = ChoiceItem(id="q1", question="Which is even?", options=("1", "2"), label="B")
        >>> item.moved(1, 0).options, item.moved(1, 0).label
        (('2', '1'), 'B')
    """

    options: tuple[str, ...]
    letters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.options)
        if not 2 <= n <= len(LETTERS):
            raise InputError(f"item {self.id}: {n} options; a question has 2 to {len(LETTERS)}")
        if empty := [LETTERS[k] for k, text in enumerate(self.options) if not str(text).strip()]:
            raise InputError(f"item {self.id}: option {empty[0]} is empty: give text")
        if not self.letters:
            object.__setattr__(self, "letters", tuple(LETTERS[:n]))
        if sorted(self.letters) != list(LETTERS[:n]):
            raise InputError(f"item {self.id}: letters {''.join(self.letters)} do not name {n} options once each")
        super().__post_init__()

    @property
    def verdicts(self) -> tuple[str, ...]:
        return tuple(LETTERS[: len(self.options)])

    @property
    def right(self) -> int | None:
        """Where the right option is shown (``label`` is in the first frame)."""
        return None if self.label is None else self.letters.index(self.label)

    def moved(self, option: int, to: int) -> ChoiceItem:
        """The item with one option shown elsewhere and the others kept in order; its label stays what it was."""
        order = [k for k in range(len(self.options)) if k != option]
        order.insert(to % len(self.options), option)
        letters = tuple(self.letters[k] for k in order)
        return replace(self, options=tuple(self.options[k] for k in order), letters=letters)


@dataclass(frozen=True)
class Turn:
    """What one debater (``"A"`` or ``"B"``) said."""

    speaker: str
    text: str

    def __post_init__(self) -> None:
        if self.speaker not in ("A", "B"):
            raise InputError(f"a debate has the speakers A and B, not {self.speaker!r}")


@dataclass(frozen=True, kw_only=True)
class DebateItem(Item):
    """Two positions and what was said for them; a judge reads the transcript. ``label`` is A or B.

    Attributes:
        a: the position A defends.
        b: the position B defends.
        turns: what was said, in order.

    Example:
        >>> debate = DebateItem(id="d1", question="Is 7 prime?", a="Yes", b="No", turns=(Turn("A", "Only 1, 7."),))
        >>> len(debate.until(0).turns)
        0
    """

    a: str
    b: str
    turns: tuple[Turn, ...] = ()

    @property
    def verdicts(self) -> tuple[str, ...]:
        return ("A", "B")

    @property
    def answers(self) -> tuple[str, ...]:
        return ("a", "b")

    def until(self, turns: int) -> DebateItem:
        """The debate after its first turns, so that a verdict can be read at the end of each."""
        if not 0 <= turns <= len(self.turns):
            raise InputError(f"debate {self.id} has {len(self.turns)} turns, not {turns}")
        tags = {**self.tags, "turn": turns, "debate": self.id}
        return replace(self, id=f"{self.id}/turn{turns}", turns=self.turns[:turns], tags=tags)
