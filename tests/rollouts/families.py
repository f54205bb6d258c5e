"""Every public chat template with a real vocabulary, and what its model writes around its thinking.

The table follows what the templates themselves print and what their makers say the models write.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerFast

from tests.public_data import chat_templates
from tests.rollouts.real_tokenizers import build, template

IM = "<|im_end|>"
EOT = "<|eot_id|>"
R1_END, R1_BEGIN = "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"
TAGS = re.compile(
    r"<\|[^|<>\s'\"{}]{1,40}\|?>|<[a-z_]{1,20}\|>|<｜[^｜]{1,40}｜>|\[/?[A-Z_]{4,30}\]|<(?:start|end)_of_turn>|</?tool_\w+>"
)


@dataclass(frozen=True)
class Family:
    """A template, its vocabulary, and its way of thinking.

    Attributes:
        base: vocabulary.
        eos: end of turn.
        bos: beginning of sequence.
        opener, closer: around the thinking, ``None`` where the model does not think.
        on, off: switches of the template; ``off`` is ``None`` where there is none.
        shown: the generation prompt holds the opener already when thinking is on.
        lead: what the model writes between opener and thinking.
        tail: what it writes between thinking and closer.
        separator: what it writes between closer and answer.
        after: what it writes behind the answer, before the end of turn.
        off_block: whether the generation prompt closes thinking when it is off.
        own_tokens: the tags are tokens of the vocabulary.
        preamble: what opens an answer without thinking.
        text: the template, where it is not a public one.
        system: whether it takes a system message; turns: whether it takes several turns.
    """

    base: str = "qwen"
    eos: str = IM
    bos: str | None = None
    opener: str | None = None
    closer: str = "</think>"
    on: Mapping[str, Any] = field(default_factory=dict)
    off: Mapping[str, Any] | None = None
    shown: bool = False
    lead: str = "\n"
    tail: str = "\n"
    separator: str = "\n\n"
    after: str = ""
    off_block: bool = True
    own_tokens: bool = True
    preamble: str = ""
    text: str | None = None
    system: bool = True
    turns: bool = True
    always: Mapping[str, Any] = field(default_factory=dict)


ON, OFF = {"enable_thinking": True}, {"enable_thinking": False}
THINK = "<think>"
QWQ = Family(opener=THINK, shown=True)
R1 = Family(eos=R1_END, bos=R1_BEGIN, opener=THINK, shown=True)
V3 = Family(
    eos=R1_END,
    bos=R1_BEGIN,
    opener=THINK,
    on={"thinking": True},
    off={"thinking": False},
    shown=True,
    lead="",
    tail="",
    separator="",
)
GEMMA4 = Family(
    eos="<turn|>", bos="<bos>", opener="<|channel>thought", closer="<channel|>", on=ON, off=OFF, separator=""
)
LLAMA = Family("llama3", EOT, "<|begin_of_text|>")
MISTRAL = Family("mistral", "</s>", "<s>")
TOOLS = {"tools": []}

PUBLIC: dict[str, Family] = {
    "Apertus-8B-Instruct": Family(
        "mistral",
        "<|assistant_end|>",
        "<s>",
        "<|inner_prefix|>",
        "<|inner_suffix|>",
        on=ON,
        off=OFF,
        lead="",
        tail="",
        separator="",
        off_block=False,
    ),
    "Bielik-11B-v3.0-Instruct": Family(
        "qwen", bos="<s>", opener=THINK, on=ON, off={}, shown=True, separator="\n", off_block=False
    ),
    "CohereForAI-c4ai-command-r-plus-tool_use": Family(eos="<|END_OF_TURN_TOKEN|>", bos="<BOS_TOKEN>", always=TOOLS),
    "GigaChat3-10B-A1.8B": Family(eos="<|message_sep|>", bos="<s>"),
    "GigaChat3.1-10B-A1.8B": Family(eos="<|message_sep|>", bos="<s>"),
    "Kimi-K2-Instruct": Family(),
    "LFM2-8B-A1B": Family(bos="<|startoftext|>"),
    "LFM2.5-Instruct": Family(bos="<|startoftext|>"),
    "MiMo-VL": Family(opener=THINK, own_tokens=False),
    "MiroThinker": Family(opener=THINK, on=ON, off=OFF, turns=False),
    "Mistral-Small-3.2-24B-Instruct-2506": MISTRAL,
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": Family(opener=THINK, on=ON, off=OFF, shown=True, separator="\n"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": Family("llama3", bos="<|begin_of_text|>", always=TOOLS),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": Family("llama3", bos="<|begin_of_text|>", always=TOOLS),
    "Qwen-QwQ-32B": Family(opener=THINK, on=ON, off={}, shown=True),
    "Qwen-QwQ-32B.orig": QWQ,
    "Qwen-Qwen2.5-7B-Instruct": Family(),
    "Qwen-Qwen3-0.6B": Family(opener=THINK, on=ON, off=OFF),
    "Qwen3-Coder": Family(),
    "Qwen3.5-4B": Family(opener=THINK, on=ON, off=OFF, shown=True),
    "Reka-Edge": Family(eos="<sep>", opener=THINK, on=ON, off={}, shown=True, off_block=False),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": Family("llama3", R1_END, R1_BEGIN, THINK, shown=True),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": Family(
        eos=R1_END, bos=R1_BEGIN, opener=THINK, on=ON, off={}, shown=True
    ),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.orig": R1,
    "deepseek-ai-DeepSeek-V3.1": V3,
    "deepseek-ai-DeepSeek-V3.2": V3,
    "deepseek-ai-DeepSeek-V4": V3,
    "fireworks-ai-llama-3-firefunction-v2": Family(
        "llama3", EOT, "<|begin_of_text|>", always={"tools": [], "functions": "", "datetime": "then"}
    ),
    "google-gemma-2-2b-it": Family("mistral", "<end_of_turn>", "<bos>", system=False),
    "google-gemma-4-31B-it": GEMMA4,
    "google-gemma-4-31B-it-interleaved": GEMMA4,
    "ibm-granite-granite-3.3-2B-Instruct": Family(
        "o200k",
        "<|end_of_text|>",
        None,
        THINK,
        on={"thinking": True},
        off={},
        lead="",
        tail="",
        separator="<response>",
        after="</response>",
        off_block=False,
        own_tokens=False,
    ),
    "llama-cpp-deepseek-r1": R1,
    "llama-cpp-microsoft-Phi-4-mini-instruct": Family("o200k", "<|end|>", always=TOOLS),
    "llama-cpp-rwkv-world": Family(
        eos="<|rwkv_eos|>", bos="<|rwkv_bos|>", opener=THINK, on=ON, off=OFF, shown=True, lead="\n", own_tokens=False
    ),
    "meetkai-functionary-medium-v3.1": Family("llama3", EOT, "<|begin_of_text|>", always=TOOLS),
    "meetkai-functionary-medium-v3.2": Family("llama3", EOT, "<|begin_of_text|>", always=TOOLS),
    "meta-llama-Llama-3.1-8B-Instruct": LLAMA,
    "meta-llama-Llama-3.2-3B-Instruct": LLAMA,
    "meta-llama-Llama-3.3-70B-Instruct": LLAMA,
    "microsoft-Phi-3.5-mini-instruct": Family("mistral", "<|end|>", None),
    "mistralai-Mistral-Nemo-Instruct-2407": Family("mistral", "</s>", "<s>", always=TOOLS),
    "moonshotai-Kimi-K2": Family(),
    "openai-gpt-oss-120b": Family(
        "o200k",
        "<|return|>",
        "<|startoftext|>",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        lead="",
        tail="",
        separator="",
        preamble="<|channel|>final<|message|>",
    ),
    "unsloth-mistral-Devstral-Small-2507": MISTRAL,
}

SHARED = {name: PUBLIC[name] for name in chat_templates() if name in PUBLIC}
"""Those whose templates are at hand."""


@functools.cache
def load_family(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family: its vocabulary, and every tag of its template as a special token."""
    from tests.rollouts.strangers import STRANGERS

    family = PUBLIC.get(name) or STRANGERS[name]
    chat = family.text if family.text is not None else template(name)
    special = [t for t in dict.fromkeys(TAGS.findall(chat)) if t not in (family.eos, family.bos)]
    plain: list[str] = []
    if family.opener and family.own_tokens:
        plain = [t for t in (family.opener, family.closer) if re.fullmatch(r"\S+", t) and t not in special]
        plain = [t for t in plain if "|" not in t]
    return build(family.base, chat, family.eos, family.bos, special, plain)
