"""Public prompt sets as data: where they are, what their columns are called, which prompts are harmful.

Column names are those of the published files (the file in the set's own repository, and the hub's copy where it
differs). Sources: AdvBench (Zou et al. 2023, arXiv 2307.15043), HarmBench (Mazeika et al. 2024, arXiv 2402.04249),
JailbreakBench (Chao et al. 2024, arXiv 2404.01318), StrongREJECT (Souly et al. 2024, arXiv 2402.10260), XSTest
(Röttger et al. 2024, arXiv 2308.01263), OR-Bench (Cui et al. 2024, arXiv 2405.20947), WildJailbreak (Jiang et al.
2024, arXiv 2406.18510), UltraChat (Ding et al. 2023, arXiv 2305.14233), Alpaca (Taori et al. 2023), the splits of
refusal_direction (Arditi et al. 2024, arXiv 2406.11717).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Harm:
    """Harmful or not, told by a column: by its value, or by how the value begins."""

    column: str
    harmful: tuple[str, ...]
    harmless: tuple[str, ...] = ()
    by_start: bool = False


@dataclass(frozen=True)
class Schema:
    """The columns of one form of a set."""

    columns: tuple[str, ...]
    user: tuple[str, ...]
    harm: bool | Harm | None
    id: str | None = None
    group: str | None = None
    joint: str = "\n\n"
    first_of: bool = False


@dataclass(frozen=True)
class Part:
    """A configuration and split of a set on the hub; ``harm`` where the part and no column tells it."""

    config: str | None
    split: str
    harm: bool | None = None
    schema: int = 0


@dataclass(frozen=True)
class PromptSet:
    """One public set."""

    name: str
    title: str
    hub: str | None
    schemas: tuple[Schema, ...]
    parts: Mapping[str, Part]
    licence: str
    gated: bool = False
    drop: tuple[str, ...] = field(default=())


_XSTEST_HARM = Harm("label", ("unsafe",), ("safe",))
_BY_PART = Schema(("instruction", "category"), ("instruction",), None)

SETS: Mapping[str, PromptSet] = {
    one.name: one
    for one in (
        PromptSet(
            "advbench",
            "520 harmful goals with affirmative targets",
            "walledai/AdvBench",
            (Schema(("goal", "target"), ("goal",), True), Schema(("prompt", "target"), ("prompt",), True)),
            {"train": Part(None, "train")},
            "MIT",
        ),
        PromptSet(
            "harmbench",
            "400 harmful behaviours: standard, contextual, copyright",
            "walledai/HarmBench",
            (
                # the context stands in front, divided as HarmBench's own prompts are
                Schema(
                    ("Behavior", "FunctionalCategory", "ContextString", "BehaviorID"),
                    ("ContextString", "Behavior"),
                    True,
                    id="BehaviorID",
                    joint="\n\n---\n\n",
                ),
                Schema(("prompt", "context", "category"), ("context", "prompt"), True, joint="\n\n---\n\n"),
                Schema(("prompt", "category"), ("prompt",), True),
            ),
            {
                "standard": Part("standard", "train"),
                "contextual": Part("contextual", "train"),
                "copyright": Part("copyright", "train"),
            },
            "MIT",
        ),
        PromptSet(
            "jailbreakbench",
            "100 harmful behaviours and 100 benign ones on the same topics",
            "JailbreakBench/JBB-Behaviors",
            # a benign behaviour is written beside the harmful one of the same index: a split must not part them
            (
                Schema(
                    ("Index", "Goal", "Target", "Behavior", "Category", "Source"),
                    ("Goal",),
                    None,
                    id="Index",
                    group="Index",
                ),
                Schema(("Goal", "Target", "Behavior", "Category", "Source"), ("Goal",), None),
            ),
            {"harmful": Part("behaviors", "harmful", harm=True), "benign": Part("behaviors", "benign", harm=False)},
            "MIT",
        ),
        PromptSet(
            "strongreject",
            "313 forbidden questions in 6 categories",
            "walledai/StrongREJECT",
            (
                Schema(("category", "source", "forbidden_prompt"), ("forbidden_prompt",), True),
                Schema(("prompt", "category"), ("prompt",), True),
            ),
            {"train": Part(None, "train")},
            "MIT",
        ),
        PromptSet(
            "xstest",
            "250 safe prompts that look unsafe and 200 unsafe contrasts",
            "Paul/XSTest",
            (Schema(("id", "prompt", "type", "label", "focus"), ("prompt",), _XSTEST_HARM, id="id"),),
            {"train": Part(None, "train")},
            "CC BY 4.0",
        ),
        PromptSet(
            "xstest_completions",
            "XSTest with a model's completions, two human annotations and the adjudicated label",
            None,
            (
                Schema(
                    ("id", "type", "prompt", "completion", "annotation_1", "annotation_2", "final_label"),
                    ("prompt",),
                    Harm("type", ("contrast_",), by_start=True),
                    id="id",
                    group="id",
                ),
            ),
            {},
            "CC BY 4.0",
        ),
        PromptSet(
            "or_bench",
            "80,000 harmless prompts that look toxic, 1,300 hard ones, 655 toxic ones",
            "bench-llm/or-bench",
            (Schema(("prompt", "category"), ("prompt",), None),),
            {
                "hard_1k": Part("or-bench-hard-1k", "train", harm=False),
                "80k": Part("or-bench-80k", "train", harm=False),
                "toxic": Part("or-bench-toxic", "train", harm=True),
            },
            "CC BY 4.0",
        ),
        PromptSet(
            "wildjailbreak",
            "262,000 vanilla and adversarial requests with safe completions, and an evaluation split",
            "allenai/wildjailbreak",
            (
                # every adversarial row was written from its vanilla request
                Schema(
                    ("vanilla", "adversarial", "completion", "data_type"),
                    ("adversarial", "vanilla"),
                    Harm(
                        "data_type",
                        ("vanilla_harmful", "adversarial_harmful"),
                        ("vanilla_benign", "adversarial_benign"),
                    ),
                    group="vanilla",
                    first_of=True,
                ),
                Schema(
                    ("adversarial", "label", "data_type"),
                    ("adversarial",),
                    Harm("data_type", ("adversarial_harmful",), ("adversarial_benign",)),
                ),
            ),
            {"train": Part("train", "train"), "eval": Part("eval", "train", schema=1)},
            "ODC-BY",
            gated=True,
            drop=("adversarial", "vanilla"),
        ),
        PromptSet(
            "ultrachat",
            "first turns of 200,000 filtered dialogues",
            "HuggingFaceH4/ultrachat_200k",
            (Schema(("prompt", "prompt_id", "messages"), ("prompt",), False, id="prompt_id"),),
            {name: Part(None, name) for name in ("test_sft", "train_sft", "test_gen", "train_gen")},
            "MIT",
            drop=("messages",),
        ),
        PromptSet(
            "alpaca",
            "52,002 harmless instructions, some with an input",
            "tatsu-lab/alpaca",
            (Schema(("instruction", "input", "output"), ("instruction", "input"), False),),
            {"train": Part(None, "train")},
            "CC BY-NC 4.0",
            drop=("text",),
        ),
        PromptSet(
            "refusal_direction",
            "the splits of Arditi et al.: harmful and harmless, train, val and test",
            None,
            (_BY_PART,),
            {
                f"{kind}_{split}": Part(None, split, harm=kind == "harmful")
                for kind in ("harmful", "harmless")
                for split in ("train", "val", "test")
            },
            "Apache-2.0 (harmless instructions from Alpaca: CC BY-NC 4.0)",
        ),
    )
}
"""Every known set by name."""
