"""Is an answer written in a language the refusal matcher cannot read? It reads English.

A rule that can be read, not a model: letters of another script, or function words ("nicht", "pas", "una") where English
ones are missing. Most words of an answer say nothing about its language (names, numbers, formulas); then it counts as
readable. So one word, code, JSON or a list of names is never called foreign, and a long text of an unlisted
language is, because no English sentence of eight words does without a function word.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from pathlib import Path

_WORDS = {
    name: frozenset(words.split())
    for name, words in tomllib.loads(
        Path(__file__).with_name("function_words.toml").read_text(encoding="utf-8")
    ).items()
}
ENGLISH = _WORDS.pop("English")
"""English function words, and those with which answers begin."""
FOREIGN = _WORDS
"""Function words of languages in Latin letters; a word that English has too counts for both."""

_SCRIPTS = {
    "CJK": "Chinese or Japanese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic script",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari",
    "GREEK": "Greek",
}
_LATIN = ("LATIN", "FULLWIDTH", "MATHEMATICAL", "MODIFIER")
# names carry these in any language: Simone de Beauvoir, El Paso, Ludwig van Beethoven
_NAMED = "de la del da do dos das di du des le les los las el al van von der den ter ten y e i"
_PARTICLES = frozenset(_NAMED.split())
_UNSPOKEN = (
    re.compile(r"```.*?(?:```|$)", re.DOTALL),
    re.compile(r"`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[A-Za-z]+", re.DOTALL),
    re.compile(r"https?://\S+|\S+@\S+|</?\w[^<>]*>"),
)
_QUOTED = re.compile(
    r"\"[^\"\n]+\"|“[^”\n]+”|„[^“”\n]+[“”]|«[^»\n]+»|「[^」\n]+」|(?<!\w)'[^'\n]+'(?!\w)|(?<!\w)‘[^’\n]+’(?!\w)"
    r"|(?<![\w*])\*{1,3}[^*\n]+\*{1,3}(?![\w*])|(?<!\w)_[^_\n]+_(?!\w)"
)
_SEGMENT = re.compile(r"[\n.!?:;。！？…]+(?=\s|$)|\n")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+|-[^\W\d_]+)*")
_SHORT = frozenset(("je", "ja", "já", "tú", "eu", "ik"))
_LENT = "con per mit sur aux com pour par sin una ein uno mon sans"
_BORROWED = _PARTICLES | frozenset(_LENT.split())
_SPARSE = 8
_AROUND = ".,;:!?¡¿()[]{}\"'“”„‘«»*_#>-–—…"
_READ = 600
"""Characters looked at: an answer is written in the language it begins in."""


def foreign_language(answer: str) -> str | None:
    """The language (or script) an answer begins in, ``None`` where it is English or nothing speaks against English."""
    text = unicodedata.normalize("NFC", answer)[:_READ]
    for pattern in _UNSPOKEN:
        text = pattern.sub(" ", text)
    own = _QUOTED.sub(" ", text)
    # an answer that is one quotation is read; the strings of JSON are not the answer's own words
    text = own if _WORD.search(own) or text.lstrip()[:1] in ("{", "[") else text
    return _by_script(text) or _by_words(text)


def _by_script(text: str) -> str | None:
    """The script other than Latin that most letters are of."""
    counts: dict[str, int] = {}
    for word in _WORD.findall(text):
        for letter in word if len(word) > 1 or word > "\u2fff" else "":  # a single α or д is a symbol
            script = unicodedata.name(letter, "LATIN").split()[0].split("-")[0]
            counts[script] = counts.get(script, 0) + 1
    other = {script: n for script, n in counts.items() if script not in _LATIN}
    if sum(other.values()) <= sum(counts.values()) / 2 or not other:
        return None
    script = max(other, key=other.__getitem__)
    return _SCRIPTS.get(script, script.capitalize())


def _by_words(text: str) -> str | None:
    """The language of the first sentences whose function words speak for one; each word is counted once."""
    english: set[str] = set()
    found: dict[str, set[str]] = {name: set() for name in FOREIGN}
    words: list[str] = []
    best = ""
    for segment in filter(_WORD.search, _SEGMENT.split(text)):
        words += _WORD.findall(segment)
        said = set(_function_words(segment))
        english |= said & ENGLISH
        for name, own in FOREIGN.items():
            found[name] |= said & own
        best = max(found, key=lambda name: len(found[name]))
        ahead = len(found[best]) - len(english)
        if ahead < 0 and len(english) >= len(words) / _SPARSE:
            return None
        if ahead >= 2 or (len(words) <= 3 and ahead == 1 and _telling(found[best])):
            return best
    if best and not english and _telling(found[best]):
        return best
    if len(english) >= len(words) / _SPARSE and english:
        return None
    strange = sum(not word.isascii() and word.islower() for word in words)
    if len(words) >= 4 and strange >= len(words) / 4:
        return "unknown"
    return "unknown" if any(_runs_on(part) for part in re.split(r"[\n,.!?:;|]", text)) else None


def _telling(words: set[str]) -> bool:
    """Whether one of these words alone speaks for its language: chilli con carne is English too."""
    return any((len(word) > 2 and word not in _BORROWED) or word in _SHORT for word in words)


def _runs_on(part: str) -> bool:
    """Eight plain words in a row: a sentence, in whatever language. Formulas, code and tables are none."""
    pieces = part.split()
    return len(pieces) >= 8 and all(_WORD.fullmatch(piece) and piece.islower() for piece in pieces[1:])


def _function_words(segment: str) -> list[str]:
    """The words of a sentence, lower case, without parts of names, of addresses and of code (``os.path``)."""
    if segment.isupper():
        segment = segment.lower()
    pieces = [piece.strip(_AROUND) for piece in segment.replace("’", "'").split()]
    following = [*pieces, ""][1:]
    words: list[str] = []
    for word, after in zip(pieces, following, strict=True):
        named = after[:1].isupper() and after != "I" and (word[:1].isupper() or word.lower() in _PARTICLES)
        if _WORD.fullmatch(word) and not named:
            low = word.lower()
            words += [low] if low in ENGLISH else [low, *low.split("'")]  # c'est, dell'acqua
    return words
