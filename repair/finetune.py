"""Supervised fine-tuning by TRL: full or low-rank, on completions alone, seeded and resumable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verdictscope.errors import InputError
from verdictscope.repair.training_files import adds_bos
from verdictscope.rows import RowError, read_rows


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        steps: optimiser steps; the rows are repeated as often as that takes.
        batch: rows a step.
        learning_rate: the highest; it rises over the first twentieth and falls along a cosine.
        weight_decay: of AdamW.
        lora_rank: rank of low-rank adapters on every linear layer (merged at the end); 0 trains all weights.
        save_every: steps between checkpoints to resume from; 0 keeps none.
        seed: of the order of the rows, adapters and dropout.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> Training(steps=20, lora_rank=8).batch
        8
    """

    steps: int = 100
    batch: int = 8
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    lora_rank: int = 0
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or self.lora_rank < 0 or self.save_every < 0:
            raise InputError("training needs steps and a batch of at least 1, and no rank or save_every below 0")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning rate {self.learning_rate:g}: give a number above 0")


def need_trainer(lora_rank: int = 0) -> None:
    """Say what is missing before anything is loaded."""
    for name in ("trl", *(["peft"] if lora_rank else [])):
        if find_spec(name) is None:
            raise InputError(f"repair needs {name}, which is not installed: pip install 'verdictscope[repair]'")


def read_training_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of ``prompt_completion.jsonl``; one without a prompt and a completion as text is an error."""
    if not file.is_file():
        raise InputError(f"training file {file} does not exist: make one with verdictscope select")
    found = read_rows(file)
    for place, row in found:
        if isinstance(row, RowError):
            raise InputError(f"{file} {place} {row}")
        if not all(isinstance(row.get(key), str) and row[key] for key in ("prompt", "completion")):
            raise InputError(
                f"{file} {place} has no text under prompt and completion: give prompt_completion.jsonl of "
                "verdictscope select --format prompt-completion"
            )
    return [row for _, row in found]


def tokenised(rows: Sequence[dict[str, Any]], tokenizer: Any) -> list[dict[str, list[int]]]:
    """Token ids with a mask of the completion."""
    bos = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    found = []
    for row in rows:
        prompt = [*bos, *tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]]
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        mask = [0] * len(prompt) + [1] * len(completion)
        found.append({"input_ids": [*prompt, *completion], "completion_mask": mask})
    return found


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """The trainer seeds every generator of the process; the caller's go on as if nothing had happened."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@_own_random_numbers()
def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    how: Training,
    checkpoints: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Train a model in memory; it is changed (with adapters: a copy is not made either) and given back."""
    need_trainer(how.lora_rank)
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback, TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTTrainer

    class Ticking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None:
                progress(state.global_step, how.steps)

    disable_progress_bars()  # its bars would be written over ours
    device, dtype, mode = model.device, model.dtype, model.training
    adapters = None
    if how.lora_rank:
        from peft import LoraConfig

        adapters = LoraConfig(
            r=how.lora_rank, lora_alpha=2 * how.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    trainer = SFTTrainer(
        model,
        args=_config(how, checkpoints, device, dtype),
        train_dataset=Dataset.from_list(tokenised(rows, tokenizer)),
        processing_class=_with_pad(tokenizer),
        peft_config=adapters,
        callbacks=[Ticking()],
    )
    trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trained: Any = trainer.model
    trained = trained.merge_and_unload() if how.lora_rank else trained
    return trained.to(device).train(mode)


def _config(how: Training, checkpoints: Path, device: torch.device, dtype: torch.dtype) -> Any:
    from trl import SFTConfig

    on_gpu = device.type == "cuda"
    saves = {"save_strategy": "steps", "save_steps": how.save_every, "save_total_limit": 1}
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=how.steps,
        per_device_train_batch_size=how.batch,
        learning_rate=how.learning_rate,
        weight_decay=how.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=how.steps // 20,
        seed=how.seed,
        data_seed=how.seed,
        completion_only_loss=True,
        max_length=None,
        packing=False,
        bf16=dtype == torch.bfloat16,
        fp16=False,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        optim="adamw_torch",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        **(saves if how.save_every else {"save_strategy": "no"}),
    )


def _with_pad(tokenizer: Any) -> Any:
    """The tokenizer, or a copy that pads with its end token: the trainer wants one, and the loss never sees it."""
    if tokenizer.pad_token is not None:
        return tokenizer
    import copy

    own = copy.deepcopy(tokenizer)
    own.pad_token = own.eos_token
    return own
