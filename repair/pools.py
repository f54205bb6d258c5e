"""The pool that training data are selected from: rollouts with scores, safe completions, and benign rollouts."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from verdictscope.errors import InputError, reason
from verdictscope.repair.ranking import pool_scores
from verdictscope.rollouts import Rollout, import_transcripts, read_parquet
from verdictscope.rollouts.transcript_files import Transcript, transcript
from verdictscope.rollouts.transcripts import imported
from verdictscope.rows import RowError, read_rows
from verdictscope.values import text, truth

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from verdictscope.activations import Model, Readout
    from verdictscope.traces import Normaliser


@dataclass(eq=False)
class Pool:
    """Everything a selection is made from.

    Attributes:
        name: what it was read from.
        tokenizer: the model's.
        rollouts: the pool.
        refused: whether each of them refused, by id; missing where that could not be parsed.
        answers: safe completions by rollout id, one table per source they may come from (a column of the pool,
            ``reference`` or ``ablated``).
        unusable: rows that are no rollouts, by name, with the reason.
        benign: rollouts to mix in with their own answers.
        scores: from `pool_scores`; ``None`` without a probe.
        model: the model, where it was loaded; ranking by loss runs it.

    Example:
        >>> import pandas as pd
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> rollout = Rollout("r0", "prompt 0", (5, 6), (Span("user", 0, 2),), 2)
        >>> pool = Pool("mine", load_model("organism:cliff").tokenizer, [rollout], pd.Series({"r0": False}), {})
        >>> len(pool.rollouts)
        1
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    rollouts: list[Rollout]
    refused: pd.Series
    answers: Mapping[str, Mapping[str, str]]
    unusable: Mapping[str, str] = field(default_factory=dict)
    benign: list[Rollout] = field(default_factory=list)
    scores: pd.DataFrame | None = None
    model: Any = None


def read_pool(
    file: str | Path, model: Model, readout: Readout | None = None, normaliser: Normaliser | None = None
) -> Pool:
    """Read a pool from a file, and score it where a readout is given.

    Args:
        file: rollouts (Parquet, as ``write_parquet`` writes them), transcripts (JSONL with ``messages``, or an
            inspect_ai log), or a table with ``user thinking answer`` and optionally ``id group system safe harm``. Rows
            whose ``harm`` is false are benign; without such a column all rows are the pool.
        model: the model that wrote them.
        readout: a probe's, read at every token.
        normaliser: of the run the probe is from; without it there is no normalised score.

    Raises:
        InputError: a file that cannot be read, or no rollouts in it.

    Example:
        >>> import json, pathlib, tempfile
        >>> from verdictscope.activations import load_model
        >>> row = {"id": "r0", "user": "how to", "thinking": "no", "answer": "yes", "safe": "sorry"}
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "pool.jsonl"
        >>> _ = file.write_text(json.dumps(row))
        >>> sorted(read_pool(file, load_model("organism:cliff")).answers)
        ['safe']
    """
    from verdictscope.judgments import label_rollouts
    from verdictscope.traces import trace

    file = Path(file)
    rollouts, unusable = read_rollouts(file, model.tokenizer)
    harm = {r.id: truth(r.tags.get("harm"), f"{file}: harm of rollout {r.id!r}") for r in rollouts}
    pool = [r for r in rollouts if harm[r.id] is not False]
    if not pool:
        raise InputError(f"{file} holds no rollout to rank: {len(unusable)} rows could not be read")
    scores = None if readout is None else pool_scores(trace(model, pool, readout), normaliser)
    refused = label_rollouts(model, pool).set_index("rollout")["refused"]
    benign = [r for r in rollouts if harm[r.id] is False]
    return Pool(str(file), model.tokenizer, pool, refused, text_columns(pool), unusable, benign, scores, model)


def read_rollouts(file: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Rollout], dict[str, str]]:
    """Rollouts of a pool file, and the rows that could not become one with the reason."""
    if file.suffix.lower() == ".parquet" and _is_rollouts(file):
        return read_parquet(file), {}
    if file.suffix.lower() == ".eval" or _is_log(file):
        made = import_transcripts(file, tokenizer)
    else:
        rows = read_rows(file)
        columns = {name for _, row in rows if isinstance(row, dict) for name in row}
        lacking = [name for name in ("user", "thinking") if name not in columns]
        if lacking and not columns & {"messages", "conversations"}:
            raise InputError(f"{file}: a pool needs the columns user and thinking; {lacking[0]!r} is missing")
        made = imported([(place, _conversation(place, row)) for place, row in rows], str(file), tokenizer)
    lost = made.report[made.report["status"] == "left out"]
    names = [f"{name} of {file.name}" for name in lost["rollout"]]
    return list(made.rollouts), dict(zip(names, [f"unreadable: {why}" for why in lost["reason"]], strict=True))


def _is_rollouts(file: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return (pq.read_schema(file).metadata or {}).get(b"format") == b"verdictscope.rollouts"
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} is no Parquet file that can be read: {reason(error)}") from None


def _is_log(file: Path) -> bool:
    """Whether a JSON file is an inspect_ai log: an object with samples."""
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    return file.read_bytes().removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{"


def _conversation(place: str, row: Any) -> Transcript | str:
    """A row of a pool as a transcript (its messages, or the columns user and thinking), or why it is none."""
    if isinstance(row, RowError):
        return str(row)
    try:
        own = {**row, "harm": truth(row["harm"], "harm")} if "harm" in row else dict(row)
        if "messages" in row or "conversations" in row:
            return transcript(place, own)
        system, user, thinking, answer = (text(own.pop(n, None), n) for n in ("system", "user", "thinking", "answer"))
    except InputError as error:
        return str(error)
    if not user:
        return "user is missing"
    turns = [{"role": "system", "content": system}] if system else []
    reply = {"role": "assistant", "content": answer or ""} | ({"reasoning_content": thinking} if thinking else {})
    return transcript(place, {"id": place, **own, "messages": [*turns, {"role": "user", "content": user}, reply]})


def text_columns(pool: Sequence[Rollout]) -> dict[str, Mapping[str, str]]:
    """Text tags of the pool that may hold safe completions: filled ones by rollout id."""
    found: dict[str, dict[str, str]] = {}
    for rollout in pool:
        for name, value in rollout.tags.items():
            if isinstance(value, str) and value.strip() and name != "degraded":
                found.setdefault(name, {})[rollout.id] = value
    return dict(found)
