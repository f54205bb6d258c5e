"""A judge's prompt format as data: what is shown, with which strings it answers, and how an answer is read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.items import LETTERS, AnswerItem, ChoiceItem, DebateItem, Item, PairItem

FOLDER = Path(__file__).parent
KINDS: Mapping[str, type[Item]] = {"pair": PairItem, "answer": AnswerItem, "choice": ChoiceItem, "debate": DebateItem}
SIDED = ("pair", "debate")
"""Kinds whose items have two sides, hence an order."""

Take = Literal["agree", "last", "first"]


@dataclass(frozen=True)
class Label:
    """One string a judge may end with."""

    text: str
    verdict: str
    value: float | None = None


@dataclass(frozen=True)
class Parsed:
    """What was read in an answer."""

    verdict: str | None
    status: str
    said: str | None = None
    start: int = -1
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Format:
    """A prompt format.

    Attributes:
        name: what it is called.
        title: what it is, for people.
        source: where labels and layout come from; the wording is this package's own unless ``wording`` says otherwise.
        kind: what is judged: pair, answer, choice or debate.
        user: the user turn with slots ``{question} {first} {second} {answer} {options} {transcript}``, the optional
            blocks ``{reference} {context}`` and the places of cues, ``{between}`` and ``{note}``.
        system: the system turn.
        blocks: text of the optional blocks, with the slot of the same name.
        needs: optional fields that an item must have.
        sides: how the two answers are called, where ``{target}`` stands in a cue.
        note_end: what is put behind a cue at ``{note}``.
        lead: what is put before a label where it is scored instead of written.
        words: the word a label's pattern takes, to (text, verdict).
        scores: (low, high, step) of a scale; two-number formats have one score per side.
        score_text: how scores are written, with ``{0}`` (and ``{1}``).
        letters: labels are the letters of the options.
        pattern: regular expression of a label in an answer; its groups are the word or the scores.
        take: of several matches the first or the last one, or none unless all agree.
        first_line: only the first line that is not blank is read.
        ignore_case: words are read in any case.
        wording: whose words the instructions are.
    """

    name: str
    title: str
    source: str
    kind: str
    user: str
    pattern: str
    system: str | None = None
    blocks: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    sides: tuple[str, str] = ("A", "B")
    note_end: str = "\n\n"
    lead: str = ""
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    scores: tuple[float, float, float] | None = None
    score_text: str = "{0}"
    letters: bool = False
    take: Take = "last"
    first_line: bool = False
    ignore_case: bool = False
    wording: str = "own"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"format {self.name}: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.take not in ("agree", "last", "first"):
            raise InputError(f"format {self.name}: take {self.take!r} is not one of agree, last, first")
        if bool(self.words) + (self.scores is not None) + self.letters != 1:
            raise InputError(f"format {self.name}: give label words, scores or letters, one of them")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(f"format {self.name}: {self.pattern!r} is no regular expression ({error})") from error

    @property
    def sided(self) -> bool:
        """Whether its items have two sides, hence an order."""
        return self.kind in SIDED

    def labels(self, item: Item | None = None) -> tuple[Label, ...]:
        """Every label string, in the shown frame; of a multiple-choice question those of its options."""
        if self.words:
            return tuple(Label(text, verdict) for text, verdict in self.words.values())
        if self.letters:
            n = len(item.options) if isinstance(item, ChoiceItem) else len(LETTERS)
            return tuple(Label(self.score_text.format(letter), letter) for letter in LETTERS[:n])
        scale = self._scale()
        if not self.sided:
            return tuple(Label(self.score_text.format(_number(s)), _number(s), s) for s in scale)
        pairs = [(a, b) for a in scale for b in scale]
        return tuple(Label(self.score_text.format(_number(a), _number(b)), _winner(a, b)) for a, b in pairs)

    def _scale(self) -> list[float]:
        low, high, step = self.scores or (0, 0, 1)
        return [low + k * step for k in range(int(round((high - low) / step)) + 1)]

    def parse(self, answer: str | None, *, truncated: bool = False, item: Item | None = None) -> Parsed:
        """Read a verdict in an answer, that is in what follows the thinking.

        Args:
            answer: the answer, ``None`` where there is none.
            truncated: whether the token limit cut it (a label that was written all the same counts).
            item: the item, for the number of its options.
        """
        if answer is None or not answer.strip():
            return Parsed(None, "truncated" if truncated else "empty")
        text, at = _first_line(answer) if self.first_line else (answer, 0)
        flags = re.IGNORECASE if self.ignore_case else 0
        found = [(self._verdict(match, item), match) for match in re.finditer(self.pattern, text, flags | re.MULTILINE)]
        if not found:
            return Parsed(None, "truncated" if truncated else "unparsed")
        if self.take == "agree" and len({verdict for (verdict, _), _ in found}) > 1:
            return Parsed(None, "contradictory", found[-1][1].group(0))
        (verdict, values), match = found[0 if self.take == "first" else -1]
        status = "ok" if verdict is not None else "unknown_label"
        group = next((k for k in range(1, len(match.groups()) + 1) if match.group(k) is not None), 0)
        start = at + match.start(group) - self._ahead(match.group(group))
        return Parsed(verdict, status, match.group(0), start, values)

    def _ahead(self, word: str) -> int:
        """Characters of a label string before the word that the pattern takes."""
        if not self.words:
            return self.score_text.index("{0}")
        text = next((text for known, (text, _) in self.words.items() if known.casefold() == word.casefold()), word)
        return max(text.casefold().find(word.casefold()), 0)

    def _verdict(self, match: re.Match[str], item: Item | None) -> tuple[str | None, tuple[float, ...]]:
        word = next((g for g in match.groups() if g is not None), match.group(0))
        if self.words:
            known = {k.casefold(): v for k, (_, v) in self.words.items()} if self.ignore_case else None
            verdict = known.get(word.casefold()) if known else self.words.get(word, (None, None))[1]
            return verdict, ()
        if self.letters:
            known_letters = {label.verdict for label in self.labels(item)}
            letter = word.upper() if self.ignore_case else word
            return (letter if letter in known_letters else None), ()
        values = tuple(float(g) for g in match.groups() if g is not None)
        low, high, _ = self.scores or (0, 0, 1)
        if not all(low <= v <= high for v in values):
            return None, values
        return (_winner(*values) if self.sided else _number(values[0])), values


def _number(value: float) -> str:
    return f"{value:g}"


def _winner(first: float, second: float) -> str:
    return "first" if first > second else "second" if second > first else "tie"


def _first_line(answer: str) -> tuple[str, int]:
    at = 0
    for line in answer.splitlines(keepends=True):
        if line.strip():
            return line.rstrip("\r\n"), at
        at += len(line)
    return "", 0


def _built(data: Mapping[str, Any], where: str) -> Format:
    known = set(Format.__dataclass_fields__)
    if wrong := set(data) - known:
        raise InputError(f"{where}: unknown keys {', '.join(sorted(wrong))}: known are {', '.join(sorted(known))}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    if "words" in values:
        values["words"] = {word: (pair[0], pair[1]) for word, pair in data["words"].items()}
    if "scores" in values:
        values["scores"] = tuple(map(float, data["scores"]))
    try:
        return Format(**values)
    except TypeError as error:
        raise InputError(f"{where} is no format: {error}") from error


def read_format(path: str | Path) -> Format:
    """A format of your own, from a TOML file with the fields of :class:`Format`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"format file {path} does not exist: formats are {', '.join(_names())}, or write a TOML file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from error
    return _built({"name": path.stem, **data}, str(path))


@cache
def _shipped(name: str) -> Format:
    return read_format(FOLDER / f"{name}.toml")


def _names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_format(name: str | Path | Format) -> Format:
    """A shipped format by name (:func:`known_formats`), or one from a TOML file.

    Raises:
        InputError: there is neither.

    Example:
        >>> [label.text for label in load_format("pair_letter").labels()]
        ['A', 'B']
    """
    if isinstance(name, Format):
        return name
    return _shipped(str(name)) if str(name) in _names() else read_format(name)


def known_formats() -> pd.DataFrame:
    """The shipped formats: name, kind, title, labels (how many), source."""
    found = [_shipped(name) for name in _names()]
    rows = [(f.name, f.kind, f.title, len(f.labels()), f.source) for f in found]
    return pd.DataFrame(rows, columns=["name", "kind", "title", "labels", "source"])


def from_prompts(prompts: Iterable[Mapping[str, Any]], like: str, name: str, slots: Mapping[str, str]) -> Format:
    """A format with the published wording, taken from a file of prompts that the user holds."""
    row = next((p for p in prompts if p.get("name") == name), None)
    if row is None:
        raise InputError(f"there is no prompt {name!r} among those given")
    own = {"question", "first", "second", "answer", "options"}

    def renamed(match: re.Match[str]) -> str:
        new = slots.get(match[1], match[1])
        if new not in own | {"reference", "context"}:
            raise InputError(f"prompt {name!r} has the slot {match[1]!r}: say what it is in slots")
        return "{" + new + "}"

    user = re.sub(r"\{(\w+)\}", renamed, str(row["prompt_template"]))
    base = load_format(like)
    blocks = {**base.blocks, **{slot: "{" + slot + "}" for slot in ("reference", "context") if f"{{{slot}}}" in user}}
    system = row.get("system_prompt") or None
    changed = {"name": name, "user": user + "{note}", "system": system, "wording": "published"}
    return Format(**{**base.__dict__, **changed, "blocks": blocks})
