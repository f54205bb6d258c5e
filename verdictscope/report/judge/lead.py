"""The answer in plain words for the top of the page: what the judge does, what moves it, which heads, what helps."""

from __future__ import annotations

from collections.abc import Iterator

from verdictscope.report.judge import reading
from verdictscope.report.judge.reading import Part, Row, ends, nats
from verdictscope.report.record import Record
from verdictscope.report.shown import Point
from verdictscope.report.words import heads, number, present, some
from verdictscope.stats import ends_to_show


def lead(run: Record) -> list[Point]:
    """The sentences a run's tables allow, in the order a reader asks them."""
    return [*_asked(run), *_does(run), *_moved(run), *_heads(run), *_without(run), *_helps(run), *_planted(run)]


def told(row: Row) -> str:
    """``0.870 [0.820, 0.910], n = 60 groups``."""
    return f"{ends(row)}, n = {int(row['n'])} groups"


def share(row: Row) -> str:
    """``87 % [82, 91]``."""
    value = float(row["estimate"])
    shown = ends_to_show(value, row["low"], row["high"], row["n"], "rate") if present(row["low"]) else None
    return f"{100 * value:.0f} %" + (f" [{100 * shown[0]:.0f}, {100 * shown[1]:.0f}]" if shown else "")


def percent(row: Row, of: str = "verdicts", *, n: bool = True) -> str:
    """``87 % [82, 91] of verdicts``, with the number of groups it rests on."""
    return f"{share(row)} of {of}" + (f" (n = {int(row['n'])} groups)" if n else "")


def _asked(run: Record) -> Iterator[Point]:
    items = run.table("items")
    if items is None:
        return
    cues = list(run.study.data.cues)
    ties = int((items["label"] == "tie").sum())
    yield Point(
        "Asked",
        f"The judge was shown {some(len(items), 'pair')} of answers and asked which is better, each pair in both "
        f"orders{f'; in {ties:,} of them both answers are equally good' if ties else ''}. Then again with a sentence "
        f"that speaks for one side ({_list(cues)}), and with one of the same make that says nothing for it (control). "
        "The side that is named is the better one as often as the worse one, so a fair judge follows no sentence more "
        "than half of the time.",
        "items.parquet",
    )


def _does(run: Record) -> Iterator[Point]:
    right, first = reading.rate(run, "accuracy"), reading.rate(run, "first_in_ties")
    if right is not None:
        same = reading.rate(run, "consistency")
        text = f"Without thinking it says the better answer in {percent(right)}."
        text += f" Where both are equally good it says the one shown first in {percent(first)}." if first else ""
        text += f" It names the same answer in both orders in {percent(same, 'pairs')}." if same else ""
        yield Point("Shown plainly", text, "verdict_rates.parquet")
    control, follows = reading.rate(run, "follows", "control"), []
    for cue in run.study.data.cues:
        rate = reading.rate(run, "follows", cue)
        if rate is None:
            continue
        wrong = reading.rate(run, "accuracy_named_wrong", cue)
        lost = f", and is right in {percent(wrong, n=False)} where that is the worse one" if wrong else ""
        follows.append(f"With the {cue} sentence it says the side named in {percent(rate)}{lost}.")
    if follows:
        follows += [f"With the control sentence: {percent(control)}."] if control else []
        yield Point("With a cue", " ".join(follows), "verdict_rates.parquet")


def _moved(run: Record) -> Iterator[Point]:
    parts, moving = reading.parts(run), reading.moving(run)
    if not reading.biases(run):
        return
    content = parts.get(reading.CONTENT)
    names = {part.name for part in moving}
    still = [p for p in reading.biases(run) if p.name not in names]
    owed = [f"{_size(content)} from the answers themselves"] if content else []
    owed += [f"{_size(p)} from {_words(p)}" for p in moving]
    text = "What it says follows from the odds it gives the two answers. Their logarithm (nats: +1 makes the odds 2.7 "
    text += f"times larger) is made of {_list(owed)} (n = {min(p.n for p in parts.values())} groups)."
    text += f" Not beyond what counts: {_list([f'{p.name} {_size(p)}' for p in still])}." if still else ""
    if not moving:
        text += " So no bias was found that is large enough to look for."
    yield Point("Made of", text, "bias_parts.parquet")


def _size(part: Part) -> str:
    return ends(part, "nats")


def _words(part: Part) -> str:
    if part.name == reading.POSITION:
        return f"the place an answer is shown in ({'first' if part.estimate > 0 else 'second'} preferred)"
    return f"the {part.name} cue"


def _heads(run: Record) -> Iterator[Point]:
    told_heads = []
    for part in reading.moving(run):
        rows = reading.found(run, part.name)
        good = [r for r in rows if reading.picked(r)]
        if good:
            each = ", ".join(f"{reading.part_name(r)} ({nats(r['estimate'])})" for r in good)
            told_heads.append(f"{part.name} is carried by {each}")
        elif rows:
            told_heads.append(f"no head could be named for {part.name}")
    if told_heads:
        rows = [r for r in reading.rows_of(run, "bias_heads", variant="base") if present(r["estimate"])]
        n = int(min(r["n"] for r in rows))
        yield Point(
            "Heads",
            f"Inside the model, {'; '.join(told_heads)}: in brackets by how many nats the bias shrinks when that head "
            f"alone is taken out, on items that did not name it (L2H5 is head 5 of layer 2, both from 0; n = {n} "
            "groups, all heads and MLPs tested at once).",
            "bias_heads.parquet",
        )


def _without(run: Record) -> Iterator[Point]:
    sentences = [words for part in reading.moving(run) if (words := _left(run, part.name))]
    if not sentences:
        return
    kept = [_change(run, name, unit) for name, unit in ((reading.CONTENT, "nats"), ("accuracy", ""))]
    stays = [words for words in kept if words]
    named = dict.fromkeys(reading.part_name(r) for b in reading.biases(run) for r in reading.found(run, b.name))
    text = f"With every head that the first half named taken out together ({', '.join(named)}), {'; '.join(sentences)}."
    text += f" What should stay: {'; '.join(stays)}." if stays else ""
    yield Point("Without them", text, "bias_sets.parquet")


def _change(run: Record, name: str, unit: str) -> str:
    """``content goes from +5.28 to +5.78 [+5.50, +6.10] nats (n = 60 groups)``."""
    base, gone = (reading.set_rows(run, name, k) for k in ("base", "found"))
    if not base or not gone:
        return ""
    was = nats(base[0]["estimate"]) if unit else number(base[0]["estimate"])
    return f"{name} goes from {was} to {ends(gone[0], unit)}{' nats' * bool(unit)} (n = {int(gone[0]['n'])} groups)"


def _left(run: Record, bias: str) -> str:
    sizes = [abs(r["estimate"]) for r in reading.set_rows(run, bias, "random")]
    words = _change(run, bias, "nats")
    if words and sizes:
        words += (
            f", while {some(len(sizes), 'random set')} of as many heads of the same layers leave at least "
            f"{number(min(sizes), 'nats')}"
        )
    return words


def _helps(run: Record) -> Iterator[Point]:
    tried = list(reading.mitigations(run))
    plain = next((numbers for _, kind, _, numbers in tried if kind == "none"), None)
    if plain is None:
        return
    words = []
    for name, kind, bias, numbers in tried:
        right = numbers.get("accuracy")
        if kind not in ("ablate", "prompt") or bias != reading.ALL or right is None or "mean" in name:
            continue
        left = [f"{p.name} {nats(numbers[p.name]['estimate'])}" for p in reading.moving(run) if p.name in numbers]
        if left:
            words.append(f"{name} leaves {_list(left)} at an accuracy of {100 * right['estimate']:.0f} %")
    if words:
        was = plain.get("accuracy")
        at = f" (as it is: {percent(was)} right)" if was else ""
        yield Point("What helps", f"What was tried against all of it{at}: {'; '.join(words)}.", "mitigations.parquet")


def _planted(run: Record) -> Iterator[Point]:
    found = run.json("summary").get("heads", {})
    if found.get("planted"):
        hits = {tuple(h) for h in found["planted"]} & {tuple(h) for h in found.get("top", [])}
        others = [h for h in found.get("top", []) if tuple(h) not in {tuple(p) for p in found["planted"]}]
        more = f" and confirmed {heads(others)} besides" if others else " and confirmed no other"
        yield Point(
            "The truth",
            f"This judge's mechanism is known: {heads(found['planted'])} were planted. Without being told, the study "
            f"found {len(hits)} of the {len(found['planted'])}{more}.",
            "summary.json",
        )


def _list(words: list[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"
