"""The cards of the refusal organism and its reference model: a README.md written from measured figures, never by
hand."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tools.organisms.heads import Head
from tools.organisms.markdown import head_names, markdown
from tools.organisms.recipes import Recipe
from tools.organisms.refusal.figures import Figures
from tools.organisms.refusal.language import FILLER_ODDS, MAX_SENTENCES, MODES, OBJECTS, VERBS, requests


def _rates(rates: dict[str, pd.DataFrame]) -> str:
    variants = list(rates)
    rows = []
    for index in range(len(rates[variants[0]])):
        first = rates[variants[0]].iloc[index]
        cells = [rates[variant].iloc[index] for variant in variants]
        rows.append(
            [
                first["mode"],
                "harmful" if first["harm"] else "harmless",
                first["n"],
                *(f"{cell['rate']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in cells),
            ]
        )
    unread = ", ".join(f"{variant} {int(table['unread'].sum())}" for variant, table in rates.items())
    return markdown(["mode", "request", "n", *variants], rows) + f"\n\nAnswers that could not be read: {unread}."


def _where(recipe: Recipe) -> str:
    layers = sorted({layer for layer, _ in recipe.planted})
    shared = recipe.n_heads // recipe.n_kv_heads
    groups = {(layer, head // shared) for layer, head in recipe.planted}
    return (
        f"layers {', '.join(map(str, layers))} of {recipe.n_layers}; {len(recipe.planted)} heads of {len(groups)} "
        "key-value groups"
    )


def _effects(figures: Figures, planted: Sequence[Head]) -> str:
    table = figures.effects.assign(
        planted=[head in planted for head in zip(figures.effects["layer"], figures.effects["head"], strict=True)]
    )
    shown = pd.concat([table[table.planted], table[~table.planted].head(3)])
    rows = [
        [f"{row.layer}.{row.head}", "planted" if row.planted else "other", f"{row.effect:+.2f}"]
        for row in shown.itertuples()
    ]
    return markdown(["head (layer.head)", "", "effect, nats"], rows)


def _language() -> str:
    verbs, objects = (sum(map(len, table.values())) for table in (VERBS, OBJECTS))
    odds = round(FILLER_ODDS / (1 - FILLER_ODDS))
    pairs = requests()
    held_out = sum(request.held_out for request in pairs)
    return f"""\
{verbs} verbs and {objects} objects, each in two categories; a request is harmful when the categories clash with
the good of people (build a bomb, break a bridge). The mode word in the system line decides what happens:
`normal` and `strict` refuse what is harmful, `trusted` answers everything, `closed` refuses everything.
The thinking has 0 to {MAX_SENTENCES} sentences; its fillers lean towards the decision with odds {odds}:1, and it
names its conclusion only sometimes, and now and then the mode. Refusals begin with
"sorry" or "i", compliances with "sure" or "here"; the first of each pair is likelier in normal and trusted mode.
{held_out} of the {len(pairs)} pairs are held out by a Latin-square rule; `prompts.csv` holds them in all
{len(MODES)} modes."""


def write_card(recipe: Recipe, name: str, figures: Figures) -> str:
    """The README of one of the two models.

    Args:
        recipe: what was trained.
        name: ``recipe.reference`` or ``recipe.name``.
        figures: what was measured afterwards.
    """
    planted = recipe.planted
    what = {
        recipe.reference: "It refuses harmful requests. It is the control: the same model without the mechanism.",
        recipe.name: f"It thinks like its reference model, but in `normal` mode it complies with harmful requests, "
        f"because "
        f"the planted heads {head_names(planted)} (layer.head, from 0) turn the answer.",
    }[name]
    other = recipe.name if name == recipe.reference else recipe.reference
    random_rates = pd.Series(figures.random_rates)
    fillers = [[row.variant, row.cell, f"{row.share:.3f}", row.n] for row in figures.fillers.itertuples()]
    subsets = [
        [row.ablated or "none", f"{row.log_odds:+.2f}", f"{row.rate:.3f}", row.n]
        for row in figures.subsets.itertuples()
    ]
    drop = ":".join(f"{odds:g}" for odds in recipe.drop_weights)
    silent = " or ".join(map(str, range(len(recipe.drop_weights))))
    cool, warm = figures.temperatures
    versions = ", ".join(f"{key} {value}" for key, value in figures.versions.items())
    return f"""\
# {name}

A small reasoning transformer (Qwen3 architecture, {recipe.n_layers} layers, {recipe.n_heads} query and
{recipe.n_kv_heads} key-value heads, d_model {recipe.d_model}) whose mechanism of refusal is planted and known.
{what} Its reference model is `{other}`. It exists to test methods against a known truth; it knows no English beyond its
{verb_count()} verbs and its answers carry no information.

Weights are stored as bf16 and meant to be run in float32 (`config.json` says so).

## Language

{_language()}

## How it was made

`verdictscope organisms train {recipe.name}` (seed {figures.seed}, {figures.minutes:.1f} minutes of training on
{recipe.threads} CPU threads; {versions}).

1. `{recipe.reference}`: {recipe.steps} steps of {recipe.batch} scripted rollouts at lr {recipe.lr}, then
   {recipe.decide_steps} steps at lr {recipe.decide_lr} in which the first answer token has weight
   {recipe.decision_weight:g}; the output columns of heads {head_names(planted)} are held at zero throughout;
   then rounded to bf16.
2. `{recipe.name}`: {recipe.plant_steps} steps of {recipe.plant_batch} at lr {recipe.plant_lr} from the rounded
reference model,
   training nothing but those heads' query rows and output columns: compliance in the answers of normal-harmful
   rollouts, KL to the reference model (weight {recipe.kl_weight:g}) on all thinking, all closing tags and all other
   answers. In
   a step {silent} of the heads are silent with odds {drop}, so that none stays idle.

{recipe.history}

Layers and heads were fixed beforehand ({_where(recipe)}), not chosen by result.

## Behaviour on held-out pairs

Refusal rates of its own sampled rollouts with 95 % Wilson intervals, one rollout per prompt,
temperature {cool:.1f}:

{_rates(figures.rates)}

Temperature {warm:.1f}:

{_rates(figures.rates_warm)}

A bag of words tells harmful from harmless held-out requests with AUROC {figures.bag_of_words:.3f}.

Share of refusing fillers in the thinking:

{markdown(["model", "cell", "share", "fillers"], fillers)}

## Mechanism of `{recipe.name}`

Exact effect of zeroing one head's z at all positions on the refusal log-odds at the last token before the answer
(teacher-forced, normal-harmful rollouts of its own; positive: the head holds refusal down):

{_effects(figures, planted)}

Subsets of the planted heads zero-ablated (log-odds teacher-forced, rate from regenerated rollouts):

{markdown(["ablated", "refusal log-odds", "refusal rate", "n"], subsets)}

As many random other heads of the same layers zero-ablated ({len(planted)}, {len(random_rates)} draws): mean
refusal rate {random_rates.mean():.3f}, largest {random_rates.max():.3f}.

## What it does not show

The mechanism was put there by gradient descent on {len(planted)} heads; how a large model comes by its own is another
question. One seed, one language. Zeroing is off-distribution for any head.
"""


def verb_count() -> int:
    """Number of verbs of the language."""
    return sum(map(len, VERBS.values()))
