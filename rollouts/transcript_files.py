"""What other tools record of a conversation, read as it is: JSONL messages and inspect_ai logs."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Finish

FINISH: Mapping[str, Finish] = {
    "stop": "stop", "end_turn": "stop", "eos": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length",
}  # fmt: skip
"""Names logs have for why a turn ended; any other is ``given``: not known."""

_REASONING = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class Transcript:
    """One recorded conversation, its last turn the assistant's.

    Attributes:
        id: name of the rollout.
        group: what may not be parted by a split.
        messages: the turns before the last.
        content: text of the last turn, the thinking in it if it was recorded there.
        reasoning: its thinking where that was recorded apart; ``None`` otherwise.
        finish: why it ended.
        tags: whatever else was recorded.
        ids: recorded token ids of the last turn, ``None`` where only text was kept.
    """

    id: str
    group: str
    messages: tuple[Mapping[str, str], ...]
    content: str
    reasoning: str | None
    finish: Finish
    tags: Mapping[str, Any]
    ids: tuple[int, ...] | None = None


def read_transcripts(path: Path) -> Iterator[tuple[str, Transcript | str]]:
    """Name and transcript of every record of a file, or why it is none.

    Raises:
        InputError: no such file, another format, or a file that cannot be read.
    """
    if not path.is_file():
        raise InputError(f"transcript file {path} does not exist: give a .jsonl, .eval or .json file")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        yield from _jsonl(path)
    elif suffix == ".eval":
        yield from _eval(path)
    elif suffix == ".json":
        log = _json(path.read_text(encoding="utf-8-sig"), path)
        if not isinstance(log, dict) or not isinstance(log.get("samples"), list):
            raise InputError(f"{path} is no inspect_ai log: it has no list of samples; write messages as .jsonl")
        model = (log.get("eval") or {}).get("model")
        for k, sample in enumerate(log["samples"]):
            yield _sample(sample, model, f"sample {k}")
    else:
        raise InputError(f"{path}: cannot read {suffix or 'a file without an ending'}: use .jsonl, .eval or .json")


def _json(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is no JSON: {error}") from None


def _jsonl(path: Path) -> Iterator[tuple[str, Transcript | str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        name = f"line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield name, f"no JSON: {error}"
            continue
        if not isinstance(row, dict):
            yield name, "no JSON object"
            continue
        turns = row.get("messages") or [
            {"role": {"human": "user", "gpt": "assistant"}.get(t.get("from"), t.get("from")), "content": t.get("value")}
            for t in row.get("conversations") or []
        ]
        yield _transcript(
            name, turns, id=str(row.get("id", number)), group=row.get("group"), finish=row.get("finish_reason"),
            ids=row.get("token_ids"), tags=_scalars(row, ("id", "group", "finish_reason")),
        )  # fmt: skip


def _eval(path: Path) -> Iterator[tuple[str, Transcript | str]]:
    """An inspect_ai log in its archive form: ``header.json`` and one ``samples/*.json`` per sample and epoch."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            head = next((n for n in ("header.json", "_journal/start.json") if n in names), None)
            model = (_json(_member(path, archive, head), path).get("eval") or {}).get("model") if head else None
            for name in names:
                if name.startswith("samples/") and name.endswith(".json"):
                    yield _sample(_json(_member(path, archive, name), f"{path}: {name}"), model, name)
    except (zipfile.BadZipFile, zstandard.ZstdError) as error:
        raise InputError(f"{path} is no inspect_ai log: {error}") from None
    except NotImplementedError as error:
        raise InputError(
            f"{path} is compressed in a way that is not read ({error}): convert it with `inspect log convert --to json`"
        ) from None


_ZSTANDARD = 93
"""Compression method of recent logs, which zipfile learns only in Python 3.14."""


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> str:
    """One file of the archive as text."""
    info = archive.getinfo(name)
    if info.compress_type != _ZSTANDARD:
        return archive.read(name).decode()
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
    return text.decode()


def _sample(sample: Any, model: str | None, name: str) -> tuple[str, Transcript | str]:
    if not isinstance(sample, dict) or "messages" not in sample:
        return name, "no sample with messages"
    choices = (sample.get("output") or {}).get("choices") or [{}]
    tags = _scalars(sample.get("metadata") or {}, ()) | {"model": model}
    for score, value in (sample.get("scores") or {}).items():
        tags[f"score_{score}"] = value.get("value") if isinstance(value, dict) else value
    prompt, epoch = str(sample.get("id", name)), int(sample.get("epoch", 1))
    return _transcript(
        name, sample["messages"], id=f"{prompt}/{epoch - 1}", group=prompt, finish=choices[0].get("stop_reason"),
        ids=None, tags=_scalars(tags, ()),
    )  # fmt: skip


def _scalars(row: Mapping[str, Any], but: Sequence[str]) -> dict[str, Any]:
    return {
        str(k): v for k, v in row.items() if k not in but and (v is None or isinstance(v, str | bool | int | float))
    }


def _transcript(
    name: str, turns: Any, *, id: str, group: Any, finish: Any, ids: Any, tags: dict[str, Any]
) -> tuple[str, Transcript | str]:
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        return name, "no list of messages"
    if turns[-1].get("role") != "assistant":
        return name, f"the last turn is the {turns[-1].get('role')}'s: there is nothing the model wrote"
    read = [_turn(turn) for turn in turns]
    problem = next((turn for turn in read if isinstance(turn, str)), None)
    if problem is not None:
        return name, problem
    pieces = [turn for turn in read if not isinstance(turn, str)]
    before = zip(turns[:-1], pieces[:-1], strict=True)
    messages = tuple({"role": str(turn["role"]), "content": text} for turn, (text, _) in before)
    if ids is not None and not (isinstance(ids, list) and ids and all(type(i) is int for i in ids)):
        return name, "token_ids is no list of whole numbers"
    content, reasoning = pieces[-1]
    made = Transcript(
        id, str(group) if group is not None else id.rpartition("/")[0] or id, messages, content, reasoning,
        FINISH.get(str(finish).lower(), "given"), tags, tuple(ids) if ids is not None else None,
    )  # fmt: skip
    return name, made


def _turn(turn: Mapping[str, Any]) -> tuple[str, str | None] | str:
    """Text and thinking of one message, or why it cannot be read."""
    if turn.get("tool_calls") or turn.get("role") == "tool":
        return "tool calls are not read"
    content = turn.get("content")
    reasoning = next((turn[key] for key in _REASONING if isinstance(turn.get(key), str) and turn[key]), None)
    if isinstance(content, str) or content is None:
        return content or "", reasoning
    text, thought = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text.append(str(part.get("text", "")))
        elif kind == "reasoning" and not part.get("redacted"):
            thought.append(str(part.get("reasoning", "")))
        else:
            return f"a part of type {kind!r} is not read" + (" (redacted)" if kind == "reasoning" else "")
    return "\n".join(text), "\n".join(thought) if thought else reasoning
