"""One word per thing, and the field's own: words private to this project stay out of code, messages and pages."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT = 329
ROOMS = (
    "rollouts",
    "activations",
    "judgments",
    "probes",
    "traces",
    "interventions",
    "repair",
    "figures",
    "organisms",
    "verdictscope",
    "studies",
    "notebooks",
    "docs",
    "tools",
    "benchmarks",
)
KINDS = {".py", ".md", ".toml", ".html", ".css", ".js"}
INSTEAD = {
    r"twins?": "reference model",
    r"arms?": "variant",
    r"anchor(?:s|ed|ing)?": "normaliser, normalised",
    r"passports?": "probe card",
    r"merits?": "classification metrics",
    r"transplant(?:s|ed|ing|ation)?": "weight patching",
    r"zeroed": "zero-ablated",
    r"taken out": "zero-ablated, removed",
    r"found (?:heads?|sets?)": "selected heads",
    r"rungs?": "criterion",
    r"told": "classified, reported",
    r"said": "classified, reported",
    r"anew": "again",
    r"parted": "separated",
    r"(?:is|are|be|was|were) had": "exists",
    r"of the same make": "length-matched",
    r"stands? beside": "baselines, controls",
    r"(?:read|reads|reading) rightly|rightly": "correctly",
    r"doubt(?:s|ed|ing)?": "controls, baselines, nulls",
    r"relabell(?:ed|ing|ings)": "label permutation",
    r"as it is": "unchanged, current",
    r"what is (?:told|said|had|meant)": "(name it)",
    r"hearsay|unheard": "unknown",
}
ALLOWED = {"docs/glossary.md", "CHANGELOG.md", "tools/organisms/tokenizer.py", "tools/compare_runs.py"}
"""The first defines what these words were, the second is history, the third holds the bundled models' chat
template, the last compares runs of earlier versions."""
PHRASES = (r"html anchors?", r"text-anchor\w*", r"svg anchor", r"transplanted from")
"""Uses of such a word that are the field's own: they are cut before looking."""
WORD = {re.compile(rf"(?<![a-z])(?:{word})(?![a-z])", re.IGNORECASE): word for word in INSTEAD}


def pages() -> list[Path]:
    """Everything that a reader of the package, its pages or its code meets; not the tests."""
    found = [p for p in ROOT.glob("*.md")]
    for room in ROOMS:
        found += [p for p in (ROOT / room).rglob("*") if p.suffix in KINDS]
    return sorted(p for p in found if str(p.relative_to(ROOT)) not in ALLOWED)


def uses(path: Path) -> list[tuple[int, str]]:
    """Line and word of every private word of a file, in names too."""
    text = re.sub("|".join(PHRASES), "", path.read_text(encoding="utf-8"), flags=re.IGNORECASE)
    return [
        (number, match.group().lower())
        for number, line in enumerate(text.splitlines(), 1)
        for pattern in WORD
        for match in pattern.finditer(line)
    ]


def test_private_words_do_not_return() -> None:
    """Most stand in stored columns. The number may only fall: lower ``LEFT`` with each that goes."""
    rooms: dict[str, Counter[str]] = {}
    lines = []
    for path in pages():
        name = path.relative_to(ROOT)
        for number, word in uses(path):
            rooms.setdefault(name.parts[0], Counter())[word] += 1
            lines.append(f"{name}:{number} {word}")
    counts = "\n".join(
        f"{room} ({sum(c.values())}): {', '.join(f'{w} {n}' for w, n in c.most_common())}" for room, c in rooms.items()
    )
    print("\n".join(lines))
    assert len(lines) <= LEFT, f"\n{counts}\n(lines in the captured output)"


def test_the_search_would_notice() -> None:
    for text, word in (("the base_twin here", "twin"), ("harm, an arm", "arm"), ("It was Told", "told")):
        assert [match.group().lower() for pattern in WORD for match in pattern.finditer(text)] == [word]
    assert not [m for pattern in WORD for m in pattern.finditer("harmful swarms, a threshold")]
