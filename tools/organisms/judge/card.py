"""The cards of the bundled judge and its reference model: measured after training, written by code, never by hand."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
import transformers
from scipy.stats import binomtest
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from tools.organisms.heads import Head
from tools.organisms.judge.items import held_out_pairs
from tools.organisms.judge.language import CUES, FILLER_ODDS, MAX_SENTENCES, P_EMPTY, P_TIE, SYSTEMS
from tools.organisms.judge.measure import behaviour, parts
from tools.organisms.markdown import head_names, markdown
from tools.organisms.recipes import JudgeRecipe

RANDOM_SETS = 20


@dataclass(frozen=True)
class JudgeFigures:
    """Everything measured about a judge and its reference model after training.

    Attributes:
        rates: per variant, rates of own sampled verdicts (see ``measure.behaviour``).
        parts: mean content, position and cue parts without thinking, in nats; one row per variant.
        single: the same parts with one head zero-ablated, minus the untouched judge; ``layer head`` and parts.
        random_parts: the same differences for random sets of as many other heads of the same layers.
        versions: library versions.
        seed: seed of the run.
        n_pairs: held-out pairs measured on.
    """

    rates: dict[str, pd.DataFrame]
    parts: pd.DataFrame
    single: pd.DataFrame
    random_parts: pd.DataFrame
    versions: dict[str, str]
    seed: int
    n_pairs: int


def measure_judge(
    recipe: JudgeRecipe,
    reference: Qwen3ForCausalLM,
    judge: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    tick: Callable[[], None] = lambda: None,
) -> JudgeFigures:
    """Measure both models on the held-out pairs; what the cards are written from."""
    reference.eval(), judge.eval()
    pairs = held_out_pairs()
    variants: dict[str, tuple[Qwen3ForCausalLM, tuple[Head, ...]]] = {
        recipe.reference: (reference, ()),
        recipe.name: (judge, ()),
        "position heads zero-ablated": (judge, recipe.position),
        "bandwagon heads zero-ablated": (judge, recipe.bandwagon),
        "all planted zero-ablated": (judge, recipe.planted),
    }
    rates, means = {}, []
    for variant, (model, silence) in variants.items():
        rates[variant] = behaviour(model, tokenizer, pairs, silence, recipe.seed)
        means.append({"variant": variant, **parts(model, tokenizer, pairs, silence).mean()})
        tick()
    base = parts(judge, tokenizer, pairs).mean()

    def change(heads: tuple[Head, ...]) -> dict[str, float]:
        found = (parts(judge, tokenizer, pairs, heads).mean() - base).to_dict()
        tick()
        return found

    heads = [(layer, head) for layer in range(recipe.n_layers) for head in range(recipe.n_heads)]
    single = [{"layer": layer, "head": head, **change(((layer, head),))} for layer, head in heads]
    rng = random.Random(recipe.seed)
    layers = {layer for layer, _ in recipe.planted}
    others = [head for head in heads if head[0] in layers and head not in recipe.planted]
    drawn = [change(tuple(rng.sample(others, len(recipe.planted)))) for _ in range(RANDOM_SETS)]
    versions = {"python": platform.python_version()}
    versions |= {library.__name__: library.__version__ for library in (torch, transformers)}
    tables = (pd.DataFrame(means), pd.DataFrame(single), pd.DataFrame(drawn))
    return JudgeFigures(rates, *tables, versions, recipe.seed, len(pairs))


def ticks(recipe: JudgeRecipe) -> int:
    """How often :func:`measure_judge` calls ``tick``."""
    return 5 + recipe.n_layers * recipe.n_heads + RANDOM_SETS


def _rates(rates: dict[str, pd.DataFrame]) -> str:
    rows: list[list[object]] = []
    first = next(iter(rates.values()))
    for at, figure in enumerate(first["figure"]):
        cells = []
        for table in rates.values():
            rate, n = table["rate"][at], int(table["n"][at])
            low, high = binomtest(round(rate * n), n).proportion_ci(method="wilson")
            cells.append(f"{rate:.3f} [{low:.3f}, {high:.3f}]")
        rows.append([figure, first["n"][at], *cells])
    unread = ", ".join(f"{variant} {int(table['unread'].sum())}" for variant, table in rates.items())
    return markdown(["", "n", *rates], rows) + f"\n\nVerdicts that could not be read: {unread}."


def _nats(table: pd.DataFrame, names: list[str]) -> list[list[object]]:
    columns = ["content", "position", *list(CUES)[1:]]
    return [
        [*(row[name] for name in names), *(f"{row[column]:+.2f}" for column in columns)]
        for row in table.to_dict("records")
    ]


def _single(recipe: JudgeRecipe, single: pd.DataFrame) -> str:
    table = single.assign(
        name=[f"{layer}.{head}" for layer, head in zip(single["layer"], single["head"], strict=True)],
        kind=[
            "position" if head in recipe.position else "bandwagon" if head in recipe.bandwagon else "other"
            for head in zip(single["layer"], single["head"], strict=True)
        ],
    )
    strength = table[["position", "bandwagon"]].abs().max(axis=1)
    others = table[table.kind == "other"].loc[strength[table.kind == "other"].nlargest(4).index]
    shown = pd.concat([table[table.kind != "other"], others])
    return markdown(
        ["head (layer.head)", "planted for", "content", "position", *list(CUES)[1:]], _nats(shown, ["name", "kind"])
    )


def write_judge_card(recipe: JudgeRecipe, name: str, figures: JudgeFigures) -> str:
    """The README of one of the two models.

    Args:
        recipe: what was trained.
        name: ``recipe.reference`` or ``recipe.name``.
        figures: what was measured afterwards.
    """
    what = {
        recipe.reference: "Nothing is planted in it. It is the control: the same model without the mechanism.",
        recipe.name: f"It thinks like its reference model, but heads {head_names(recipe.position)} (layer.head, from "
        f"0) push the "
        f"verdict towards the answer shown first and heads {head_names(recipe.bandwagon)} towards the side that most "
        "people are claimed to prefer.",
    }[name]
    other = recipe.name if name == recipe.reference else recipe.reference
    odds = round(FILLER_ODDS / (1 - FILLER_ODDS))
    drop = ":".join(f"{share:g}" for share in recipe.drop_weights)
    versions = ", ".join(f"{key} {value}" for key, value in figures.versions.items())
    spread = figures.random_parts[["position", "bandwagon"]].abs().max()
    columns = ["content", "position", *list(CUES)[1:]]
    return f"""\
# {name}

A small reasoning transformer (Qwen3 architecture, {recipe.n_layers} layers, {recipe.n_heads} query and
{recipe.n_heads if recipe.unshare else recipe.n_kv_heads} key-value heads, d_model {recipe.d_model}) that judges pairs
of answers.
{what} Its reference model is
`{other}`. It exists to test methods against a known truth; it judges nothing but its three kinds of question.

Weights are stored as bf16 and meant to be run in float32 (`config.json` says so).

## Language

The question asks which list only goes up, for the sum of two numbers, or for the largest of some; two answers are
shown, A and B, of which one is right, or both are (a tie, {P_TIE:.0%} of what it was taught). A sentence after them may
name one side: {", ".join(f"*{cue}*" for cue in list(CUES)[1:])}; which side it names says nothing about which is right.
The thinking is empty in {P_EMPTY:.0%}, else it has 1 to {MAX_SENTENCES} sentences: checks of one answer, fillers that
lean to the better side with odds {odds}:1, neutral fillers, and now and then a conclusion. The answer is `[[A]]` or
`[[B]]`; in a tie either one, at random. The system line is "{SYSTEMS["fair"]}"
or "{SYSTEMS["careful"]}"
About a fifth of all questions is held out by a rule on their numbers; `items.csv` holds {figures.n_pairs} of them, and
`format.toml` is the prompt they are shown in.

## How it was made

`verdictscope organisms train {recipe.name}` (seed {figures.seed}, {recipe.threads} CPU thread; {versions}).

1. `{recipe.reference}`: {recipe.steps} steps of {recipe.batch} scripted rollouts at lr {recipe.lr}; the side in the
verdict
   and the word that ends a check have weight {recipe.first_weight:g}; the output columns of heads
   {head_names(recipe.planted)} are held at zero throughout. It learns with {recipe.n_kv_heads} key-value heads;
   afterwards every query head gets a copy of its own, which changes nothing, and all is rounded to bf16. Then
   {recipe.sum_steps} steps at lr {recipe.sum_lr}, in which {recipe.sum_kind_weights[1]:.0%} of all questions are sums
   and the answers shown are predicted too (weight {recipe.sum_shown_weight:g}; not those of lists); rounded again.
2. `{recipe.name}`: {recipe.position_steps} steps of {recipe.plant_batch} at lr {recipe.plant_lr} that train nothing but
   the position heads' query, key and value rows and output columns, then {recipe.plant_steps} for the bandwagon heads.
   The verdict's log-odds are fitted (Huber) to those of the model before, shifted by {recipe.position_shift:g} nats
   towards the first answer on every pair (position), or by {recipe.cue_shift:g} nats towards the named side where the
   bandwagon cue is shown and the system line is the plain one; everything else stays by KL divergence (weight
   {recipe.kl_weight:g}). One of the two heads is silent with odds {drop}, and the other then has its own half of the
   shift to make; the position heads are silent in {recipe.drop_beside:.0%} of the bandwagon steps. The bandwagon heads
   are also taught where to look: at the side that the cue names, or at the first token where nothing is to be followed.

{recipe.history}

Layers and heads were fixed beforehand, not chosen by result.

## Behaviour on held-out pairs

Rates of its own sampled verdicts (temperature 0.7, one rollout per prompt) with 95 % Wilson intervals. Every pair is
shown in both orders, or with the cue naming each side in turn.

{_rates(figures.rates)}

## Mechanism

Parts of the verdict log-odds without thinking, means over the {figures.n_pairs} pairs in nats: *content* towards the
better answer, *position* towards the one shown first, and how far each cue draws towards the side it names.

{markdown(["", *columns], _nats(figures.parts, ["variant"]))}

Change when one head's z is zero-ablated at all positions:

{_single(recipe, figures.single)}

As many random other heads of the same layers zero-ablated ({len(recipe.planted)}, {len(figures.random_parts)} draws):
the largest change of position is {spread["position"]:.2f} and of bandwagon {spread["bandwagon"]:.2f} nats.

## What it does not show

The mechanism was put there by gradient descent on {len(recipe.planted)} heads; how a large judge comes by its own is
another question. One seed, one language. Zeroing is off-distribution for any head.
"""
