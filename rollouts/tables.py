"""Rollouts as a table and a Parquet file, without loss, with the decoded text beside the ids for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.provenance import whole
from verdictscope.rollouts.rollout import Rollout, Sampling, Span
from verdictscope.rollouts.segments import answer_text, thinking_text

FORMAT = "verdictscope.rollouts"
VERSION = 1

_SPAN = pa.struct([("segment", pa.string()), ("start", pa.int32()), ("stop", pa.int32())])
SCHEMA = pa.schema(
    [
        ("rollout", pa.string()),
        ("prompt", pa.string()),
        ("group", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("segments", pa.list_(_SPAN)),
        ("n_prompt", pa.int32()),
        ("finish", pa.string()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_new_tokens", pa.int64()),
        ("seed", pa.int64()),
        ("engine", pa.string()),
        ("tags", pa.string()),
        ("thinking_text", pa.string()),
        ("answer_text", pa.string()),
        ("prompt_text", pa.string()),
        ("n_forced", pa.int32()),
    ]
)
"""Columns of the rollout table (``docs/formats.md``).

``segments`` are the spans; ``tags`` is a JSON object; the four sampling columns are null for given rollouts. The
text columns and ``prompt`` (the rollout's id without its sample number) are for people and never read back. A table
without ``n_forced`` (of an earlier release) holds no forced rollouts.
"""

_WIDENED = ("n_forced",)
_FOR_PEOPLE = ("prompt", "thinking_text", "answer_text", "prompt_text")
_SAMPLING = {"temperature": "Float64", "top_p": "Float64", "max_new_tokens": "Int64", "seed": "Int64"}


def to_frame(rollouts: Sequence[Rollout], tokenizer: PreTrainedTokenizerBase | None = None) -> pd.DataFrame:
    """One row per rollout, columns of :data:`SCHEMA`."""
    rows = _rows(rollouts, tokenizer)
    columns: dict[str, Any] = {name: pd.Series([row[name] for row in rows], dtype=object) for name in SCHEMA.names}
    # nullable types from the start: a plain column with a gap would pass through floats and round a large seed
    columns |= {name: pd.array([row[name] for row in rows], dtype=kind) for name, kind in _SAMPLING.items()}
    return pd.DataFrame(columns).infer_objects()


def _rows(rollouts: Sequence[Rollout], tokenizer: PreTrainedTokenizerBase | None) -> list[dict[str, Any]]:
    again = [name for name, n in Counter(r.id for r in rollouts).items() if n > 1]
    if again:
        raise InputError(f"rollout id {again[0]!r} occurs twice: make ids unique")
    return [_row(r, tokenizer) for r in rollouts]


def _row(r: Rollout, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    def decoded(read: Callable[[Rollout, PreTrainedTokenizerBase], str | None]) -> str | None:
        return None if tokenizer is None else read(r, tokenizer)

    return {
        "rollout": r.id,
        "prompt": r.id.rpartition("/")[0] or r.id,
        "group": r.group,
        "ids": list(r.ids),
        "segments": [asdict(s) for s in r.spans],
        "n_prompt": r.n_prompt,
        "finish": r.finish,
        **(asdict(r.sampling) if r.sampling else dict.fromkeys(_SAMPLING)),
        "engine": r.engine,
        "tags": _dump(r),
        "thinking_text": decoded(thinking_text),
        "answer_text": decoded(answer_text),
        "prompt_text": decoded(_prompt_text),
        "n_forced": r.n_forced,
    }


def _prompt_text(r: Rollout, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(r.ids[: r.n_prompt]), clean_up_tokenization_spaces=False))


def _dump(r: Rollout) -> str:
    try:
        text = json.dumps(dict(r.tags), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"rollout {r.id}: a tag cannot be stored ({error}): use text, numbers, truth values") from None
    if json.loads(text) != dict(r.tags):
        raise InputError(f"rollout {r.id}: a tag would change when stored: use text, numbers, truth values, lists")
    return text


def from_frame(frame: pd.DataFrame) -> list[Rollout]:
    """Rollouts from the columns :func:`to_frame` writes; columns for people and further ones are ignored."""
    known = [n for n in SCHEMA.names if n not in _FOR_PEOPLE]
    missing = [n for n in known if n not in frame.columns and n not in _WIDENED]
    if missing:
        raise InputError(f"not a rollout table: column {missing[0]!r} is missing; write it with to_frame")
    return [_rollout(row) for row in frame[[n for n in known if n in frame.columns]].to_dict("records")]


def _rollout(row: dict[str, Any]) -> Rollout:
    drawn = not pd.isna(row["temperature"])
    return Rollout(
        id=str(row["rollout"]),
        group=str(row["group"]),
        ids=tuple(map(int, row["ids"])),
        spans=tuple(Span(str(s["segment"]), int(s["start"]), int(s["stop"])) for s in row["segments"]),
        n_prompt=int(row["n_prompt"]),
        finish=row["finish"],
        sampling=Sampling(float(row["temperature"]), float(row["top_p"]), int(row["max_new_tokens"]), int(row["seed"]))
        if drawn
        else None,
        engine=str(row["engine"]),
        tags=json.loads(row["tags"]),
        n_forced=int(row.get("n_forced") or 0),
    )


def write_parquet(
    rollouts: Sequence[Rollout],
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    request: str | None = None,
) -> Path:
    """Write rollouts to a Parquet file in one step: a reader sees the old file or the whole new one.

    Args:
        rollouts: any rollouts, ids unique.
        path: file to write.
        tokenizer: decodes the text columns.
        request: a word for what was asked for, kept in the file's metadata (:func:`file_request`).

    Returns:
        The path written.

    Example:
        >>> rollout = Rollout("p1/0", "p1", (5, 6, 7), (Span("user", 0, 2), Span("answer", 2, 3)), n_prompt=2)
        >>> read_parquet(write_parquet([rollout], "rollouts.parquet")) == [rollout]
        True
    """
    path = Path(path)
    # by way of pandas, so that its own reader gets the nullable types back
    table = pa.Table.from_pandas(to_frame(rollouts, tokenizer), schema=SCHEMA, preserve_index=False)
    meta = {**(table.schema.metadata or {}), b"format": FORMAT.encode(), b"version": str(VERSION).encode()}
    meta |= {b"request": request.encode()} if request is not None else {}
    table = table.replace_schema_metadata(meta)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        pq.write_table(table, part)
    return path


def file_request(path: str | Path) -> str | None:
    """The word a rollout file was written with, ``None`` where there is none."""
    try:
        meta = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid:
        raise InputError(f"{path} is no Parquet file: delete it, or give another path") from None
    word = meta.get(b"request")
    return None if word is None else word.decode()


def read_parquet(path: str | Path) -> list[Rollout]:
    """Read what :func:`write_parquet` wrote.

    Raises:
        InputError: no such file, no rollout table, or one of a later version.

    Example:
        >>> rollout = Rollout("p1/0", "p1", (5, 6, 7), (Span("user", 0, 2), Span("answer", 2, 3)), n_prompt=2)
        >>> read_parquet(write_parquet([rollout], "rollouts.parquet"))
        [Rollout('p1/0': 2 user, 1 answer; given)]
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"rollout file {path} does not exist: generate rollouts first")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid:
        raise InputError(f"{path} is no Parquet file: give a file written by write_parquet") from None
    meta = table.schema.metadata or {}
    if meta.get(b"format") != FORMAT.encode():
        raise InputError(f"{path} holds no rollouts: give a file written by write_parquet")
    if int(meta[b"version"]) > VERSION:
        raise InputError(f"{path} has format version {int(meta[b'version'])}, this release reads {VERSION}: upgrade")
    return [_rollout(row) for row in table.to_pylist()]
