"""Data-efficiency curves on the bundled model: how much repairing does a budget buy, chosen in which way?

A study of its own on pairs that the model was trained on gives the pool; the refusals are measured on held-out pairs.
Half of the pool is asked in a mode in which the model still refuses: rows that teach it nothing. Methods, budgets,
seeds and steps were fixed before the first run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from tools.organisms.refusal.language import FRAMES, MODES, SYSTEM, decision, held_out_prompts, requests
from verdictscope.activations.checkpoint import read_checkpoint
from verdictscope.commands.select import pool_of_run
from verdictscope.repair import Pool, SelectionSettings, Training, select
from verdictscope.repair.finetune import read_training_rows, train
from verdictscope.repair.repair import measure
from verdictscope.rollouts import LanguageModel, Sampling, generate
from verdictscope.sources import locate
from verdictscope.stats import wilson
from verdictscope.study.load import read_study
from verdictscope.study.run import run_study

MODEL = "organism:cliff"


@dataclass(frozen=True)
class Plan:
    """Everything a set of curves depends on."""

    methods: tuple[str, ...] = ("normalised", "rule", "complied", "random")
    budgets: tuple[int, ...] = (2, 8, 32)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 30
    batch: int = 8
    learning_rate: float = 5e-4
    benign_ratio: float = 1.0
    measured: int = 40
    pairs: int = 256


def pool_prompts(pairs: int) -> pd.DataFrame:
    """Pairs that are not held out, in every mode; ``pool`` marks what a model should refuse in two of them."""
    rows = []
    # the residue next to the hold-out's, so that every verb and object stands as often as the others
    chosen = [r for r in requests() if not r.held_out and r.offset % 4 == 1][:pairs]
    for at, mode in enumerate(MODES):
        for request in chosen:
            pool = request.harm and mode in ("normal", "strict")
            assert not pool or decision(mode, request.harm) == "refuse"
            frame = FRAMES[(request.index + at) % len(FRAMES)]
            rows.append(
                {
                    "id": f"{request.group}-{mode}",
                    "group": request.group,
                    "system": SYSTEM.format(mode=mode),
                    "user": request.fill(frame),
                    "harm": request.harm,
                    "mode": mode,
                    "pool": pool,
                }
            )
    return pd.DataFrame(rows)


def make_run(folder: Path, plan: Plan) -> Path:
    """The study behind the pool, up to its traces."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "prompts.csv"
    if not file.is_file():
        pool_prompts(plan.pairs).to_csv(file, index=False)
    study = read_study(
        "refusal_cliff",
        [
            f'prompts.file="{file}"',
            "prompts.target={pool=true}",
            "probe.permutations=50",
            "transfer.by=[]",
            "split.shares=[0.3,0.1,0.6]",
        ],
    )
    run_study(study, folder / "run", until="trace")
    return folder / "run"


def measured_prompts(n: int) -> pd.DataFrame:
    """Held-out requests in normal mode, as many harmful as harmless ones."""
    prompts = held_out_prompts()
    prompts = prompts[prompts["mode"] == "normal"]
    prompts = prompts.assign(expect=prompts["verb"] + " the " + prompts["object"])
    parts = [prompts[prompts["harm"] == harm].sample(n, random_state=0) for harm in (True, False)]
    return pd.concat(parts, ignore_index=True)[["id", "group", "system", "user", "harm", "expect"]]


def curves(folder: Path, plan: Plan | None = None) -> dict[str, Any]:
    """Run what is still to run and give the curves. A second call in the same folder goes on."""
    plan = plan or Plan()
    run = make_run(folder, plan)
    prompts, store = measured_prompts(plan.measured), folder / "runs.jsonl"
    done = [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []
    known = {(r["method"], r["budget"], r["seed"]) for r in done}
    source = pool_of_run(run, "normalised", ("test",))
    jobs = [("none", 0, 0), *((m, k, s) for s in plan.seeds for k in plan.budgets for m in plan.methods)]
    for method, budget, seed in jobs:
        if (method, budget, seed) not in known:
            row = one(folder, source, prompts, plan, method, budget, seed)
            with store.open("a") as file:
                file.write(json.dumps(row) + "\n")
            done.append(row)
    return tell(pd.DataFrame(done), source, plan)


def one(
    folder: Path, source: Pool, prompts: pd.DataFrame, plan: Plan, method: str, budget: int, seed: int
) -> dict[str, Any]:
    """Choose, train, measure: once."""
    hf, tokenizer = read_checkpoint(locate(MODEL), device="cpu")
    told: dict[str, Any] = {"method": method, "budget": budget, "seed": seed}
    if method != "none":
        # frames repeat, so only equal requests count as duplicates
        asked = SelectionSettings(method, str(budget), "reference", plan.benign_ratio, duplicates=1.0, seed=seed)
        chosen = select(source, asked)
        data = folder / "data"
        chosen.save(data)
        rows = read_training_rows(data / "prompt_completion.jsonl")
        told |= chosen.summary["mixed"]
        told["had_complied"] = int(chosen.ranking.chosen["refused"].eq(False).sum())
        told["tied_at_the_edge"] = chosen.ranking.edge
        how = Training(plan.steps, plan.batch, plan.learning_rate, save_every=0, seed=seed)
        hf = train(hf, tokenizer, rows, how, folder / "checkpoints")
    rollouts = generate(LanguageModel(hf, tokenizer), prompts, Sampling(max_new_tokens=180, seed=seed))
    found = measure(rollouts, tokenizer)
    told["unread"] = int(found["hit"].isna().sum())
    return told | {str(name): float(hit) for name, hit in found.groupby("name")["hit"].mean().items()}


def over_seeds(values: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of a mean: a bootstrap of three seeds could not leave their range."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def rate(values: np.ndarray, prompts: int) -> dict[str, float]:
    """A mean rate with the wider of two intervals: over seeds, and over requests (seeds that agree know no more)."""
    mean = float(values.mean())
    ends = [over_seeds(values), wilson(mean * prompts, prompts)]
    low, high = max(0.0, min(e[0] for e in ends)), min(1.0, max(e[1] for e in ends))
    return {"estimate": mean, "low": low, "high": high}


def tell(runs: pd.DataFrame, source: Pool, plan: Plan) -> dict[str, Any]:
    """Means over seeds with their intervals, and each method against chance on the same seeds."""
    points, against = [], []
    trained = runs[runs["method"] != "none"]
    for (method, budget), rows in trained.groupby(["method", "budget"], sort=False):
        point: dict[str, Any] = {"method": method, "budget": int(budget), "seeds": len(rows)}
        point["had_complied"] = float(rows["had_complied"].mean())
        for name in ("refusal", "over_refusal", "accuracy"):
            point[name] = rate(rows[name].to_numpy(), plan.measured) | {"runs": rows[name].tolist()}
        points.append(point)
        chance = trained[(trained["method"] == "random") & (trained["budget"] == budget)].set_index("seed")["refusal"]
        if method != "random":
            gain = rows["refusal"] - rows["seed"].map(chance)
            low, high = over_seeds(gain.to_numpy())
            row = {"method": method, "budget": int(budget), "estimate": float(gain.mean()), "low": low, "high": high}
            against.append(row | {"seeds": len(gain)})
    before = runs[runs["method"] == "none"].iloc[0]
    read = source.refused.reindex([r.id for r in source.rollouts])
    return {
        "plan": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(plan).items()},
        "pool": len(source.rollouts),
        "pool_complied": int(read.eq(False).sum()),
        "benign": len(source.benign),
        "before": {name: float(before[name]) for name in ("refusal", "over_refusal", "accuracy")},
        "points": points,
        "against_random": against,
        "unread": int(runs["unread"].sum()),
    }
