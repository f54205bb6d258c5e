"""``verdictscope judge run``: a model judges a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verdictscope.progress import progress

if TYPE_CHECKING:
    from verdictscope.judgments import Judged
    from verdictscope.judgments.loaders.load import LoadedItems


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder, a hub name or organism:NAME.")],
    items: Annotated[str, typer.Argument(metavar="ITEMS", help="A file of items, or `hub` for the loader's dataset.")],
    loader: Annotated[str, typer.Option("--loader", metavar="NAME", help="judgebench, llmbar, pandalm …")],
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="arena_hard, pair_letter … or a TOML file.")],
    part: Annotated[str | None, typer.Option("--part", help="Part of a hub dataset.")] = None,
    orders: Annotated[str, typer.Option("--orders", help="AB, BA, random or AB,BA.")] = "AB,BA",
    answer: Annotated[str, typer.Option("--answer", help="scored (labels teacher-forced) or written.")] = "scored",
    thinking: Annotated[str, typer.Option("--thinking", help="off, on, template or a number of tokens.")] = "off",
    runs: Annotated[int, typer.Option("--runs", min=1, help="Repeats per prompt.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Token limit of an answer.")] = 1024,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of sampling.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Load only the first rows.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the verdicts; continued if it exists.")] = None,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=1, help="Tokens of a batch.")] = 16_384,
    dtype: Annotated[str, typer.Option("--dtype", help="Or auto: as stored, float32 on a slow CPU.")] = "auto",
    device: Annotated[str | None, typer.Option("--device", help="Device; CUDA if available.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
    ] = False,
) -> None:
    """Let a model judge a benchmark and write its verdicts.

    Writes every verdict with its probabilities to a folder.
    """
    from verdictscope.activations import load_model
    from verdictscope.judgments import JudgeSettings, judge, load_format, load_items
    from verdictscope.rollouts import Sampling

    loaded, form = load_items(items if items == "hub" else Path(items), loader, part, limit=limit), load_format(format)
    judging = load_model(model, dtype=dtype, device=device)
    folder = out or Path("runs") / f"judge_{Path(model).name}_{loaded.name}_{form.name}"
    with progress("judge") as tick:
        judged = judge(
            judging,
            loaded.items,
            form,
            settings=JudgeSettings(
                orders=orders.split(","),
                answer=answer,
                thinking=int(thinking) if thinking.isdigit() else thinking,
                runs=runs,
                name=Path(model).name,
                batch_tokens=batch_tokens,
            ),
            sampling=Sampling(temperature, max_new_tokens=max_new_tokens, seed=seed),
            path=folder,
            progress=tick,
        )
    found = summary(loaded, judged, folder)
    print(json.dumps(found) if as_json else "\n".join(f"{key:<10} {value}" for key, value in found.items()))


def summary(loaded: LoadedItems, judged: Judged, folder: Path) -> dict[str, Any]:
    """Rows and items, problems, verdicts by status, and accuracy by order; ``judge metrics`` gives the rest."""
    table = judged.verdicts
    labelled = table[table["label"].notna()]
    right = labelled["verdict"] == labelled["label"]  # unread is not right
    return {
        "folder": str(folder),
        "rows": loaded.rows,
        "items": len(loaded.items),
        "problems": {kind: n for kind, n in loaded.counts.items() if n},
        "verdicts": len(table),
        "status": {str(k): int(n) for k, n in table["status"].value_counts().items()},
        "accuracy": {order or "all": float(right[rows.index].mean()) for order, rows in labelled.groupby("order")},
    }
