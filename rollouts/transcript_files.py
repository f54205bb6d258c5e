"""What other tools record of a conversation, read as it is: JSONL messages and inspect_ai logs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Finish
from verdictscope.rollouts.templates import REASONING_FIELDS
from verdictscope.rows import RowError, json_value, read_rows, shown
from verdictscope.values import identity, text

FINISH: Mapping[str, Finish] = {
    "stop": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
}
"""Names logs have for why a turn ended; any other is ``given``: not known."""

_SHARED = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Transcript:
    """One recorded conversation, its last turn the assistant's."""

    id: str
    group: str
    messages: tuple[Mapping[str, str], ...]
    content: str
    reasoning: str | None
    finish: Finish
    tags: Mapping[str, Any]
    ids: tuple[int, ...] | None = None


def read_transcripts(path: Path) -> Iterator[tuple[str, Transcript | str]]:
    """Name and transcript of every record of a file, or why it is none."""
    if not path.is_file():
        raise InputError(f"transcript file {path} does not exist: give a .jsonl, .eval or .json file")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        for place, row in read_rows(path):
            yield place, str(row) if isinstance(row, RowError) else transcript(place, row)
    elif suffix == ".eval":
        yield from _eval(path)
    elif suffix == ".json":
        try:
            log = json_value(path.read_bytes())
        except RowError as error:
            raise InputError(f"{path} {error}") from None
        if not isinstance(log, dict) or not isinstance(log.get("samples"), list):
            raise InputError(f"{path} is no inspect_ai log: it has no list of samples; write messages as .jsonl")
        for k, sample in enumerate(log["samples"]):
            yield f"sample {k}", _sample(sample, _model(log), f"sample {k}")
    else:
        raise InputError(f"{path}: cannot read {suffix or 'a file without an ending'}: use .jsonl, .eval or .json")


def transcript(place: str, row: Mapping[str, Any]) -> Transcript | str:
    """A row with ``messages`` or ``conversations`` as a transcript, or why it is none."""
    try:
        turns = row.get("messages") or [
            {"role": _SHARED.get(str(t.get("from")), t.get("from")), "content": t.get("value")}
            for t in _listed(row.get("conversations") or [], "conversations")
        ]
        return _transcript(
            turns,
            id=identity(row.get("id"), "id") or place.rpartition(" ")[2],
            group=row.get("group"),
            finish=row.get("finish_reason"),
            ids=row.get("token_ids"),
            tags=_scalars(row, ("id", "group", "finish_reason")),
        )
    except InputError as error:
        return str(error)


def _listed(value: Any, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InputError(f"{what} is no list of objects")
    return value


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    """An object of a log; empty where there is none."""
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{what} is {shown(value)}, no object")
    return value or {}


def _model(head: Any) -> Any:
    about = head.get("eval") if isinstance(head, dict) else None
    return about.get("model") if isinstance(about, dict) else None


def _eval(path: Path) -> Iterator[tuple[str, Transcript | str]]:
    """An inspect_ai log in its archive form: ``header.json`` and one ``samples/*.json`` per sample and epoch."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            head = next((n for n in ("header.json", "_journal/start.json") if n in names), None)
            model = _model(json_value(_member(path, archive, head))) if head else None
            for name in names:
                if name.startswith("samples/") and name.endswith(".json"):
                    packed = _member(path, archive, name)
                    try:
                        yield name, _sample(json_value(packed), model, name)
                    except RowError as error:
                        yield name, str(error)
    except RowError as error:
        raise InputError(f"{path}: {head} {error}") from None
    except (zipfile.BadZipFile, zstandard.ZstdError, zlib.error) as error:
        raise InputError(f"{path} is no inspect_ai log: {error}") from None
    except NotImplementedError as error:
        raise InputError(
            f"{path} is compressed in a way that is not read ({error}): convert it with `inspect log convert --to json`"
        ) from None


_ZSTANDARD = 93
"""Compression method of recent logs, which zipfile learns only in Python 3.14."""


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """One file of the archive."""
    info = archive.getinfo(name)
    if info.compress_type != _ZSTANDARD:
        return archive.read(name)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        # the local header: 30 bytes, then the name and an extra field, whose lengths stand at 26 and 28
        header = file.read(30)
        if header[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"no file header for {name}")
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        packed = file.read(info.compress_size)
    text = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    if zlib.crc32(text) != info.CRC:
        raise zipfile.BadZipFile(f"the checksum of {name} is wrong")
    return text


def _sample(sample: Any, model: Any, name: str) -> Transcript | str:
    if not isinstance(sample, dict) or "messages" not in sample:
        return "no sample with messages"
    try:
        choices = _listed(_mapping(sample.get("output"), "output").get("choices") or [{}], "choices")
        tags = _scalars(_mapping(sample.get("metadata"), "metadata"), ()) | {"model": model}
        for score, value in _mapping(sample.get("scores"), "scores").items():
            tags[f"score_{score}"] = value.get("value") if isinstance(value, dict) else value
        prompt, epoch = identity(sample.get("id"), "id") or name, sample.get("epoch", 1)
        if type(epoch) is not int or epoch < 1:
            return f"epoch is {shown(epoch)}, no number from 1"
        return _transcript(
            sample["messages"],
            id=f"{prompt}/{epoch - 1}",
            group=prompt,
            finish=choices[0].get("stop_reason"),
            ids=None,
            tags=_scalars(tags, ()),
        )
    except InputError as error:
        return str(error)


def _scalars(row: Mapping[str, Any], but: Sequence[str]) -> dict[str, Any]:
    return {
        str(k): v for k, v in row.items() if k not in but and (v is None or isinstance(v, str | bool | int | float))
    }


def _transcript(turns: Any, *, id: str, group: Any, finish: Any, ids: Any, tags: dict[str, Any]) -> Transcript | str:
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        return "no list of messages"
    if turns[-1].get("role") != "assistant":
        return f"the last turn is the {turns[-1].get('role')}'s: there is nothing the model wrote"
    if wrong := [turn.get("role") for turn in turns if not isinstance(turn.get("role"), str)]:
        return f"a message's role is {shown(wrong[0])}, not text"
    read = [_turn(turn) for turn in turns]
    problem = next((turn for turn in read if isinstance(turn, str)), None)
    if problem is not None:
        return problem
    pieces = [turn for turn in read if not isinstance(turn, str)]
    before = zip(turns[:-1], pieces[:-1], strict=True)
    messages = tuple(
        {"role": turn["role"], "content": text} | (dict.fromkeys(REASONING_FIELDS, thought) if thought else {})
        for turn, (text, thought) in before
    )
    if ids is not None and not (isinstance(ids, list) and ids and all(type(i) is int for i in ids)):
        return "token_ids is no list of whole numbers"
    content, reasoning = pieces[-1]
    return Transcript(
        id,
        identity(group, "group") or id.rpartition("/")[0] or id,
        messages,
        content,
        reasoning,
        FINISH.get(str(finish).lower(), "given"),
        tags,
        tuple(ids) if ids is not None else None,
    )


def _turn(turn: Mapping[str, Any]) -> tuple[str, str | None] | str:
    """Text and thinking of one message, or why it cannot be read."""
    if turn.get("tool_calls") or turn["role"] == "tool":
        return "tool calls are not read"
    content = turn.get("content")
    given = [text(turn.get(key), f"a message's {key}") for key in REASONING_FIELDS]
    apart = [thinking for thinking in given if thinking is not None]
    reasoning = next((thinking for thinking in apart if thinking.strip()), "" if apart else None)
    if content is None and turn["role"] != "assistant":
        return f"the {turn['role']}'s message has no content"
    if not isinstance(content, list):
        return text(content, "a message's content") or "", reasoning
    said: list[str] = []
    thought: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            said.append(text(part.get("text"), "a part's text") or "")
        elif kind == "reasoning" and not part.get("redacted"):
            thought.append(text(part.get("reasoning"), "a part's reasoning") or "")
        elif kind == "thinking" and isinstance(part.get("thinking"), str):
            thought.append(part["thinking"])
        else:
            return f"a part of type {kind!r} is not read" + (" (redacted)" if kind == "reasoning" else "")
    return "\n".join(said), "\n".join(thought) if thought else reasoning
