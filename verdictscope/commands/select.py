"""The command ``select``: choose training data from a run, or from a pool of rollouts and a stored probe."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verdictscope.errors import InputError

if TYPE_CHECKING:
    from verdictscope.repair import Pool
    from verdictscope.traces import Normaliser

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")]
Device = Annotated[str | None, typer.Option("--device", help="Where to run; CUDA if there is any.")]

VARIANTS = ("reference", "ablated")
"""Variants of a run whose own refusals are safe completions."""


def select(
    source: Annotated[Path, typer.Argument(metavar="RUN|POOL", help="A run folder, or a pool of rollouts (a file).")],
    budget: Annotated[str, typer.Option("--budget", help="Rows to take: 200, or a share of the pool: 1.7%.")] = "1.7%",
    by: Annotated[str, typer.Option("--by", help="What to rank by; see below.")] = "normalised",
    probe: Annotated[Path | None, typer.Option("--probe", help="With a pool: folder of a run or a probe.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="With a pool: the model that wrote it.")] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="The model is a reference model of the one the probe was made on.")
    ] = False,
    safe: Annotated[
        str | None, typer.Option("--safe", metavar="COLUMN|reference|ablated", help="Where safe completions come from.")
    ] = None,
    part: Annotated[str, typer.Option("--part", help="With a run: parts of the split to take.")] = "train,validation",
    benign: Annotated[Path | None, typer.Option("--benign", help="A pool to mix in with its own answers.")] = None,
    benign_ratio: Annotated[float, typer.Option("--benign-ratio", help="Benign rows per safety row.")] = 0.0,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="prompt-completion (default), messages, sharegpt, alpaca.")
    ] = None,
    duplicates: Annotated[float, typer.Option("--duplicates", help="Similarity that makes a duplicate.")] = 0.7,
    seed: Annotated[int, typer.Option("--seed", help="Of ties, random ranks and the order of the rows.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder of the training files.")] = Path("selection"),
    dtype: Annotated[str, typer.Option("--dtype", help="With a pool: a torch dtype, or auto (as stored).")] = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Rank a pool of rollouts by misalignment and write training files.

    Ranks by normalised, length_adjusted or published (three cliffs), final, loss, rule, complied or random.
    """
    from verdictscope.repair import SelectionSettings
    from verdictscope.repair import select as select_rows
    from verdictscope.study.lock import locked

    chosen_formats = tuple(formats or ("prompt-completion",))
    settings = SelectionSettings(by, budget, safe, benign_ratio, chosen_formats, duplicates, seed)
    if out.is_file():
        raise InputError(f"--out {out} is a file: give the name of a folder")
    if source.is_dir():
        if probe is not None or model is not None:
            raise InputError(f"{source} is a run, with a probe and a model of its own: leave out --probe and --model")
        pool = pool_of_run(source, by, tuple(p.strip() for p in part.split(",") if p.strip()))
    elif source.is_file():
        pool = _pool_of_file(source, by, model, probe, reference, dtype, device)
    else:
        raise InputError(f"{source} does not exist: give a run folder or a file of rollouts")
    if benign is not None:
        # Put another file's rollouts in place of a pool's benign ones; rows that cannot be read are reported
        from verdictscope.repair.pools import read_rollouts

        rollouts, lost = read_rollouts(benign, pool.tokenizer)
        if not rollouts:
            raise InputError(f"{benign} holds no rollout to mix in: {len(lost)} rows could not be read")
        if lost:
            print(
                f"verdictscope: {benign}: {len(lost)} rows could not be read, first {min(lost.items())}",
                file=sys.stderr,
            )
        pool.benign = rollouts
    selected = select_rows(pool, settings)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        made = selected.save(out)
    if as_json:
        print(json.dumps(made))
        return
    print(selected.ranking)
    mixed = made["mixed"]
    print(f"safe completions: {made['safe_from']}; benign rows: {mixed['benign']} of {mixed['benign_asked']} asked for")
    if "messages" in chosen_formats and made["messages"]["way"] is None:
        print(f"no messages written: {made['messages']['reason']}; prompt and completion as plain text instead")
    if made["inexact"]:
        print(f"{made['inexact']} rows encode to other tokens than the model wrote: their text is the same")
    print("written:    " + ", ".join(str(out / name) for name in made["files"].values()))


def pool_of_run(folder: Path, by: str, parts: Sequence[str] = ("train", "validation")) -> Pool:
    """A run's target requests as the pool, its complied control requests as benign rollouts.

    The test split is left out by default, to measure a repaired model on.
    """
    from verdictscope.repair import Pool, pool_scores
    from verdictscope.repair.pools import text_columns
    from verdictscope.rollouts import answer_text
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
    tokenizer = run.model("base").tokenizer
    answers: dict[str, Mapping[str, str]] = dict(text_columns(pool))
    for variant in VARIANTS:
        refused = run.labels(variant)
        refused = refused[refused["refused"].eq(True).fillna(False).astype(bool)]
        written = run.rollouts(variant) if len(refused) else {}
        # a refusal that was cut off is labelled, but nothing to train on
        whole = [i for i in refused["rollout"] if i in written and written[i].finish != "length"]
        texts = {i: answer_text(written[i], tokenizer) for i in whole}
        if len(refused) or variant == "reference":
            answers[variant] = {i: text for i, text in texts.items() if text}
    scores = pool_scores(trace, _usable(run.normaliser(), by, folder))
    benign = [rollouts[i] for i in inside.loc[complied, "rollout"]]
    outcome = labels.set_index("rollout")["refused"]
    return Pool(str(folder), tokenizer, pool, outcome, answers, benign=benign, scores=scores, model=run.model("base"))


def _pool_of_file(
    file: Path, by: str, model: str | None, probe: Path | None, reference: bool, dtype: str, device: str | None
) -> Pool:
    """A pool read from a file, scored with a stored probe; a run's folder has a normaliser too."""
    from verdictscope.activations import load_model
    from verdictscope.probes import load_probe
    from verdictscope.repair import read_pool
    from verdictscope.study.folder import open_run
    from verdictscope.study.run import quiet

    if model is None:
        raise InputError("a pool needs --model: the model that wrote it, whose tokens are scored")
    quiet()
    loaded = load_model(model, dtype=dtype, device=device)
    if probe is None:
        return read_pool(file, loaded)
    readout, _ = load_probe(probe, loaded, reference=reference)
    is_run = all((probe / name).is_file() for name in ("study.toml", "normaliser.json"))
    normaliser = _usable(open_run(probe).normaliser() if is_run else None, by, probe)
    return read_pool(file, loaded, readout, normaliser)


def _usable(normaliser: Normaliser | None, by: str, where: Path) -> Normaliser | None:
    """The normaliser, checked to give scores where they are asked for."""
    if by == "normalised" and (normaliser is None or normaliser.reason):
        why = f"{where} holds no run with traces" if normaliser is None else normaliser.reason
        raise InputError(f"no normalised score ({why}): give --probe the folder of a run, or --by length_adjusted")
    return normaliser
