"""Where a training pool is read from: a finished run, a table or transcripts with a stored probe."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verdictscope.commands.select import Source, normaliser_of, scored
from verdictscope.errors import InputError, reason
from verdictscope.judgments import label_rollouts
from verdictscope.rollouts import Rollout, answer_text, import_transcripts, read_parquet
from verdictscope.rollouts.transcript_files import Transcript, transcript
from verdictscope.rollouts.transcripts import imported
from verdictscope.rows import RowError, read_rows
from verdictscope.values import text, truth

if TYPE_CHECKING:
    from verdictscope.activations import Model

PARTS = ("train", "validation")
"""Parts of a run's split the pool is taken from: the test part stays unseen, to measure a repaired model on."""

PLACES = ("reference", "ablated")
"""Variants of a run whose own refusals are safe completions."""


def from_run(folder: Path, by: str, parts: Sequence[str] = PARTS) -> Source:
    """A run's target requests as the pool, its complied control requests as benign rollouts.

    Args:
        folder: a run with the stage ``trace`` done.
        by: the method, which says what must be there.
        parts: parts of the split to take.

    Raises:
        InputError: no run, a stage that is not done, an unknown part, or no target request in these parts.
    """
    from verdictscope.study.folder import open_run
    from verdictscope.study.run import quiet

    run = open_run(folder)
    quiet()
    labels = run.labels()
    unknown = [p for p in parts if p not in set(labels["part"])]
    if unknown or not parts:
        known = ", ".join(sorted(set(labels["part"])))
        raise InputError(f"no part {(unknown or [''])[0]!r} in {folder}: there are {known}")
    rollouts = run.rollouts()
    inside = labels[labels["part"].isin(list(parts))]
    pool = [rollouts[i] for i in inside.loc[inside["target"], "rollout"]]
    if not pool:
        raise InputError(f"{folder} has no target request in {', '.join(parts)}: take other parts")
    complied = inside["control"] & inside["refused"].eq(False).fillna(False).astype(bool)
    trace = run.table("trace")
    trace = trace[trace["variant"].eq("base") & trace["rollout"].isin([r.id for r in pool])]
    model = run.model("base")
    answers: dict[str, Mapping[str, str]] = dict(_columns(pool))
    for place, table, names in (("reference", "rollouts", "labels"), ("ablated", "rollouts_ablated", "labels_ablated")):
        if not (folder / f"{table}.parquet").is_file():
            continue
        decided = run.table(names)
        decided = decided[decided["variant"].eq(place) & decided["refused"].eq(True).fillna(False).astype(bool)]
        written = run.rollouts(place)
        # a refusal that was cut is labelled, but nothing to train on
        whole = [i for i in decided["rollout"] if i in written and written[i].finish != "length"]
        said = {i: answer_text(written[i], model.tokenizer) for i in whole}
        answers[place] = {i: text for i, text in said.items() if text}
    return Source(
        str(folder),
        model.tokenizer,
        pool,
        labels.set_index("rollout")["refused"],
        answers,
        benign=[rollouts[i] for i in inside.loc[complied, "rollout"]],
        scores=scored(trace, normaliser_of(folder), by, str(folder)),
        model=model,
    )


def from_pool(file: Path, model: Model, by: str, probe: Path | None = None, *, reference: bool = False) -> Source:
    """A pool read from a file, scored with a stored probe.

    Args:
        file: rollouts (Parquet, as ``write_parquet`` writes them), transcripts (JSONL with ``messages``, or an
            inspect_ai log), or a table with ``user thinking answer`` and optionally ``id group system safe harm``. Rows
            whose ``harm`` is false are benign; without such a column all rows are the pool.
        model: the model that wrote them.
        by: the method.
        probe: folder of the stored probe; a run's folder has normaliser too.
        reference model: the model is a reference model of the one the probe was made on.

    Raises:
        InputError: a file that cannot be read, no rollouts in it, or a probe made for another model.
    """
    from verdictscope.activations import forward
    from verdictscope.probes import load_probe
    from verdictscope.traces import align

    rollouts, unusable = read_pool(file, model.tokenizer)
    harm = {r.id: truth(r.tags.get("harm"), f"{file}: harm of rollout {r.id!r}") for r in rollouts}
    pool = [r for r in rollouts if harm[r.id] is not False]
    if not pool:
        raise InputError(f"{file} holds no rollout to rank: {len(unusable)} rows could not be read")
    scores = None
    if probe is not None:
        readout, _ = load_probe(probe, model, reference=reference)
        aligned = align(forward(model, pool, score=[readout]).scores, pool)
        scores = scored(aligned, normaliser_of(probe), by, str(probe))
    refused = label_rollouts(model, pool).set_index("rollout")["refused"]
    benign = [r for r in rollouts if harm[r.id] is False]
    return Source(str(file), model.tokenizer, pool, refused, _columns(pool), unusable, benign, scores, model)


def add_benign(source: Source, file: Path) -> None:
    """Put another file's rollouts in place of a source's benign ones; rows that cannot be read are said.

    Raises:
        InputError: nothing in it can be read.
    """
    rollouts, lost = read_pool(file, source.tokenizer)
    if not rollouts:
        raise InputError(f"{file} holds no rollout to mix in: {len(lost)} rows could not be read")
    if lost:
        print(f"verdictscope: {file}: {len(lost)} rows could not be read, first {min(lost.items())}", file=sys.stderr)
    source.benign = rollouts


def read_pool(file: Path, tokenizer: Any) -> tuple[list[Rollout], dict[str, str]]:
    """Rollouts of a pool file, and the rows that could not become one with the reason.

    Raises:
        InputError: the file cannot be read.
    """
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
    return list(made.rollouts), {
        f"{name} of {file.name}": f"unreadable: {why}"
        for name, why in zip(lost["rollout"], lost["reason"], strict=True)
    }


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
    """A row of a pool as a transcript: its messages, or the columns user and thinking; or why it is none."""
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
    said = {"role": "assistant", "content": answer or ""} | ({"reasoning_content": thinking} if thinking else {})
    return transcript(place, {"id": place, **own, "messages": [*turns, {"role": "user", "content": user}, said]})


def _columns(pool: Sequence[Rollout]) -> dict[str, Mapping[str, str]]:
    """Text columns of the pool that may hold safe completions: filled ones by rollout id."""
    found: dict[str, dict[str, str]] = {}
    for rollout in pool:
        for name, value in rollout.tags.items():
            if isinstance(value, str) and value.strip() and name != "degraded":
                found.setdefault(name, {})[rollout.id] = value
    return dict(found)
