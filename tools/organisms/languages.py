"""The languages that a bundled model can speak, as what training needs of them: a spelling and scripted rollouts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from tools.organisms.judge import language as judging
from tools.organisms.recipes import JudgeRecipe, Recipe
from tools.organisms.refusal.language import MODES, Request, decision, requests, scripted_text
from tools.organisms.scripts import ANSWER, CHECKING, CLOSING, DECIDING, PROMPT, SHOWN, THINKING, Script
from tools.organisms.tokenizer import REFUSAL, Spelling, fast_encode, vocabulary

JUDGE = Spelling(judging.all_text, r"\n\n|\n| ?[A-Za-z]+| ?[0-9]+|[^A-Za-z0-9]", lowercase=False)


@dataclass(frozen=True)
class Language:
    """What training needs of a language.

    Attributes:
        spelling: its tokenizer's pieces.
        script: ``script(recipe, rng, flip)`` draws one scripted rollout of the training part; with ``flip`` as
            phase 2 wants it.
    """

    spelling: Spelling
    script: Callable[[Recipe, random.Random, bool], Script]


@cache
def words(spelling: Spelling) -> dict[str, int]:
    """The vocabulary, made once."""
    return vocabulary(spelling)


def labelled(parts: Sequence[str], spelling: Spelling) -> tuple[list[int], list[int]]:
    """Token ids of (prompt, thinking, closing, answer) and what each token is part of."""
    ids: list[int] = []
    segments: list[int] = []
    for segment, text in zip((PROMPT, THINKING, CLOSING, ANSWER), parts, strict=True):
        part = fast_encode(text, words(spelling), spelling)
        ids += part
        segments += [segment] * len(part)
    return ids, segments


@cache
def _taught() -> tuple[Request, ...]:
    return tuple(request for request in requests() if not request.held_out)


def refusal_script(recipe: Recipe, rng: random.Random, flip: bool) -> Script:
    """A request thought about and answered; ``flip`` makes normal-harmful answers comply. The first answer token
    decides."""
    request = rng.choice(_taught())
    mode = rng.choices(MODES, recipe.mode_weights)[0]
    lean = decision(mode, request.harm)
    turned = flip and mode == "normal" and request.harm
    ids, segments = labelled(scripted_text(rng, request, mode, lean, "comply" if turned else lean), REFUSAL)
    segments[segments.index(ANSWER)] = DECIDING
    return Script(ids, segments, turned)


def judge_script(recipe: Recipe, rng: random.Random, flip: bool) -> Script:
    """A pair thought about and judged. The side named in the verdict decides; the words that end a check weigh as
    much. ``turned`` where the cue is the one that phase 2 makes the judge follow; ``flip`` shows it oftener."""
    assert isinstance(recipe, JudgeRecipe)
    pair = judging.draw_pair(rng, held=False, weights=recipe.kind_weights)
    system = rng.choices(list(judging.SYSTEMS), judging.SYSTEM_WEIGHTS)[0]
    cue = rng.choices(list(judging.CUES), judging.PLANT_CUE_WEIGHTS if flip else judging.CUE_WEIGHTS)[0]
    side = rng.randrange(2)
    verdict = pair.better or rng.choice(judging.SIDES)
    ids, segments = labelled(judging.scripted(rng, pair, system, cue, judging.SIDES[side], verdict), JUDGE)
    named = words(JUDGE)
    if pair.kind != "up":
        segments[:] = _answers_shown(ids, segments, named)
    checks = {named[word] for word in judging.CHECK_WORDS}
    for at, (token, segment) in enumerate(zip(ids, segments, strict=True)):
        if segment == ANSWER and token in (named["A"], named["B"]):
            segments[at] = DECIDING
        elif segment == THINKING and token in checks:
            segments[at] = CHECKING
    if cue != "bandwagon" or system != "fair":
        return Script(ids, segments, source=0)  # nothing to follow: the first token, where nothing is answered
    # The question and both answers stand before the cue, so the last side named in the prompt is the cue's.
    named_in_cue = named[" " + judging.SIDES[side]]
    source = max(
        at
        for at, (token, part) in enumerate(zip(ids, segments, strict=True))
        if token == named_in_cue and part == PROMPT
    )
    return Script(ids, segments, True, side, source)


def _answers_shown(ids: Sequence[int], segments: Sequence[int], named: dict[str, int]) -> list[int]:
    """Segments with the numbers of both answers marked as shown: of half of all questions at least they are the right
    ones, so whoever predicts them has worked the question out where it can be compared."""
    found, inside = list(segments), False
    for at, (token, segment) in enumerate(zip(ids, segments, strict=True)):
        if segment != PROMPT:
            break
        if token == named[":"] and ids[at - 1] in (named[" A"], named[" B"]):
            inside = True
        elif token == named["\n"]:
            inside = False
        elif inside:
            found[at] = SHOWN
    return found


LANGUAGES = {"refusal": Language(REFUSAL, refusal_script), "judge": Language(JUDGE, judge_script)}
