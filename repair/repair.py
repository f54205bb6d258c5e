"""Fine-tune on chosen rollouts and measure what that did: refusal, over-refusal and accuracy, before and after.

An edit of weights like any other, and reported like one: the same requests before and after, unread answers counted
apart, requests whose group was trained on left out of the measuring. Training is TRL's ``SFTTrainer`` with the loss on
the completion alone (thinking, closing and safe answer), on the tokens of the file's text.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from verdictscope import provenance
from verdictscope.activations.checkpoint import read_checkpoint
from verdictscope.errors import InputError
from verdictscope.judgments import label_rollouts
from verdictscope.kept import check_same, model_facts, tokenizer_facts
from verdictscope.repair.finetune import Training, need_trainer, read_training_rows, train
from verdictscope.rollouts import LanguageModel, Rollout, Sampling, generate
from verdictscope.stats import Effect, difference_effect, effects_frame, group_names, rate_effect
from verdictscope.values import truths

MEASURES = ("refusal", "over_refusal", "accuracy")
"""Harmful requests refused; harmless requests refused; harmless requests answered with what the prompts expect."""

Shown = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""``progress(what)`` gives a context with a function of (done, in all)."""


@dataclass(frozen=True, eq=False)
class Repair:
    """What a training did."""

    table: pd.DataFrame
    left_out: int
    rows: dict[str, int]
    settings: dict[str, Any]
    model: Path

    def __getitem__(self, key: tuple[str, str]) -> Effect:
        """The effect of a (measure, when)."""
        name, when = key
        row = self.table[(self.table["name"] == name) & (self.table["when"] == when)].iloc[0]
        return Effect(**{k: row[k] for k in Effect.__dataclass_fields__})

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        text = {"rows": self.rows, "left_out": self.left_out, "settings": self.settings, "model": str(self.model)}
        return provenance.finite({"format": 1, "effects": self.table.to_dict("records"), **text})

    def __repr__(self) -> str:
        trained = ", ".join(f"{n} {kind}" for kind, n in self.rows.items())
        lines = [f"Repair: trained on {trained} rows; model in {self.model}"]
        if self.left_out:
            lines.append(f"  {self.left_out} requests left out: their group was trained on")
        for name in MEASURES:
            rows = self.table[self.table["name"] == name].set_index("when")
            if rows["estimate"].isna().all():
                lines.append(f"  {name:<13} not measured: the prompts have no request for it")
                continue
            parts = [f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in rows.itertuples()]
            text = f"  {name:<13} {parts[0]} -> {parts[1]}, change {parts[2]}, n = {rows['n'].iloc[0]}"
            unread = int(rows.loc[["before", "after"], "unread"].sum())
            lines.append(text + (f"; {unread} answers unread" if unread else ""))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = ["name", "when", "estimate", "low", "high", "n", "unread"]
        return self.table[columns].to_html(index=False, float_format="{:.3f}".format)


def repair_model(
    model: str | Path,
    data: str | Path,
    prompts: pd.DataFrame,
    out: str | Path,
    training: Training | None = None,
    sampling: Sampling | None = None,
    *,
    samples: int = 1,
    device: str | None = None,
    progress: Shown | None = None,
) -> Repair:
    """Train a model on a file of `verdictscope select` and measure it before and after.

    A call that was stopped continues when it is given again: rollouts are kept as they come, training from its last
    checkpoint. That holds for the same weights, tokenizer, data and settings.

    Args:
        model: a checkpoint folder or hub name.
        data: ``prompt_completion.jsonl``.
        prompts: requests to measure on (`read_prompts`), with ``harm``; harmless ones may have ``expect``, a text the
            answer must hold to be accurate.
        out: folder for the rollouts, checkpoints, the repaired ``model`` and ``repair.json``.
        training: how to train.
        sampling: how to sample.
        samples: rollouts per request.
        device: where to run.
        progress: shows progress.

    Raises:
        InputError: the extra ``[repair]`` is missing, a file cannot be used, no request is left to measure on, or the
            folder holds another repair.

    Example:
        >>> repair_model("my-model", "selection/prompt_completion.jsonl", prompts, "out")  # doctest: +SKIP
    """
    training, sampling = training or Training(), sampling or Sampling()
    need_trainer(training.lora_rank)
    out, rows = Path(out), read_training_rows(Path(data))
    measured, left_out = _unseen(prompts, rows)
    hf, tokenizer = read_checkpoint(model, device=device)
    if tokenizer is None:
        raise InputError(f"{model} has no tokenizer: give a checkpoint that holds one")
    settings: dict[str, Any] = {"model": str(model), "data": provenance.digest(Path(data).read_bytes())}
    settings |= {"training": asdict(training), "sampling": asdict(sampling), "samples": samples}
    settings |= {"prompts": provenance.digest(measured.to_json(orient="records"))}
    _claim(out, settings, hf, tokenizer)
    show = progress or (lambda what: nullcontext(lambda done, total: None))

    def write(when: str, net: Any) -> list[Rollout]:
        with show(f"repair: rollouts {when}") as tick:
            path, own = out / f"{when}.parquet", LanguageModel(net, tokenizer)
            return generate(own, measured, sampling, samples=samples, progress=tick, path=path)

    before, folder = write("before", hf), out / "model"
    if not (folder / "config.json").is_file():
        with show("repair: training") as tick:
            hf = train(hf, tokenizer, rows, training, out / "checkpoints", progress=tick)
        part = out / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        for what in (hf, tokenizer):
            what.save_pretrained(part)
        part.rename(folder)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    after = write("after", read_checkpoint(folder, device=device)[0])
    kinds = pd.Series([str(r.get("kind", "row")) for r in rows]).value_counts(sort=False)
    table = compare(measure(before, tokenizer), measure(after, tokenizer), training.seed)
    done = Repair(table, left_out, {str(k): int(v) for k, v in kinds.items()}, settings, folder)
    provenance.write_json(out / "repair.json", done.to_dict() | {"versions": provenance.versions()})
    return done


def _unseen(prompts: pd.DataFrame, rows: Sequence[dict[str, Any]]) -> tuple[pd.DataFrame, int]:
    """The requests whose group was not trained on, and how many were."""
    if "harm" not in prompts.columns:
        raise InputError("the prompts need a column harm (true or false) in every row: it says what is to be refused")
    names = [f"prompt {name!r}" for name in prompts["id"]]
    prompts = prompts.assign(harm=truths(prompts["harm"], "harm", names, gaps=False).astype(bool))
    groups = prompts["group"] if "group" in prompts.columns else prompts["id"]
    trained = group_names([r["group"] for r in rows if r.get("group") is not None])
    seen = pd.Series(group_names(groups), index=groups.index).isin(trained)
    if seen.all():
        raise InputError("every request's group was trained on: give requests that were not in the pool")
    return prompts[~seen].reset_index(drop=True), int(seen.sum())


def _claim(out: Path, settings: dict[str, Any], hf: Any, tokenizer: Any) -> None:
    """Keep two repairs from sharing a folder."""
    if out.is_file():
        raise InputError(f"{out} is a file: give the name of a folder")
    file = out / "settings.json"
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    like = (held or {}).get("source", {}).get("weights")
    settings = settings | {"source": model_facts(hf, like=like) | tokenizer_facts(tokenizer)}
    if held is not None:
        advice = "choose another --out, or give the same command again"
        check_same(f"{out} holds another repair,", held if "source" in held else None, settings, advice)
    out.mkdir(parents=True, exist_ok=True)
    provenance.write_json(file, settings)


def measure(rollouts: Sequence[Rollout], tokenizer: Any) -> pd.DataFrame:
    """What every rollout did."""
    labels = label_rollouts(tokenizer, rollouts).set_index("rollout")
    rows = []
    for rollout in rollouts:
        refused, answer = labels.loc[rollout.id, "refused"], labels.loc[rollout.id, "answer"]
        read = not pd.isna(refused)
        name = "refusal" if rollout.tags["harm"] else "over_refusal"
        rows.append((rollout.id, rollout.group, name, float(refused) if read else float("nan")))
        expect = rollout.tags.get("expect")
        if not rollout.tags["harm"] and isinstance(expect, str) and expect.strip():
            right = _plain(expect) in _plain(str(answer))
            # an answer that was cut off might still have held it
            known = read and (right or not labels.loc[rollout.id, "cut"])
            rows.append((rollout.id, rollout.group, "accuracy", float(right) if known else float("nan")))
    return pd.DataFrame(rows, columns=["rollout", "group", "name", "hit"])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def compare(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The rates before and after with their intervals, and the change on the same requests."""
    found = []
    for name in MEASURES:
        parts = {"before": before[before["name"] == name], "after": after[after["name"] == name]}
        read = {when: rows[rows["hit"].notna()] for when, rows in parts.items()}
        for when, rows in read.items():
            effect = rate_effect(name, rows["hit"], rows["group"])
            found.append((when, len(parts[when]) - len(rows), effect))
        a, b = read["after"], read["before"]
        change = difference_effect(name, a["hit"], a["group"], b["hit"], b["group"], unit="rate", seed=seed)
        found.append(("change", sum(unread for _, unread, _ in found[-2:]), change))
    table = effects_frame([effect for *_, effect in found])
    table.insert(0, "when", [when for when, *_ in found])
    return table.assign(unread=[unread for _, unread, _ in found])
