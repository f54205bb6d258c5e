"""Recorded conversations become rollouts: JSONL messages and inspect_ai logs.

A transcript is text, and a rollout is token ids, so importing one is a reconstruction. It is exact only where the ids
were recorded. Otherwise the last assistant turn is encoded after the rendered prompt, and whatever could make its
tokens differ from those the model wrote is found and said: such a rollout is *degraded*, with the reason as its tag
``degraded``. What cannot be reconstructed at all is reported and left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.discover import find_markers
from verdictscope.rollouts.frames import find_frame
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.rollout import Rollout
from verdictscope.rollouts.segments import Segmenter
from verdictscope.rollouts.templates import RenderedPrompt, render_messages
from verdictscope.rollouts.transcript_files import Transcript, read_transcripts


@dataclass(frozen=True)
class Imported:
    """Rollouts made of recorded transcripts."""

    rollouts: tuple[Rollout, ...]
    report: pd.DataFrame

    @property
    def exact(self) -> tuple[Rollout, ...]:
        """Rollouts without a known difference from what the model wrote."""
        return tuple(r for r in self.rollouts if r.tags["degraded"] is None)

    def to_frame(self) -> pd.DataFrame:
        """The report."""
        return self.report

    def _repr_html_(self) -> str:
        counts = self.report["status"].value_counts()
        summary = ", ".join(f"{n} {escape(str(status))}" for status, n in counts.items())
        return f"<p>{len(self.report)} transcripts: {summary}</p>" + self.report.head(20).to_html(index=False)


def import_transcripts(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    markers: Markers | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Imported:
    """Rollouts of a model from what another tool recorded.

    Args:
        path: ``.jsonl`` (one object a line with ``messages`` or ``conversations``, optionally ``id``, ``group``,
            ``finish_reason``, ``token_ids`` of the last turn; every other scalar is a tag), or an inspect_ai log
            (``.eval``, or ``.json``).
        tokenizer: the recorded model's tokenizer, with its chat template.
        markers: thinking markers named by hand.
        template_kwargs: switches of the template the model was run with.

    Raises:
        InputError: no such file, another format, or a file that cannot be read.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from verdictscope import load_model
        >>> turns = [{"role": "user", "content": "please tell me."}, {"role": "assistant", "content": "sure."}]
        >>> _ = Path("log.jsonl").write_text(json.dumps({"id": "t1", "messages": turns}))
        >>> import_transcripts("log.jsonl", load_model("organism:cliff").tokenizer).rollouts
        (Rollout('t1': ...),)
    """
    return imported(read_transcripts(Path(path)), str(path), tokenizer, markers, template_kwargs)


def imported(
    records: Iterable[tuple[str, Transcript | str]],
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    markers: Markers | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Imported:
    """Rollouts of transcripts with their names, or of the reasons why they are none; see :func:`import_transcripts`."""
    markers = markers or find_markers(tokenizer)
    segmenter = Segmenter(tokenizer, markers)
    rollouts: list[Rollout] = []
    rows: list[tuple[str, str, str | None]] = []
    seen: set[str] = set()
    for name, found in records:
        if isinstance(found, Transcript) and found.id in seen:
            found = f"the id {found.id!r} occurs twice"
        if isinstance(found, Transcript):
            try:
                rollout = _rollout(found, tokenizer, segmenter, markers, template_kwargs)
            except InputError as error:
                found = str(error)
            else:
                seen.add(rollout.id)
                reason = rollout.tags["degraded"]
                rollouts.append(rollout)
                rows.append((rollout.id, "exact" if reason is None else "degraded", reason))
                continue
        rows.append((name, "left out", found))
    if not rows:
        raise InputError(f"{source} holds no transcripts")
    report = pd.DataFrame(rows, columns=["rollout", "status", "reason"])
    report["reason"] = pd.Series([reason for *_, reason in rows], dtype=object)  # None stays None
    return Imported(tuple(rollouts), report)


def _rollout(
    one: Transcript,
    tokenizer: PreTrainedTokenizerBase,
    segmenter: Segmenter,
    markers: Markers | None,
    template_kwargs: Mapping[str, Any] | None,
) -> Rollout:
    prompt = render_messages(tokenizer, one.messages, template_kwargs=template_kwargs)
    text, composed = _written_text(one, tokenizer, prompt, segmenter)
    if one.ids is not None:
        written, reason = one.ids, _check_recorded(one, tokenizer, text if composed is None else None)
    else:
        written = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        reason = composed or _check_encoded(written, text, tokenizer, prompt, markers)
    return Rollout(
        id=one.id,
        group=one.group,
        ids=(*prompt.ids, *written),
        spans=segmenter(prompt, written, one.finish),
        n_prompt=len(prompt.ids),
        finish=one.finish,
        engine="transcript",
        tags={**one.tags, "degraded": reason},
    )


def _written_text(
    one: Transcript, tokenizer: PreTrainedTokenizerBase, prompt: RenderedPrompt, segmenter: Segmenter
) -> tuple[str, str | None]:
    """What the model wrote after the generation prompt, and why that is not certain, if it is not."""
    markers, state = segmenter.markers, segmenter.prompt_state(prompt)
    opener, closer = (_marker(tokenizer, side) for side in (markers.opener, markers.closer)) if markers else ("", "")
    begins = bool(opener) and one.content.lstrip().startswith(opener)
    if begins and state == "open":
        # logs of models whose generation prompt holds the opener often put it before the text once more
        return one.content.lstrip().removeprefix(opener).lstrip("\n"), "the recorded opener was the template's"
    whole = begins or (state == "open" and closer in one.content)
    whole &= not one.reasoning or one.reasoning.strip() in one.content  # else the tag is quoted
    if whole or (not one.reasoning and state != "open"):
        return one.content, None  # thinking recorded apart as well stands in the content already
    if one.reasoning is None:
        if one.finish != "length" and one.ids is None:
            raise InputError(
                "the generation prompt opens thinking and nothing closes it: the thinking was not recorded"
            )
        return one.content, None
    if markers is None:
        raise InputError("thinking was recorded apart, and this tokenizer has no thinking markers: name them")
    if state == "closed":
        raise InputError("thinking was recorded, and the generation prompt switches it off: give template_kwargs")
    frame = find_frame(tokenizer, markers)
    before = "" if state == "open" else frame.opening
    cut_off = one.finish == "length" and not one.content.strip()
    after = "" if cut_off else frame.lead * bool(one.reasoning) + frame.closing + one.content.lstrip()
    why = "thinking was recorded apart: the whitespace around it is the template's, not the recorded one"
    return before + one.reasoning.strip("\n") + after, why


def _marker(tokenizer: PreTrainedTokenizerBase, strings: Sequence[Sequence[int]]) -> str:
    return str(tokenizer.decode(list(strings[0]), clean_up_tokenization_spaces=False)).strip()


def _check_recorded(one: Transcript, tokenizer: PreTrainedTokenizerBase, text: str | None) -> str | None:
    """Recorded ids must say what the recorded text says."""
    assert one.ids is not None
    if one.ids and not 0 <= min(one.ids) <= max(one.ids) < len(tokenizer):
        raise InputError(f"recorded token ids go beyond this tokenizer's {len(tokenizer)} tokens: another model's?")
    said = str(tokenizer.decode(list(one.ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    plain = str(tokenizer.decode(list(one.ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
    if text is None or text.strip() in (said.strip(), plain.strip()) or said.strip().startswith(text.strip()):
        return None
    return "the recorded token ids do not spell the recorded text"


def _check_encoded(
    written: Sequence[int],
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    prompt: RenderedPrompt,
    markers: Markers | None,
) -> str | None:
    """Why encoding the text need not give the model's tokens; ``None`` where nothing speaks against it."""
    said = str(tokenizer.decode(list(written), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if said != text:
        return "the tokenizer does not reproduce the text"
    together = tuple(tokenizer(prompt.text + text, add_special_tokens=False)["input_ids"])
    if together != (*prompt.ids, *written):
        return "the text's first token merges with the prompt's last one"
    own = {i for side in (markers.opener, markers.closer) for string in side for i in string} if markers else set()
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if set(written) & (special | set(tokenizer.all_special_ids)) - own - {tokenizer.eos_token_id}:
        return "the text spells special tokens, which a model would have written as plain text or not at all"
    return None
