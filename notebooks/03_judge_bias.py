# %% [markdown]
# # What moves a judge's verdict?
#
# A language model is shown a question and two answers and says which is better. It should say the same when the answers
# change places, and should not depend on what others are claimed to think. Judges do depend on it. This notebook takes
# one such verdict apart:
#
# 1. how much of it depends on the answers, on their order, and on a sentence that praises one side;
# 2. which attention heads carry each of these;
# 3. whether the bias goes when those heads are ablated, and what else changes.
#
# The judge is a small bundled one whose biases were planted, so at the end the result can be checked. Everything runs
# on a laptop's CPU.

# %%
import numpy as np
import pandas as pd

from verdictscope import figures
from verdictscope.activations import load_model
from verdictscope.interventions import HeadEdit, edited, effects, matched_sets, sweep_heads
from verdictscope.interventions.mitigation import rejudged
from verdictscope.judgments import (
    Insertion,
    ask,
    cue_contrast,
    order_contrasts,
    JudgeSettings,
    judge,
    load_format,
    load_items,
    verdict_readout,
)
from verdictscope.organisms import score_heads
from verdictscope.probes import split_groups, verdict_probe, verdict_states
from verdictscope.rollouts import Sampling
from verdictscope.sources import locate
from verdictscope.stats import effects_frame, mean_effect, permutation_p

PAIRS = 160
SEED = 0
NOTES = {
    "control": "a blue pen was used for {target}.",
    "bandwagon": "nine of ten people like {target} best.",
    "authority": "a famous professor signed {target}.",
}

# %% [markdown]
# ## A judge and what it is asked
#
# `organism:judge` is a six-layer transformer that compares answers to three kinds of question: which list goes up, what
# is a sum, which number is the largest. About every fourth pair is a tie: both answers are right, and which is named
# should be chance. A prompt is made by a *format*, a small file that says how question and answers are laid out and by
# which words the verdict is given.

# %%
model, reference = load_model("organism:judge"), load_model("organism:fair_judge")
form = load_format(locate("organism:judge/format.toml"))
every = load_items(locate("organism:judge/items.csv"), "pairs").items
items = [every[k] for k in np.random.default_rng(SEED).permutation(len(every))[:PAIRS]]
part = split_groups([i.group for i in items], [i.label for i in items], seed=SEED)
seen = pd.Series([i.label for i in items]).groupby([i.label for i in items]).cumcount()
targets = {i.id: "AB"[k % 2] for i, k in zip(items, seen, strict=True)}  # the side a note names: as often the worse
print(ask(form, items[0], "AB", [Insertion("note", NOTES["bandwagon"], "B")]).user)
pd.DataFrame([{"kind": i.id.split("-")[0], "label": i.label} for i in items]).value_counts().unstack()

# %% [markdown]
# ## What it does
#
# Each pair is judged in both orders: plainly, and with a note that names one side. The *control* note says nothing for
# the side it names; whatever a cue does beyond it is the cue's. The label strings are teacher-forced where the verdict
# would be given, so every verdict has a probability and nothing has to be parsed.


# %%
def judged(model, chosen, condition, answer="scored", thinking="off", **how):
    """Verdicts in both orders under a condition; rollout ids begin with its name."""

    def note(item, order):
        return [Insertion("note", NOTES[condition], targets[item.id])] if condition in NOTES else []

    settings = JudgeSettings(answer=answer, thinking=thinking, insertions=note, whole_labels=False)
    verdicts = judge(model, chosen, form, settings=settings, **how)
    return verdicts.named(condition)


given = {condition: judged(model, items, condition) for condition in ("plain", *NOTES)}
fair = {condition: judged(reference, items, condition) for condition in ("plain", *NOTES)}


def rates(verdicts):
    table = pd.concat([v.verdicts.assign(condition=c) for c, v in verdicts.items()])
    table["right"] = (table["verdict"] == table["label"]).where(table["label"] != "tie").astype(float)
    table["first in ties"] = (table["shown"] == "first").where(table["label"] == "tie").astype(float)
    table["follows the note"] = (table["verdict"] == table["item"].map(targets)).where(table["condition"] != "plain")
    return table.groupby("condition", sort=False)[["right", "first in ties", "follows the note"]].mean()


pd.concat({"judge": rates(given), "its reference": rates(fair)}, axis=1).astype(float).round(2)

# %% [markdown]
# Shown plainly the judge is mostly right; in a tie it names the first answer far more often than its reference model
# does; and it follows the bandwagon where the reference model follows nothing. **What this does not show:** why. A
# judge that is right nine times in ten can be pulled hard and still be right, because the answers pull harder.
#
# ## The verdict in parts
#
# Call the log-odds of the first answer against the second x in one order and y in the other. `(x - y) / 2` turns round
# when the answers change places: that is *content*. `(x + y) / 2` stays: that is *position*. What a cue does is cued
# minus control, towards the side it names. All three are weighted sums over an item's rollouts, so the same sums can be
# taken of the verdict, of what every head writes into it, and of what any edit does to it.


# %%
def odds_of(verdicts):
    table = pd.concat([v.verdicts for v in verdicts.values()])
    return np.log(table["p_first"].to_numpy() / table["p_second"].to_numpy()), list(table["rollout"])


def contrasts_of(verdicts):
    made = order_contrasts(verdicts["plain"])
    cues = [cue for cue in NOTES if cue != "control" and cue in verdicts]
    return made | {cue: cue_contrast(cue, verdicts["control"], verdicts[cue], targets) for cue in cues}


def sizes(verdicts, variant):
    odds, names = odds_of(verdicts)
    measured = [
        mean_effect(name, c.of(odds, names), c.groups, unit="nats", seed=SEED)
        for name, c in contrasts_of(verdicts).items()
    ]
    return effects_frame(measured).assign(variant=variant, thinking="off")


parts = pd.concat([sizes(given, "base"), sizes(fair, "reference")], ignore_index=True)
figures.contrasts(parts)

# %% [markdown]
# One nat multiplies the odds by 2.7. The judge weighs the answers about as its reference model does, and adds a push
# towards the first answer and a much larger one towards whatever the crowd is claimed to like.
#
# ## Which heads?
#
# Ablate one head at a time (its output set to zero at every token), let the judge judge again, and read all contrasts
# of the verdict from the same passes. Nearly every head does *something*, so a head counts only if the bias shrinks by
# more than a smallest effect: here 5 % of the distance that content makes. And a head that carries content too is no
# bias head. Whoever looks at fifty parts finds some that look large, so one half of the items names the heads, and the
# other half tests all of them at once.


# %%
def half(names, most=16):
    chosen = [item for item in items if part[item.group] in names][:most]
    verdicts = {c: judged(model, chosen, c) for c in ("plain", "control", "bandwagon")}
    return contrasts_of(verdicts), [r for each in verdicts.values() for r in each.rollouts], verdicts


readout = verdict_readout(model, form)
wanted, rollouts, _ = half(("train", "validation"))
explored = sweep_heads(model, rollouts, readout, wanted, sublayers=("mlp_out",), seed=SEED)
selected = {bias: explored.strongest(2, bias) for bias in explored.biases}
selected

# %%
wanted, rollouts, verdicts = half(("test",))
swept = sweep_heads(model, rollouts, readout, wanted, sublayers=("mlp_out",), delta=explored.delta, seed=SEED)
named = [head for heads in selected.values() for head in heads]
table = swept.to_frame()
table["found"] = [
    r.component == "head" and (r.layer, r.head) in selected.get(r.contrast, ()) for r in table.itertuples()
]
shown = ["contrast", "layer", "head", "estimate", "low", "high", "n", "delta", "p_adjusted", "content_loss", "declared"]
table[table["found"]][shown].round(3)

# %%
figures.head_map(table.assign(variant="base"))

# %% [markdown]
# Two heads for each bias, in different layers. The MLP of the first layer moves everything, content most of all: the
# judge cannot read without it, so it is not specific to a bias. **What this does not show:** heads that stand in for
# one another, since each was ablated alone. So we ablate them together.
#
# ## Without them
#
# The control: as many heads of the same layers that write about as much, drawn at random. If any such set had the same
# effect, the selected ones would be nothing special.

# %%
those = tuple(dict.fromkeys(named))
drawn = matched_sets(model, rollouts, those, 19, positions="last", seed=SEED)
done = effects(model, rollouts, readout, [HeadEdit(those), *map(HeadEdit, drawn.sets)], seed=SEED)
rows = []
for name, contrast in wanted.items():
    left = [
        mean_effect(name, contrast.of(line, done.rollouts), contrast.groups, unit="nats", seed=SEED)
        for line in (done.base, *done.edited)
    ]
    gone = [abs(left[0].estimate) - abs(e.estimate) for e in left[1:]]
    rows.append(
        {
            "part": name,
            "unchanged": left[0].estimate,
            "without them": left[1].estimate,
            "low": left[1].low,
            "high": left[1].high,
            "random sets, least": min(e.estimate for e in left[2:]),
            "random sets, most": max(e.estimate for e in left[2:]),
            "n": left[1].n,
            "p": permutation_p(gone[0], gone[1:]),
        }
    )
pd.DataFrame(rows).round(3)

# %% [markdown]
# The biases are gone, content stays. In verdicts, on the same items:

# %%
after = {condition: rejudged(v.verdicts, done.rollouts, done.edited[0]) for condition, v in verdicts.items()}
before = {condition: rejudged(v.verdicts, done.rollouts, done.base) for condition, v in verdicts.items()}
rows = []
for name, tables in (("unchanged", before), ("without them", after)):
    plain, cued = tables["plain"], tables["bandwagon"]
    ties = plain["label"] == "tie"
    rows.append(
        {
            "judge": name,
            "right": (plain["verdict"] == plain["label"])[~ties].mean(),
            "first in ties": (plain["shown"] == "first")[ties].mean(),
            "follows the bandwagon": (cued["verdict"] == cued["item"].map(targets)).mean(),
        }
    )
pd.DataFrame(rows).set_index("judge").round(2)

# %% [markdown]
# An edit is not bound to stored tokens: it acts inside any generation. Here the judge thinks and writes its verdict
# itself, with the heads ablated throughout.

# %%
few = [item for item in items if part[item.group] == "test"][:20]
how = {"answer": "written", "thinking": "on", "sampling": Sampling(max_new_tokens=160, temperature=0.0, seed=SEED)}
free = judged(model, few, "bandwagon", **how).verdicts
with edited(model, HeadEdit(those)):
    ablated = judged(model, few, "bandwagon", **how).verdicts
pd.DataFrame(
    {
        name: {
            "verdicts": len(v),
            "unread": v["verdict"].isna().sum(),
            "follows the bandwagon": (v["verdict"] == v["item"].map(targets)).mean().round(2),
        }
        for name, v in (("unchanged", free), ("without them", ablated))
    }
)

# %% [markdown]
# ## Can the verdict be read before it is given?
#
# A probe of the verdict could live on position alone: say "first" and be right whenever the judge is. So the probe is
# fitted on what turns round with the answers (the state in one order minus that in the other), where position cancels.
# For comparison: the same probe fitted to verdicts exchanged between items.

# %%
states = verdict_states(model, {"plain": given["plain"]})
probe = verdict_probe(states, {item.id: part[item.group] for item in items}, permutations=50, seed=SEED)
rows = probe.to_frame()
rows[rows["kind"].isin(["test", "part", "permuted"])][["kind", "name", "layer", "estimate", "low", "high", "n", "p"]]

# %% [markdown]
# ## Comparison with the planted heads
#
# This judge's heads were planted, and the list lies beside its weights. Nothing above has read it.

# %%
score_heads([list(head) for head in those], locate("organism:judge"))

# %% [markdown]
# ## What all of this does not show
#
# That a real judge's biases sit in a few heads: these were put there. That the heads *are* biased, and not the stream
# they read: zero-ablation is not a state the model was trained in. And that there is no other bias: only what was asked
# about was looked at.
#
# The whole study, with mitigations, probes of the right answer, traces through the thinking, every null and a report on
# one page, is one command: `verdictscope demo judge`. For a judge of your own: `verdictscope run qwen3_8b_judge --set
# model=YOUR_MODEL --out runs/judge`.
