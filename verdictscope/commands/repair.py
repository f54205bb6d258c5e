"""The command ``repair``: fine-tune on selected data, measure before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from verdictscope.commands.select import Device, Json, select
from verdictscope.progress import progress


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(select)
    app.command()(repair)


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
    """Fine-tune on selected data and measure before and after.

    Measures refusal, over-refusal and accuracy; a run that was stopped is resumed.
    """
    from verdictscope.repair import Training, repair_model
    from verdictscope.repair.finetune import need_trainer
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
