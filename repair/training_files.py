"""Chosen rollouts as training files: own thinking, closing and safe completion, mixed with benign rollouts.

The text a model is trained on must be the text it saw and wrote. Chat templates of reasoning models strip or rewrite
the thinking of an assistant's turn, so a messages file is written only if the tokenizer's own template renders every
row back to that very text; otherwise plain prompt and completion stand in for it, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError, reason
from verdictscope.provenance import whole
from verdictscope.rollouts import Rollout, answer_text, find_markers
from verdictscope.rollouts.segments import thinking_text
from verdictscope.values import number, whole_number

FORMATS = ("prompt-completion", "messages", "sharegpt", "alpaca")
"""TRL's two, then LLaMA-Factory's two."""

FILES = {
    "prompt-completion": "prompt_completion.jsonl",
    "messages": "messages.jsonl",
    "sharegpt": "sharegpt.jsonl",
    "alpaca": "alpaca.jsonl",
}
DATASET_INFO: dict[str, dict[str, Any]] = {
    "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system"}},
    "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}},
}
"""Entries of LLaMA-Factory's ``dataset_info.json`` (its ``data/README.md``)."""


@dataclass(frozen=True)
class Example:
    """One row of training text."""

    id: str
    group: str
    kind: str
    prompt: str
    lead: str
    thinking: str
    answer: str
    end: str
    system: str | None = None
    user: str | None = None
    opener: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True

    @property
    def completion(self) -> str:
        """What follows the prompt."""
        return self.lead + self.answer + self.end

    @property
    def turn(self) -> str:
        """The whole assistant's turn as one text, the opener the template writes included."""
        return self.opener + self.lead + self.answer

    @property
    def problem(self) -> str:
        """Why it cannot be trained on, empty if it can."""
        texts = (self.prompt, self.lead, self.answer)
        if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
            return "not valid Unicode (a lone surrogate)"
        return "" if self.thinking.strip() else "no thinking"


def example(
    rollout: Rollout,
    tokenizer: PreTrainedTokenizerBase,
    answer: str | None = None,
    *,
    kind: str = "safety",
    opener: str = "",
    prompt: str | None = None,
    messages: Sequence[Mapping[str, str]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Example:
    """A rollout's own prompt, thinking and closing, followed by a given answer or its own."""
    closing = rollout.span("think_end")
    if closing is None:
        raise InputError(f"rollout {rollout.id!r}: its thinking was never closed, so no completion can follow")

    def decoded(start: int, stop: int) -> str:
        ids = list(rollout.ids[start:stop])
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    text = answer_text(rollout, tokenizer) if answer is None else answer
    if text is None or not text.strip():
        raise InputError(f"rollout {rollout.id!r} has no answer to train on")
    shown = min(rollout.n_prompt, closing.start)
    if prompt is None or _encoded(tokenizer, prompt) != rollout.ids[:shown]:
        prompt = decoded(0, shown)
    system, user = _turns(rollout, decoded, messages)
    header = prompt[prompt.rindex(opener) :] if opener and opener in prompt else ""
    lead = decoded(shown, closing.stop)
    shows = bool(header) and not header.removeprefix(opener).strip() and opener not in lead
    last = rollout.spans[-1]
    ended = rollout.finish == "stop" and last.segment == "template" and last.start >= closing.stop
    end = decoded(last.start, last.stop) if ended else str(tokenizer.eos_token or "")
    thinking = thinking_text(rollout, tokenizer) or ""
    return Example(
        rollout.id,
        rollout.group,
        kind,
        prompt,
        lead,
        thinking,
        text,
        end,
        system,
        user,
        header if shows else "",
        dict(facts or {}),
        _encoded(tokenizer, prompt + lead) == rollout.ids[: closing.stop],
    )


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _turns(rollout: Rollout, decoded: Any, messages: Sequence[Mapping[str, str]] | None) -> tuple[Any, Any]:
    """System and user text of a prompt with one user turn; nothing for longer conversations."""
    if messages is not None:
        turns = [(m["role"], m["content"]) for m in messages]
    else:
        turns = [(s.segment, decoded(s.start, s.stop)) for s in rollout.spans if s.segment in ("system", "user")]
    roles = [role for role, _ in turns]
    if roles == ["user"]:
        return None, turns[0][1]
    return (turns[0][1], turns[1][1]) if roles == ["system", "user"] else (None, None)


def shown_opener(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tag that opens thinking, as text; empty where the tokenizer knows none."""
    markers = find_markers(tokenizer)
    if markers is None:
        return ""
    return str(tokenizer.decode(list(markers.opener[0]), clean_up_tokenization_spaces=False)).strip()


def mix(
    safety: Sequence[Example], benign: Sequence[Example], ratio: float | int, seed: int = 0
) -> tuple[list[Example], dict[str, int]]:
    """Both kinds in an order drawn by the seed."""
    number(ratio, "benign ratio (benign rows per safety row)", 0), whole_number(seed, "seed")
    asked = round(ratio * len(safety))
    if asked and not benign:
        raise InputError("no benign rows to mix in: give some (--benign FILE), or --benign-ratio 0")
    rng = np.random.default_rng([seed, 11])
    pool = sorted(benign, key=lambda e: e.id)
    taken = [pool[i] for i in rng.permutation(len(pool))[:asked]]
    rows = [*sorted(safety, key=lambda e: e.id), *taken]
    order = rng.permutation(len(rows))
    return [rows[i] for i in order], {"safety": len(safety), "benign": len(taken), "benign_asked": asked}


@dataclass(frozen=True)
class Fit:
    """Whether a chat template gives back the text that was seen and written."""

    way: str | None
    reason: str = ""


def fit_messages(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Fit:
    """Find how messages must be put so that the template renders every row back to its own text."""
    reason = ""
    for way in ("content", "reasoning_content"):
        failed = [(e, why) for e in examples if (why := _misfit(e, way, tokenizer))]
        if not failed:
            return Fit(way)
        reason = reason or f"{failed[0][1]} ({len(failed)} of {len(examples)} rows)"
    return Fit(None, reason)


def _misfit(one: Example, way: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if one.user is None:
        return "the conversation has more turns than one request"
    wanted = one.prompt + one.completion
    try:
        text = tokenizer.apply_chat_template([dict(m) for m in messages(one, way)], tokenize=False)
    except Exception as error:  # jinja2's own classes are no dependency of ours; the row is then written plainly
        return f"the chat template refuses the messages ({reason(error)})"
    if str(text).rstrip() == wanted.rstrip():
        return ""
    times, due = str(text).count(one.thinking.strip()), wanted.count(one.thinking.strip())
    if times < due:
        return "the chat template leaves the thinking out"
    if times > due:
        return "the chat template prints the thinking more than once"
    return "the chat template writes the turn otherwise than the model saw it"


def messages(one: Example, way: str = "content") -> list[dict[str, str]]:
    """An example as chat messages; ``way`` as in `Fit`."""
    turns = [{"role": "system", "content": one.system}] if one.system is not None else []
    turns.append({"role": "user", "content": str(one.user)})
    if way == "content":
        return [*turns, {"role": "assistant", "content": one.turn}]
    return [*turns, {"role": "assistant", "reasoning_content": one.thinking.strip("\n"), "content": one.answer}]


def write_files(
    folder: Path, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, formats: Sequence[str] = FORMATS
) -> dict[str, Any]:
    """Write the training files."""
    unknown = [f for f in formats if f not in FORMATS]
    if unknown:
        raise InputError(f"no format {unknown[0]!r}: there are {', '.join(FORMATS)}")
    if not examples:
        raise InputError("no row to write")
    folder.mkdir(parents=True, exist_ok=True)
    fit = fit_messages(examples, tokenizer)
    wanted = list(dict.fromkeys(formats))
    if "messages" in wanted and fit.way is None:
        wanted = list(dict.fromkeys("prompt-completion" if f == "messages" else f for f in wanted))
    several = sum(e.user is None for e in examples)
    if several and {"sharegpt", "alpaca"} & set(wanted):
        raise InputError(f"{several} rows have more turns than one request: write prompt-completion")
    starts = adds_bos(tokenizer)
    for name in wanted:
        rows = [_row(replace(e, prompt=without_bos(e.prompt, starts)), name, fit.way or "content") for e in examples]
        write_jsonl(folder / FILES[name], rows)
    info = {f"verdictscope_{n}": {"file_name": FILES[n], **DATASET_INFO[n]} for n in wanted if n in DATASET_INFO}
    if info:
        with whole(folder / "dataset_info.json") as part:
            part.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    fitted = {"way": fit.way, "reason": fit.reason}
    return {
        "files": {n: FILES[n] for n in wanted},
        "messages": fitted,
        "inexact": sum(not e.exact for e in examples),
        "bos_left_to_the_tokenizer": bool(starts),
    }


def _row(one: Example, name: str, way: str) -> dict[str, Any]:
    facts = {"id": one.id, "group": one.group, "kind": one.kind, **one.facts}
    if name == "messages":
        return {"messages": messages(one, way), **facts}
    if name == "sharegpt":
        turns = [{"from": "human", "value": one.user}, {"from": "gpt", "value": one.turn}]
        return {"conversations": turns, "system": one.system or "", **facts}
    if name == "alpaca":
        return {"instruction": one.user, "input": "", "output": one.turn, "system": one.system or "", **facts}
    return {"prompt": one.prompt, "completion": one.completion, **facts}


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning-of-sequence token, where the tokenizer puts one before any text it is given; else empty."""
    ids = tokenizer("a")["input_ids"]
    return str(tokenizer.bos_token) if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else ""


def without_bos(text: str, bos: str) -> str:
    """A rendered prompt without the token that the trainer's tokenizer puts there itself: two would shift all."""
    return text.removeprefix(bos) if bos else text


def write_jsonl(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, in ASCII, whole or not at all."""
    with whole(file) as part:
        part.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="ascii")
