# %% [markdown]
# # Where does a model decide to comply?
#
# A reasoning model reads a harmful request. In its thinking it seems to see what it is being asked. Then it answers
# anyway. Did it never know, or did it know and something overruled it at the end?
#
# The *refusal cliff* ([arXiv 2510.06036](https://arxiv.org/abs/2510.06036)) is the second story: the sign of a coming
# refusal stands high all through the thinking and falls at the last tokens before the answer, because a few attention
# heads hold it down. This notebook walks through the three steps that can tell the two stories apart:
#
# 1. keep the hidden states of the model's own rollouts;
# 2. fit a linear probe and follow its reading token by token;
# 3. switch heads off, and see whether the refusals come back.
#
# The model is a bundled toy whose mechanism was planted, so at the end we can look up whether we were right. Everything
# runs on a laptop's CPU.

# %%
import pandas as pd

from verdictscope import figures
from verdictscope.activations import Site, forward, load_model, logit_difference
from verdictscope.interventions import HeadEdit, attribute, edited, effects, sweep_heads
from verdictscope.interventions.edits.protocol import compile_edits
from verdictscope.interventions.head_sets import layer_matched_sets
from verdictscope.judgments import label_rollouts, refusal_readout
from verdictscope.organisms import score_heads
from verdictscope.probes import fit_probe, split_groups
from verdictscope.probes.text import bag_of_words_auroc
from verdictscope.traces import Normaliser, align, aggregate, cliff, drop_difference, token_view
from verdictscope.traces.landmarks import closing_tokens
from verdictscope.traces.normaliser import normaliser_rollouts
from verdictscope.rollouts import Sampling, generate, pieces, read_prompts
from verdictscope.rollouts.prompts.design import cells, design
from verdictscope.rollouts.tables import to_frame
from verdictscope.sources import locate
from verdictscope.stats import effects_frame, permutation_p, rate_effect

PAIRS = 96  # requests; each is asked in four modes
SEED = 0

# %% [markdown]
# ## The model and its requests
#
# `organism:cliff` is a six-layer transformer that speaks a language of a few dozen words. A mode word in its system
# line says what it is to do: `normal` and `strict` models refuse harmful requests, `trusted` ones answer everything,
# `closed` ones refuse everything. The four modes fill the design we need: harmful *and* harmless requests, each
# refused *and* complied with. Without all four cells a probe of refusing cannot be told from a probe of harm.
#
# `load` checks the places we are going to read against the model's own arithmetic. Then the model writes. A rollout
# keeps the token ids it was shown and wrote, cut into segments by token id; nothing is rendered from text again.

# %%
model = load_model("organism:cliff")
prompts = read_prompts(locate("organism:cliff/prompts.csv"))
pairs = prompts["group"].drop_duplicates().sample(PAIRS, random_state=SEED)
prompts = prompts[prompts["group"].isin(pairs)].reset_index(drop=True)
rollouts = generate(model, prompts, Sampling(max_new_tokens=160, seed=SEED))
one = next(r for r in rollouts if r.tags["harm"] and r.tags["mode"] == "normal")
text = pieces(one.ids, model.tokenizer)
pd.DataFrame([{"segment": s.segment, "tokens": len(s), "text": "".join(text[s.start : s.stop])} for s in one.spans])

# %% [markdown]
# What did each rollout decide? Only the first sentence of the answer counts, and an answer that cannot be read is a
# third outcome, never a compliance.

# %%
labels = label_rollouts(model, rollouts)
facts = to_frame(rollouts, model.tokenizer)[["rollout", "prompt", "group", "prompt_text", "thinking_text"]]
labels = labels.merge(facts, on="rollout")
labels = labels.merge(prompts[["id", "harm", "mode"]], left_on="prompt", right_on="id")
labels["cell"] = cells(labels["harm"], labels["refused"])
labels["part"] = labels["group"].map(split_groups(labels["group"], labels["cell"], seed=SEED))
display(labels.pivot_table("refused", "mode", "harm", aggfunc=lambda r: r.astype(float).mean()))
design(labels)

# %% [markdown]
# Look at `normal`: it complies with harmful requests, although `strict` refuses the same ones. Those rollouts are our
# **target**. Every pair of a request and its modes lies in one part of the split: we fit and choose on one half, and
# every number we report comes from the other.
#
# ## Step 1: can refusal be read?
#
# We read the residual stream at eight tokens of the thinking and at its closing tokens, fit a probe at every layer
# (the label is what *this* model did), choose the layer on the validation part and score it once on the test part.

# %%
site = Site("resid_post") @ "thinking:8,think_end"
hidden = forward(model, rollouts, read=[site])
rows = hidden.rows[site].merge(labels, on="rollout", validate="many_to_one")
rows = rows.assign(label=rows["refused"].astype("Int64"))
keep = rows["label"].notna().to_numpy()
rows = rows[keep].reset_index(drop=True)
states = hidden.values[site].float().numpy()[:, keep]  # [layer, row, d_model]
probe = fit_probe(states, rows, balance_on=["harm"], Cs=(0.001, 0.01, 0.1), permutations=39, seed=SEED)
probe

# %% [markdown]
# Refusal can be read off the hidden states of new requests. That alone says little: a reader of the *text* might do as
# well, and a probe with enough features finds something in anything. So two doubts, in the same currency: a bag of
# words of the prompt and of the thinking, and the same probe, layer and penalty chosen anew, on labels permuted between
# prompts.

# %%
read = labels[labels["refused"].notna()]
words = {"prompt": read["prompt_text"], "prompt and thinking": read["prompt_text"] + read["thinking_text"].fillna("")}
baselines = [
    bag_of_words_auroc(text, read["refused"].astype(int), read["group"], read["part"], name=f"words of the {name}")
    for name, text in words.items()
]
print(probe.null)
effects_frame([probe.test, *baselines])[["name", "estimate", "low", "high", "n"]]

# %% [markdown]
# Permuted labels give chance, so the probe is not fooling itself. But the words do as well as the probe, or better: in
# this language the mode word and the leanings of the thinking give the decision away. **What this does not show:** that
# the probe knows anything the text does not say, or that the model uses what the probe reads. For that we need
# positions and interventions.
#
# ## Step 2: the reading, token by token
#
# The chosen probe becomes a *readout*: the forward pass scores every token with it. Blue reads like refusing, red like
# complying. Below are two harmful requests, each in `strict` mode, which refuses, and in `normal` mode, which complies.
# Point at a token to see its score; jump to the end of thinking. (GitHub does not show the view; Jupyter does.)

# %%
readout = probe.readout("probe", "resid_post")
raw = forward(model, rollouts, score=[readout]).scores
by_id = {r.id: r for r in rollouts}
test = labels[labels["part"] == "test"]
pair = test[test["harm"] & test["mode"].isin(["normal", "strict"])].groupby("group", sort=False).head(2)
pair = pair.head(4).set_index("rollout")["cell"]
token_view(
    raw[raw["rollout"].isin(pair.index)],
    [by_id[i] for i in pair.index],
    model.tokenizer,
    labels=pair,
    ends=("like complying", "like refusing"),
    title="Two harmful requests, in normal mode (complied) and in strict mode (refused)",
)

# %% [markdown]
# A fall of the raw score at the end of thinking is no evidence by itself: every decision sharpens there, and rollouts
# that comply with *harmless* requests fall too. So we anchor it. At each position, 0 is what harmless-complied rollouts
# of the training part score, 1 what refused ones score. A model that knows and is overruled should read high on this
# scale while it thinks, and low at the last token before the answer.

# %%
scores = align(raw, rollouts)
normaliser = Normaliser.fit(scores, *normaliser_rollouts(labels), seed=SEED)
target = test[test["harm"] & (test["mode"] == "normal") & test["refused"].eq(False)]
facts = test[["rollout", "cell"]].assign(target=test["rollout"].isin(target["rollout"]))


def mean_traces(scores, variant):
    """Masked means by cell and position, normalised and raw, in the columns of the figure."""
    rows = normaliser.score(scores.merge(facts, on="rollout")).assign(variant=variant)
    rows = rows[(rows["rel_answer"] < 0).fillna(False)]
    curve = {
        kind: aggregate(rows, ["variant", "cell", "target"], value=v, seed=SEED)
        for kind, v in {"normalised": "normalised", "raw": "score"}.items()
    }
    return pd.concat([table.assign(kind=kind) for kind, table in curve.items()])


base = cliff(scores, normaliser, rollouts=target["rollout"], name="target requests that were complied with")
traces = mean_traces(scores, "base")
display(figures.trace(traces, closing=closing_tokens(scores)))
base

# %% [markdown]
# There is the cliff: while the model thinks, the target rollouts (bold) read above harmless ones, though well below
# refused ones; at the last token before the answer they read like plain compliance. Read the interval of
# `normalised_drop`, not the line: single positions are noisy, and rollouts with short thinking had to be left out. The
# strips count the rollouts behind each point; at the far left only long thinking remains. **What this does not show:**
# what moved the reading. A probe only watches.
#
# ## Step 3: which heads?
#
# Now we switch each head off alone, on the *same tokens*, and ask the model's own output instead of the probe: the
# log-odds of beginning with a refusing rather than a complying word. A head that holds refusing back has a positive
# effect. The target rollouts of the fitting half rank the heads; those of the test part report.

# %%
log_odds = refusal_readout(model, ["sorry", "i"], ["sure", "here"])
asked = labels[labels["harm"] & (labels["mode"] == "normal") & labels["refused"].eq(False)]
explore = [by_id[i].until_answer() for i in asked.loc[asked["part"] != "test", "rollout"]]
report = [by_id[i].until_answer() for i in target["rollout"]]
ranked = sweep_heads(model, explore, log_odds, seed=SEED).table()
heads = sweep_heads(model, report, log_odds, seed=SEED).table().rename(columns={"estimate": "effect"})
heads["rank"] = ranked["estimate"].rank(ascending=False, method="first").astype(int) - 1
heads["found"] = heads["rank"] < 3
for name, linear in {"log_odds": logit_difference(model, log_odds), "probe": readout}.items():
    share = attribute(model, report, linear, seed=SEED).to_frame().query("component == 'head'")
    share = share.rename(columns={"estimate": f"attribution_{name}"})[["layer", "head", f"attribution_{name}"]]
    heads = heads.merge(share, on=["layer", "head"], how="left")
display(figures.head_map(heads))
heads.nsmallest(5, "rank")[["layer", "head", "effect", "low", "high", "n", "attribution_log_odds"]].round(2)

# %% [markdown]
# Three heads stand apart; those are the heads we call found. **What this does not show:** heads that stand in for one
# another (zeroing one alone then does little), and whether *any* three heads would have done. So we zero the three
# together and compare with random sets that were not selected, with as many heads in each layer.

# %%
found = tuple(heads.nsmallest(3, "rank")[["layer", "head"]].itertuples(index=False, name=None))
sets = layer_matched_sets(found, model.n_heads, 39, SEED)
forced = effects(model, report, log_odds, [HeadEdit(found), *map(HeadEdit, sets)], seed=SEED)
ablation = pd.concat([effects_frame([forced.baseline()]), forced.to_frame()], ignore_index=True)
ablation["set"] = ["base", "found", *(f"random_{i}" for i in range(len(sets)))]
ablation["kind"] = ["base", "found", *["random"] * len(sets)]
change = forced.change.mean(axis=1)
ablation["p"] = [None, permutation_p(change[0], change[1:]), *[None] * len(sets)]
ablation.head(4)[["set", "estimate", "low", "high", "n", "unit", "p"]]  # p: the least that this many sets allow

# %% [markdown]
# That was on the model's own old tokens. Does it matter when the model writes freely? We let it answer the test
# requests of `normal` mode again, with the found heads silent, and with two of the random sets silent.

# %%
again = prompts[prompts["group"].isin(test["group"]) & (prompts["mode"] == "normal")]
rates = []
for variant, silent in {"base": None, "ablated": found, "random_0": sets[0], "random_1": sets[1]}.items():
    edits = [HeadEdit(silent)] if silent else []
    with edited(model, edits):  # acts inside any generate(), cached decoding included
        written = generate(model, again, Sampling(max_new_tokens=160, seed=SEED))
    said = label_rollouts(model, written)
    said["harm"] = [bool(r.tags["harm"]) for r in written]
    for kind, chosen in {"target": said[said["harm"]], "control": said[~said["harm"]]}.items():
        known = chosen[chosen["refused"].notna()]
        rate = rate_effect("refused", known["refused"].astype(int), known["rollout"])
        rates.append(
            {
                "variant": variant,
                "cell_kind": kind,
                "refused": rate.estimate,
                "low": rate.low,
                "high": rate.high,
                "n": rate.n,
                "unread": len(chosen) - len(known),
            }
        )
figures.ablation(pd.DataFrame(rates), ablation)

# %% [markdown]
# With the three heads silent the model refuses what is harmful and still answers what is harmless. No random set brings
# the refusals back; if anything, some push further away from them. And the cliff? We score the same target rollouts
# once more, the same tokens, with the heads silent, and take the difference of the two drops, paired by prompt.

# %%
zeroed = forward(
    model, [by_id[i] for i in target["rollout"]], score=[readout], write=compile_edits(model, [HeadEdit(found)])
).scores
zeroed = align(zeroed, rollouts)
without = cliff(zeroed, normaliser, name="the same rollouts, found heads zeroed")
both = pd.concat([traces, mean_traces(zeroed, "ablated_fixed")])
display(figures.trace(both, closing=closing_tokens(scores)))
effects_frame([base["normalised_drop"], without["normalised_drop"], drop_difference(base, without)])

# %% [markdown]
# Without the heads the reading does not fall at the end, it rises (dotted line, a negative drop).
#
# ## Were we right?
#
# Until here nothing has looked at how the model was made. Its maker wrote down which heads were planted:

# %%
score_heads(found, locate("organism:cliff"))

# %% [markdown]
# ## What this does not show
#
# - **Another model.** The mechanism was put there by training three heads; how a large model comes by its own is an
#   open question, and the answer may not be a handful of heads.
# - **That these heads are the only way.** Other heads may carry the same signal and be silent here.
# - **What else they do.** Zeroing is not a state the model was trained in. On a real model, check capabilities as well.
# - **Knowing.** The probe reads a direction in which refused and complied rollouts differ. That it stands high does not
#   mean that the model "knows" in any richer sense.
#
# The same study with its full controls (a reference model without the mechanism, more random sets, labels of every
# rollout, one
# page with an evidence ladder) is one command: `verdictscope demo`. The next notebook, `02_your_own_model`, does this
# on a model of yours.
