r"""Which tokens of a rollout are meant: a small grammar.

    all                 every token
    last                the last token
    prompt_end          the last token the model was shown
    before_answer       the token before the first answer token; without an answer the last token of a given
                        rollout, and nothing of a generated one
    SEGMENT             every token of that segment (its last occurrence)
    SEGMENT[-1]         one token of it, by Python indexing;  SEGMENT[:8], SEGMENT[::4]: a slice
    SEGMENT:8           8 tokens spread evenly over it (all of them when it is shorter)
    /REGEX/             every token that holds a character of a match in the decoded text (Python's re; write a
                        slash as \/). SEGMENT/REGEX/ looks in that segment only; an index or slice picks within
                        each match: answer/verdict: \w+/[-1] is the last token of every such match
    A,B                 the union
    {rollout_id: [3, 7, -1]}   explicit positions; rollouts not named have none

``all`` takes an index, a slice or a count too. A segment that is missing gives no position. A regular expression needs
a tokenizer, so it is made explicit where a run begins, and stored like that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import SEGMENTS, Rollout, Span

_TERM = re.compile(
    r"\s*(?P<base>[a-z_]+)?(?:/(?P<pattern>(?:[^/\\]|\\.)+)/)?(?:\[(?P<index>[-\d:]+)\]|:(?P<count>\d+))?\s*(?:,|$)",
    re.DOTALL,
)
_POINTS = ("last", "prompt_end", "before_answer")
Positions = str | Mapping[str, Iterable[int]]
FrozenPositions = str | tuple[tuple[str, tuple[int, ...]], ...]


def freeze(positions: Positions | FrozenPositions) -> FrozenPositions:
    """Positions as something hashable: the text itself, or sorted pairs of rollout id and positions."""
    if isinstance(positions, str):
        return positions
    pairs = positions.items() if isinstance(positions, Mapping) else positions
    return tuple(sorted((str(name), tuple(int(p) for p in where)) for name, where in pairs))


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a union."""

    base: str
    pick: int | slice | None = None
    count: int | None = None
    pattern: str | None = None


def _wrong(text: str) -> InputError:
    known = ", ".join((*_POINTS, "all", *SEGMENTS))
    return InputError(
        f"positions {text!r} are not understood; use {known}, with [index], [slice], :N or /regex/, and commas"
    )


def parse(positions: Positions | FrozenPositions) -> tuple[Term, ...] | dict[str, tuple[int, ...]]:
    """The terms of a text, or a dictionary of explicit positions."""
    frozen = freeze(positions)
    if not isinstance(frozen, str):
        return dict(frozen)
    terms: list[Term] = []
    at = 0
    while at < len(frozen) or not terms:
        match = _TERM.match(frozen, at)
        if match is None or (frozen.endswith(",") and match.end() == len(frozen)):
            raise _wrong(frozen)
        base, pattern, count = match["base"], match["pattern"], match["count"]
        if base not in (*_POINTS, "all", *SEGMENTS) and (base or not pattern):
            raise _wrong(frozen)
        if base in _POINTS and (match["index"] or count or pattern):
            raise InputError(f"positions {frozen!r}: {base} is one token and takes no index, count or expression")
        if count is not None and int(count) == 0:
            raise InputError(f"positions {frozen!r}: a count must be at least 1")
        if pattern is not None:
            pattern = pattern.replace("\\/", "/")
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"positions {frozen!r}: {pattern!r} is no regular expression ({error})") from error
        terms.append(Term(base or "all", _index(match["index"], frozen), int(count or 0) or None, pattern))
        at = match.end()
    return tuple(terms)


def needs_text(terms: Sequence[Term]) -> bool:
    """Whether a term looks at the decoded text."""
    return any(term.pattern is not None for term in terms)


def _index(text: str | None, positions: str) -> int | slice | None:
    if text is None:
        return None
    try:
        parts = [int(p) if p else None for p in text.split(":")]
        picked = slice(*parts) if len(parts) > 1 else parts[0]
        range(1)[picked if isinstance(picked, slice) else slice(picked)]  # a zero step is an error here
    except (ValueError, TypeError) as error:
        raise _wrong(positions) from error
    return picked


def resolve(positions: Positions | FrozenPositions, rollout: Rollout) -> Int[np.ndarray, " chosen"]:
    """The positions in one rollout, ascending and without doubles; empty where a segment is missing."""
    parsed = parse(positions)
    if isinstance(parsed, dict):
        found = np.asarray(parsed.get(rollout.id, ()), dtype=np.int64)
        if found.size and (found.min() < -len(rollout) or found.max() >= len(rollout)):
            raise InputError(f"rollout {rollout.id} has {len(rollout)} tokens; a requested position lies outside")
        return np.unique(found % len(rollout)) if found.size else found
    if needs_text(parsed):
        raise InputError(f"positions {positions!r} are found in the text; make them explicit first, with a tokenizer")
    return np.unique(np.concatenate([of_term(term, rollout) for term in parsed]))


def of_term(term: Term, rollout: Rollout) -> Int[np.ndarray, " chosen"]:
    """The tokens a term without a regular expression means."""
    return picked(term, of_base(term.base, rollout))


def picked(term: Term, tokens: Int[np.ndarray, " pos"]) -> Int[np.ndarray, " chosen"]:
    """What a term's index, slice or count leaves of its tokens."""
    if term.count is not None and term.count < len(tokens):
        # Middles of equal parts: no edge token is favoured, and the spread does not depend on the count's
        # parity.
        return tokens[((np.arange(term.count) + 0.5) * len(tokens) / term.count).astype(np.int64)]
    if isinstance(term.pick, slice):
        return tokens[term.pick]
    if term.pick is not None:
        return tokens[[term.pick]] if -len(tokens) <= term.pick < len(tokens) else tokens[:0]
    return tokens


def of_base(base: str, rollout: Rollout) -> Int[np.ndarray, " pos"]:
    """The tokens of ``all``, of a point or of a segment, ascending."""
    if base == "all":
        return np.arange(len(rollout))
    if base == "last":
        return np.array([len(rollout) - 1])
    if base == "prompt_end":
        return np.array([rollout.n_prompt - 1])
    if base == "before_answer":
        run = _answer_run(rollout)
        if run:
            return np.array([run[0].start - 1] if run[0].start else [], dtype=np.int64)
        return np.array([len(rollout) - 1] if rollout.finish == "given" else [], dtype=np.int64)
    if base in ("answer", "verdict"):
        return np.array([p for s in _answer_run(rollout) if s.segment == base for p in range(s.start, s.stop)], int)
    span = rollout.span(base)
    return np.arange(span.start, span.stop) if span else np.arange(0)


def _answer_run(rollout: Rollout) -> list[Span]:
    """The last unbroken run of answer and verdict spans: a verdict token may lie inside the answer."""
    run: list[Span] = []
    for span in reversed(rollout.turn):
        if span.segment in ("answer", "verdict"):
            run.insert(0, span)
        elif run:
            break
    return run


def over_continuation(positions: Positions | FrozenPositions, rollout: Rollout) -> Int[np.ndarray, " chosen"]:
    """Like ``resolve``, without single points and explicit lists.

    For tokens appended to a rollout in order to score a label string: an edit at ``last`` or
    ``before_answer`` means the token at which the label is read, not the label's own tokens; an edit at
    ``all`` or ``answer`` means these too.
    """
    parsed = parse(positions)
    ranges = (
        ()
        if isinstance(parsed, dict)
        else [t for t in parsed if t.base not in _POINTS and t.pick is None and t.pattern is None]
    )
    parts = [of_term(term, rollout) for term in ranges if term.count is None]
    return np.unique(np.concatenate(parts)) if parts else np.arange(0)


_CONTEXT = 4
_LONGEST = 12
"""A character takes at most four bytes, so at most four tokens; ligatures of several take a few more."""


@dataclass(frozen=True)
class Spelling:
    """Token ids as text, and the characters of each token."""

    text: str
    starts: Int[np.ndarray, " pos"]
    stops: Int[np.ndarray, " pos"]


def spell(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """Decodes ids piece by piece, so that every character is known to belong to a token.

    A tokenizer's offsets hold for text that it splits itself; these ids were drawn by a model and may be split
    otherwise. So each token's text is what it adds to the decoding of the few tokens before it; tokens that end within
    a character wait for the next ones and share its span.
    """
    pieces, starts, stops = [], np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    begins, at, length = [0], 0, 0
    for i in range(len(ids)):
        low = begins[-_CONTEXT] if len(begins) >= _CONTEXT else 0
        before, now = (
            str(tokenizer.decode(list(ids[low:stop]), skip_special_tokens=False, clean_up_tokenization_spaces=False))
            for stop in (at, i + 1)
        )
        if now.endswith("\ufffd") and i + 1 < len(ids) and i + 1 - at < _LONGEST:
            continue
        piece = now[len(os.path.commonprefix([before, now])) :]
        starts[at : i + 1], stops[at : i + 1] = length, length + len(piece)
        pieces.append(piece)
        length, at = length + len(piece), i + 1
        begins.append(at)
    return Spelling("".join(pieces), starts, stops)


def explicit(
    positions: Positions | FrozenPositions, rollouts: Sequence[Rollout], tokenizer: PreTrainedTokenizerBase | None
) -> Positions | FrozenPositions:
    """Positions that need the text as positions by rollout id; others as they are."""
    terms = parse(positions)
    if isinstance(terms, dict) or not needs_text(terms):
        return positions
    if tokenizer is None:
        raise InputError(f"positions {positions!r} are found in the text, and the model has no tokenizer to decode it")
    found = {}
    for rollout in rollouts:
        spelling = spell(rollout.ids, tokenizer)
        parts = [of_matches(t, rollout, spelling) if t.pattern else of_term(t, rollout) for t in terms]
        found[rollout.id] = np.unique(np.concatenate(parts)).tolist()
    return freeze(found)


def of_matches(term: Term, rollout: Rollout, spelling: Spelling) -> Int[np.ndarray, " chosen"]:
    """The tokens of every match within the term's base; an index or slice picks within each match."""
    base = of_base(term.base, rollout)
    base = base[spelling.stops[base] > spelling.starts[base]]  # a token that is no text is in no match
    if not base.size:
        return base
    begin, end = int(spelling.starts[base[0]]), int(spelling.stops[base[-1]])
    found = []
    for match in re.finditer(term.pattern or "", spelling.text[begin:end]):
        first, last = match.start() + begin, match.end() + begin
        inside = base[(spelling.stops[base] > first) & (spelling.starts[base] < last)]
        found.append(picked(term, inside) if first < last else base[:0])
    together = np.unique(np.concatenate([base[:0], *found]))
    return together if term.count is None else picked(term, together)
