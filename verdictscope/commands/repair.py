"""The commands ``select`` and ``repair``: choose training data, train on it, measure before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verdictscope.errors import InputError
from verdictscope.progress import progress

if TYPE_CHECKING:
    from verdictscope.activations import Model

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")]
Device = Annotated[str | None, typer.Option("--device", help="Where to run; CUDA if there is any.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(select)
    app.command()(repair)


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
    from verdictscope.commands.select import Asked, choose, write_choice
    from verdictscope.repair.pools import add_benign, from_pool, from_run

    chosen_formats = tuple(formats or ("prompt-completion",))
    asked = Asked(by, budget, safe, benign_ratio, chosen_formats, duplicates, seed)
    asked.check()
    if out.is_file():
        raise InputError(f"--out {out} is a file: give the name of a folder")
    if source.is_dir():
        if probe is not None or model is not None:
            raise InputError(f"{source} is a run, with a probe and a model of its own: leave out --probe and --model")
        read = from_run(source, by, tuple(p.strip() for p in part.split(",") if p.strip()))
    elif not source.is_file():
        raise InputError(f"{source} does not exist: give a run folder or a file of rollouts")
    else:
        read = from_pool(source, _load(model, dtype, device), by, probe, reference=reference)
    if benign is not None:
        add_benign(read, benign)
    chosen = choose(read, asked)
    made = write_choice(out, read, chosen, chosen_formats)
    if as_json:
        print(json.dumps(made))
        return
    print(chosen.ranking)
    mixed = made["mixed"]
    print(f"safe completions: {made['safe_from']}; benign rows: {mixed['benign']} of {mixed['benign_asked']} asked for")
    if "messages" in chosen_formats and made["messages"]["way"] is None:
        print(f"no messages written: {made['messages']['reason']}; prompt and completion as plain text instead")
    if made["inexact"]:
        print(f"{made['inexact']} rows encode to other tokens than the model wrote: their text is the same")
    print("written:    " + ", ".join(str(out / name) for name in made["files"].values()))


def _load(model: str | None, dtype: str, device: str | None) -> Model:
    from verdictscope.activations import load_model
    from verdictscope.study.run import quiet

    if model is None:
        raise InputError("a pool needs --model: the model that wrote it, whose tokens are scored")
    quiet()
    return load_model(model, dtype=dtype, device=device)


def repair(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder, a hub name or organism:NAME.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="prompt_completion.jsonl of verdictscope select.")],
    prompts: Annotated[
        str, typer.Option("--prompts", help="Requests to measure on, with harm and, for accuracy, expect.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the model and the numbers.")] = Path("repaired"),
    lora: Annotated[int, typer.Option("--lora", metavar="RANK", help="Train low-rank adapters; 0 trains all.")] = 0,
    steps: Annotated[int, typer.Option("--steps", help="Optimiser steps.")] = 100,
    batch: Annotated[int, typer.Option("--batch", help="Rows a step.")] = 8,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate.")] = 1e-5,
    samples: Annotated[int, typer.Option("--samples", help="Rollouts per request.")] = 1,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Limit of a rollout.")] = 1024,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the rollouts.")] = 0.7,
    seed: Annotated[int, typer.Option("--seed", help="Of training and sampling.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Fine-tune on chosen data; refusal, over-refusal and accuracy before and after. Goes on where it stopped."""
    from verdictscope.repair.repair import Training, need_trainer, repair_model
    from verdictscope.rollouts import Sampling, load_prompts
    from verdictscope.sources import locate
    from verdictscope.study.run import quiet

    need_trainer(lora)
    quiet()
    how = Training(steps=steps, batch=batch, learning_rate=lr, lora_rank=lora, seed=seed)
    drawn = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    asked = load_prompts(locate(prompts))
    done = repair_model(locate(model), data, asked, out, how, drawn, samples=samples, device=device, progress=progress)
    print(json.dumps(done.to_dict()) if as_json else done)
