# %% [markdown]
# # Where does a model decide to comply?
#
# A reasoning model reads a harmful request. In its thinking it seems to see what it is being asked. Then it answers
# anyway. Was the harm never represented, or was it represented and overruled at the end?
#
# The *refusal cliff* ([arXiv 2510.06036](https://arxiv.org/abs/2510.06036)) is the second case: the refusal signal is
# high throughout the thinking and falls at the last tokens before the answer, because a few attention heads suppress
# it. This notebook goes through the three steps that distinguish the two cases:
#
# 1. collect the hidden states of the model's own rollouts;
# 2. fit a linear probe and score every token with it;
# 3. ablate heads, and test whether the refusals return.
#
# The model is a small bundled one whose mechanism was planted, so at the end the result can be checked. Everything runs
# on a laptop's CPU.

# %%
import pandas as pd

from verdictscope import figures
from verdictscope.activations import Site, forward, load_model, logit_difference
from verdictscope.interventions import HeadEdit, attribute, edited, effects, sweep_heads
from verdictscope.interventions.head_sets import layer_matched_sets
from verdictscope.judgments import label_rollouts, refusal_readout
from verdictscope.organisms import score_heads
from verdictscope.probes import fit_probe, split_groups
from verdictscope.probes.text import bag_of_words_auroc
from verdictscope.traces import Normaliser, aggregate, cliff, drop_difference, token_view, trace
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
# `closed` ones refuse everything. The four modes fill the design we need: harmful *and* harmless requests, each refused
# *and* complied with. Without all four cells a probe of refusal cannot be distinguished from a probe of harm.
#
# `load_model` checks the sites against the model's own arithmetic. Then the model writes. A rollout keeps the token ids
# that were shown and written, with segments found by token id; nothing is rendered from text again.

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
# What did each rollout decide? Only the first sentence of the answer counts, and an answer that cannot be parsed is a
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
# **target**. All modes of a request are on one side of the split: one half is used to fit and select, and every
# reported number comes from the other.
#
# ## Step 1: is refusal linearly readable?
#
# We read the residual stream at eight tokens of the thinking and at its closing tokens, fit a probe at every layer (the
# label is what *this* model did), select the layer on the validation split and score it once on the test split.

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
# Refusal can be read off the hidden states of new requests. That alone says little: the *text* alone might do as well,
# and a probe with many features fits anything. So two controls on the same scale: a bag of words of the prompt and of
# the thinking, and the whole procedure, selection of layer and penalty included, on labels permuted between prompts.

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
# Permuted labels give chance, so the procedure is not overfitted. But the text baseline does as well as the probe, or
# better: in this language the mode word and the wording of the thinking predict the decision. **What this does not
# show:** that the probe reads anything beyond the text, or that the model uses what the probe reads. For that we need
# positions and interventions.
#
# ## Step 2: the score, token by token
#
# The selected probe becomes a *readout*: the forward pass scores every token with it. Blue reads like refusing, red
# like complying. Below are two harmful requests, each in `strict` mode, which refuses, and in `normal` mode, which
# complies. Point at a token to see its score; jump to the end of thinking. (GitHub does not show the view; Jupyter
# does.)

# %%
readout = probe.readout("probe", "resid_post")
scores = trace(model, rollouts, readout)
by_id = {r.id: r for r in rollouts}
test = labels[labels["part"] == "test"]
pair = test[test["harm"] & test["mode"].isin(["normal", "strict"])].groupby("group", sort=False).head(2)
pair = pair.head(4).set_index("rollout")["cell"]
token_view(
    scores[scores["rollout"].isin(pair.index)],
    [by_id[i] for i in pair.index],
    model.tokenizer,
    labels=pair,
    ends=("like complying", "like refusing"),
    title="Two harmful requests, in normal mode (complied) and in strict mode (refused)",
)

# %% [markdown]
# A fall of the raw score at the end of thinking is no evidence by itself: every decision sharpens there, and rollouts
# that comply with *harmless* requests fall too. So we normalise it. At each position, 0 is the mean score of
# harmless-complied training rollouts, 1 that of refused ones. If the refusal signal is present and then suppressed, the
# normalised score is high during the thinking and low at the last token before the answer.

# %%
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
# This is the cliff: during the thinking the target rollouts (bold) score above harmless ones, though well below refused
# ones; at the last token before the answer they score like plain compliance. Read the interval of `normalised_drop`,
# not the line: single positions are noisy, and rollouts with short thinking had to be left out. The strips count the
# rollouts behind each point; at the far left only long thinking remains. **What this does not show:** what changed the
# score: a probe is correlational.
#
# ## Step 3: which heads?
#
# Now each head is zero-ablated alone, on the *same tokens*, and measured by the model's own output instead of the
# probe: the log-odds of beginning with a refusing rather than a complying word. A head that suppresses refusal has a
# positive effect. The target rollouts of the fitting half rank the heads; those of the test split give the reported
# effects.

# %%
log_odds = refusal_readout(model, ["sorry", "i"], ["sure", "here"])
asked = labels[labels["harm"] & (labels["mode"] == "normal") & labels["refused"].eq(False)]
explore = [by_id[i].until_answer() for i in asked.loc[asked["part"] != "test", "rollout"]]
report = [by_id[i].until_answer() for i in target["rollout"]]
ranked = sweep_heads(model, explore, log_odds, seed=SEED).table()
heads = sweep_heads(model, report, log_odds, seed=SEED).table().drop(columns="contrast", errors="ignore")
heads = heads.rename(columns={"estimate": "effect"})
heads["rank"] = ranked["estimate"].rank(ascending=False, method="first").astype(int) - 1
heads["found"] = heads["rank"] < 3
for name, linear in {"log_odds": logit_difference(model, log_odds), "probe": readout}.items():
    share = attribute(model, report, linear, seed=SEED).to_frame().query("component == 'head'")
    share = share.rename(columns={"estimate": f"attribution_{name}"})[["layer", "head", f"attribution_{name}"]]
    heads = heads.merge(share, on=["layer", "head"], how="left")
display(figures.head_map(heads))
heads.nsmallest(5, "rank")[["layer", "head", "effect", "low", "high", "n", "attribution_log_odds"]].round(2)

# %% [markdown]
# Three heads stand out; these are the selected heads. **What this does not show:** heads that compensate for one
# another (ablating one alone then does little), and whether *any* three heads would have the same effect. So we ablate
# the three together and compare with random sets of other heads, with as many in each layer.

# %%
selected = tuple(heads.nsmallest(3, "rank")[["layer", "head"]].itertuples(index=False, name=None))
sets = layer_matched_sets(selected, model.n_heads, 39, SEED)
forced = effects(model, report, log_odds, [HeadEdit(selected), *map(HeadEdit, sets)], seed=SEED)
ablation = pd.concat([effects_frame([forced.baseline()]), forced.to_frame()], ignore_index=True)
ablation["set"] = ["base", "found", *(f"random_{i}" for i in range(len(sets)))]
ablation["kind"] = ["base", "found", *["random"] * len(sets)]
change = forced.change.mean(axis=1)
ablation["p"] = [None, permutation_p(change[0], change[1:]), *[None] * len(sets)]
ablation.head(4)[["set", "estimate", "low", "high", "n", "unit", "p"]]  # p: the least that this many sets allow

# %% [markdown]
# That was on stored tokens. Does it change what the model writes? It answers the test requests of `normal` mode again,
# with the selected heads ablated, and with two of the random sets ablated.

# %%
again = prompts[prompts["group"].isin(test["group"]) & (prompts["mode"] == "normal")]
rates = []
for variant, ablated in {"base": None, "ablated": selected, "random_0": sets[0], "random_1": sets[1]}.items():
    edits = [HeadEdit(ablated)] if ablated else []
    with edited(model, edits):  # acts inside any generate(), cached decoding included
        written = generate(model, again, Sampling(max_new_tokens=160, seed=SEED))
    outcome = label_rollouts(model, written)
    outcome["harm"] = [bool(r.tags["harm"]) for r in written]
    for kind, chosen in {"target": outcome[outcome["harm"]], "control": outcome[~outcome["harm"]]}.items():
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
# With the three heads ablated the model refuses harmful requests and still answers harmless ones. No random set
# restores the refusals. For the cliff itself, the same target rollouts are scored again on the same tokens with the
# heads ablated, and the two drops are compared, paired by prompt.

# %%
with edited(model, HeadEdit(selected)):
    ablated_scores = trace(model, [by_id[i] for i in target["rollout"]], readout)
without = cliff(ablated_scores, normaliser, name="the same rollouts, selected heads ablated")
both = pd.concat([traces, mean_traces(ablated_scores, "ablated_fixed")])
display(figures.trace(both, closing=closing_tokens(scores)))
effects_frame([base["normalised_drop"], without["normalised_drop"], drop_difference(base, without)])

# %% [markdown]
# Without the heads the score does not fall at the end, it rises (dotted line, a negative drop).
#
# ## Comparison with the planted heads
#
# Nothing so far used how the model was made. Which heads were planted is recorded with it:

# %%
score_heads(selected, locate("organism:cliff"))

# %% [markdown]
# ## What this does not show
#
# - **Another model.** The mechanism was put there by training three heads; how a large model comes by its own is an
#   open question, and the answer may not be a handful of heads.
# - **That these heads are the only way.** Other heads may carry the same signal and be inactive here.
# - **What else they do.** Zero-ablation is not a state the model was trained in. On a real model, check capabilities as
#   well.
# - **Knowledge.** The probe reads a direction in which refused and complied rollouts differ. A high score does not mean
#   that the model "knows" in any richer sense.
#
# The same study with its full controls (a reference model without the mechanism, more random sets, one page with an
# evidence ladder) is one command: `verdictscope demo`. The next notebook, `02_your_own_model`, does this on a model of
# yours.
