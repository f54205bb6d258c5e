"""Ways of thinking of templates that are not among the shared ones, each as a small template of the same structure."""

# ruff: noqa: E501  (templates are strings whose lines are not ours to break)

from __future__ import annotations

from tests.rollouts.families import EOT, IM, OFF, ON, R1_BEGIN, R1_END, THINK, Family

_TURNS = (
    "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{turn}{{% else %}}"
    "<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}<|im_end|>\n{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{prompt}{{% endif %}}"
)
_PLAIN = "<|im_start|>assistant\n{{ m.content }}<|im_end|>\n"


def chat(prompt: str = "", turn: str = _PLAIN, first: str = "") -> str:
    return first + _TURNS.format(turn=turn, prompt=prompt)


def reasoned(before: str, after: str, name: str = "reasoning_content", end: str = IM, keep: str = "true") -> str:
    """An assistant turn that prints its reasoning, in the last turn or always."""
    return (
        "<|im_start|>assistant\n{% if m."
        + name
        + " and ("
        + keep
        + " or loop.last) %}"
        + before
        + "{{ m."
        + name
        + " }}"
        + after
        + "{% endif %}{{ m.content }}"
        + end
        + "\n"
    )


STRANGERS: dict[str, Family] = {
    # Magistral 2507: bracket tags as special tokens, thinking as a part of a list
    "magistral": Family(
        "mistral",
        "</s>",
        "<s>",
        "[THINK]",
        "[/THINK]",
        lead="",
        tail="",
        separator="",
        text="{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% if m.content is string %}"
        "{{ m.content }}{% else %}{% for b in m.content %}{% if b.type == 'thinking' %}[THINK]{{ b.thinking[0].text "
        "if b.thinking is not string else b.thinking }}[/THINK]{% else %}{{ b.text }}{% endif %}{% endfor %}"
        "{% endif %}</s>{% elif m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]{% else %}"
        "[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}",
    ),
    # Magistral 2506: the system prompt asks for tags the vocabulary has no tokens for
    "magistral 2506": Family(
        "mistral",
        "</s>",
        "<s>",
        THINK,
        own_tokens=False,
        system=False,
        text="{{ bos_token }}[SYSTEM_PROMPT]First draft your thinking between <think> and </think>, then answer."
        "[/SYSTEM_PROMPT]{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}"
        "{{ m.content }}</s>{% endif %}{% endfor %}",
    ),
    # Hunyuan: the answer has tags of its own
    "hunyuan": Family(
        opener=THINK,
        separator="\n<answer>\n",
        after="\n</answer>",
        own_tokens=False,
        off={"enable_thinking": False},
        text=chat(
            "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}",
            reasoned("<think>\n", "\n</think>\n<answer>\n", end="\n</answer><|im_end|>"),
        ),
    ),
    "exaone 4": Family(
        opener=THINK,
        on=ON,
        off={},
        shown=True,
        text=chat(
            "{% if enable_thinking is defined and enable_thinking is true %}<think>\n{% else %}<think>\n\n</think>\n\n"
            "{% endif %}"
        ),
    ),
    "exaone deep": Family(opener="<thought>", closer="</thought>", shown=True, text=chat("<thought>\n")),
    "seed-oss": Family(
        opener="<seed:think>",
        closer="</seed:think>",
        lead="",
        tail="",
        separator="",
        text=chat(
            "{% if thinking_budget is defined and thinking_budget == 0 %}<seed:think></seed:think>{% endif %}",
            reasoned("<seed:think>", "</seed:think>"),
        ),
    ),
    "minimax m2": Family(
        opener=THINK, shown=True, text=chat("<think>\n", reasoned("<think>\n", "\n</think>\n\n", keep="false"))
    ),
    "glm 4.5": Family(
        opener=THINK,
        separator="\n",
        on={},
        off=OFF,
        text=chat(
            "{% if enable_thinking is defined and not enable_thinking %}<think></think>\n{% endif %}",
            "<|im_start|>assistant\n<think>{{ m.reasoning_content if m.reasoning_content else '' }}</think>\n"
            "{{ m.content }}<|im_end|>\n",
        ),
    ),
    # Nemotron v1: a sentence in the system message switches it
    "nemotron super": Family(
        "llama3",
        EOT,
        "<|begin_of_text|>",
        THINK,
        text=(
            "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\ndetailed thinking on{% for m in messages %}"
            "{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}<|eot_id|>{% for m in messages %}"
            "{% if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant"
            "<|end_header_id|>\n\n{% endif %}"
        ),
    ),
    "command a": Family(
        opener="<|START_THINKING|>",
        closer="<|END_THINKING|>",
        lead="",
        tail="",
        separator="<|START_RESPONSE|>",
        after="<|END_RESPONSE|>",
        on={"reasoning": True},
        off={"reasoning": False},
        text=chat(
            "{% if reasoning is defined and not reasoning %}<|START_THINKING|><|END_THINKING|>{% endif %}",
            "<|im_start|>assistant\n{% if m.thinking %}<|START_THINKING|>{{ m.thinking }}<|END_THINKING|>{% endif %}"
            "<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|><|im_end|>\n",
        ),
    ),
    "ernie thinking": Family(
        opener=THINK,
        shown=True,
        separator="\n\n<response>\n",
        after="\n</response>",
        text=chat("<think>\n", reasoned("<think>\n", "\n</think>\n\n<response>\n", end="\n</response>\n<|im_end|>")),
    ),
    "phi 4 reasoning": Family(
        "o200k",
        "<|im_end|>",
        None,
        THINK,
        system=False,
        lead="",
        tail="",
        text="<|im_start|>system<|im_sep|>Structure your response into two sections: <think> {Thought section} </think>"
        " {Solution section}.<|im_end|>{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
    ),
    "smollm3": Family(
        "llama3",
        IM,
        None,
        THINK,
        on=ON,
        off=OFF,
        separator="\n",
        text=chat(
            "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}",
            first="<|im_start|>system\nToday Date: {{ strftime_now('%d %B %Y') }}\nReasoning Mode: "
            "{{ '/think' if enable_thinking else '/no_think' }}<|im_end|>\n",
        ),
    ),
    "ring": Family(
        eos="<|role_end|>",
        opener=THINK,
        shown=True,
        text=(
            "{% for m in messages %}<role>{{ m.role | upper }}</role>{{ m.content }}<|role_end|>{% endfor %}"
            "{% if add_generation_prompt %}<role>ASSISTANT</role><think>\n{% endif %}"
        ),
    ),
    "olmo 3 think": Family("o200k", IM, None, THINK, shown=True, lead="", tail="", text=chat("<think>")),
    "hermes 4": Family(
        "llama3",
        EOT,
        "<|begin_of_text|>",
        THINK,
        on={"thinking": True},
        off={},
        off_block=False,
        text=(
            "{{ bos_token }}{% if thinking %}<|start_header_id|>system<|end_header_id|>\n\nYou should enclose your thoughts"
            " inside <think> </think> tags.<|eot_id|>{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}"
            "<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>"
            "assistant<|end_header_id|>\n\n{% endif %}"
        ),
    ),
    "kimi k2 thinking": Family(
        opener=THINK,
        lead="",
        tail="",
        separator="",
        text=chat(
            "",
            "<|im_start|>assistant\n<think>{{ m.reasoning_content if loop.last and m.reasoning_content else '' }}"
            "</think>{{ m.content }}<|im_end|>\n",
        ),
    ),
    "kimi vl": Family(opener="◁think▷", closer="◁/think▷", text=chat(), lead="", tail=""),
    "granite 3.2": Family(
        "o200k",
        "<|end_of_text|>",
        None,
        "Here is my thought process:",
        "Here is my response:",
        own_tokens=False,
        lead=" ",
        tail=" ",
        separator=" ",
        system=False,
        text="<|start_of_role|>system<|end_of_role|>Write your thoughts after 'Here is my thought process:' and write "
        "your response after 'Here is my response:' for each user query.<|end_of_text|>\n{% for m in messages %}"
        "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
    ),
    "apriel": Family(
        "mistral",
        "<|end|>",
        "<s>",
        "Here are my reasoning steps:",
        "[BEGIN FINAL RESPONSE]",
        own_tokens=False,
        shown=True,
        separator="\n",
        system=False,
        text="{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{% if m.thought %}Here are my reasoning steps:\n"
        "{{ m.thought }}\n[BEGIN FINAL RESPONSE]\n{% endif %}{{ m.content }}\n<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\nHere are my reasoning steps:\n{% endif %}",
    ),
    "open thinker": Family(
        opener="<|begin_of_thought|>",
        closer="<|end_of_thought|>",
        lead="\n\n",
        tail="\n\n",
        own_tokens=False,
        separator="\n\n<|begin_of_solution|>\n\n",
        after="\n\n<|end_of_solution|>",
        system=False,
        text=chat(
            first="<|im_start|>system\nPresent the Thought section as <|begin_of_thought|> {thought} "
            "<|end_of_thought|> and the Solution section as <|begin_of_solution|> {solution} <|end_of_solution|>."
            "<|im_end|>\n"
        ),
    ),
    "reka flash 3": Family(
        opener="<reasoning>",
        closer="</reasoning>",
        eos="<sep>",
        text=(
            "{% for m in messages %}{{ 'human' if m.role == 'user' else m.role }}: {{ m.content }} <sep> {% endfor %}"
            "{% if add_generation_prompt %}assistant: <reasoning>\n{% endif %}"
        ),
        shown=True,
    ),
    "deepseek v3.1 kept": Family(
        eos=R1_END,
        bos=R1_BEGIN,
        opener=THINK,
        shown=True,
        lead="",
        tail="",
        separator="",
        text="{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<｜Assistant｜>{% if m.reasoning_content"
        " %}<think>{{ m.reasoning_content }}{% endif %}</think>{{ m.content }}<｜end▁of▁sentence｜>{% elif m.role == 'user'"
        " %}<｜User｜>{{ m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "<｜Assistant｜><think>{% endif %}",
    ),
    "solar": Family(
        opener="<|think|>",
        closer="<|/think|>",
        lead="",
        tail="",
        separator="",
        text=chat("", reasoned("<|think|>", "<|/think|>", name="reasoning")),
    ),
}
