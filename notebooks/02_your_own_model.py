# %% [markdown]
# # Your own model
#
# You have a chat model, some requests, and a suspicion about where it decides. This notebook takes them from "is my
# model read correctly?" to a saved probe and a first look at the heads.
#
# A small bundled model stands in for yours, so that everything below runs unchanged. To use your own, change the line
# marked with an arrow; any decoder that `transformers` runs and TransformerLens has an adapter for will do. Then bring
# your own requests, since the stand-in understands no others than its own (a few cells down).

# %%
import json
from pathlib import Path

import pandas as pd

from verdictscope.activations import Site, Store, check_model, collect, forward, load_model, readout_from_dict
from verdictscope.interventions import sweep_heads
from verdictscope.judgments import label_rollouts, readout_from_rollouts
from verdictscope.probes import fit_probe, split_groups
from verdictscope.rollouts import (
    Sampling,
    find_markers,
    generate,
    pieces,
    read_parquet,
    read_prompts,
    render_prompt,
    write_parquet,
)
from verdictscope.rollouts.prompts.design import cells, design
from verdictscope.rollouts.tables import to_frame
from verdictscope.sources import locate

MODEL = locate("organism:aligned")  # <- your model: a name on the hub, or a checkpoint folder
DTYPE = "auto"  # as stored; "bfloat16" for a large one
SEED = 0

# %% [markdown]
# ## Is it read correctly?
#
# A hook at the wrong place fails silently: numbers come out, they are just not what they are called. So `load_model`
# checks the sites it found against the model's own arithmetic (what attention and MLP add must sum to the residual
# stream, the heads' writes to what attention adds), and the *doctor* goes through everything else: hooks that change
# nothing, edits that change nothing before them, padding, cached decoding, and the noise floor below which no
# difference means anything on this machine.

# %%
model = load_model(MODEL, dtype=DTYPE)
diagnosis = check_model(model)
checks = diagnosis.to_frame()
print(f"{diagnosis.architecture}: {model.n_layers} layers, {model.n_heads} query heads over {model.n_kv_heads}")
print(f"noise floor {diagnosis.noise_floor:.0e}, nothing silently wrong: {diagnosis.ok}")
checks.groupby("status").agg(checks=("check", "size"), example=("check", "first"))

# %% [markdown]
# Anything *silently wrong* here is a reason to stop; *unsupported* only says that asking for it will be a clear error.
# The same from a terminal: `verdictscope doctor MODEL`. **What this does not show:** that the model is right about
# anything. It shows that the named sites are the right ones.
#
# ## What does your chat template do?
#
# Positions are named by segment: `thinking`, `think_end` (closing token to the last token before the answer), `answer`.
# They are found by token id, from the template itself. See whether yours was understood:

# %%
markers = find_markers(model.tokenizer)
prompt = render_prompt(model.tokenizer, "please tell me how to build the bridge.", system="the mode is normal.")
text = pieces(prompt.ids, model.tokenizer)
if markers is not None:
    print("thinking is closed by", [model.tokenizer.decode(ids) for ids in markers.closer])
pd.DataFrame([{"segment": s.segment, "text": "".join(text[s.start : s.stop])} for s in prompt.spans])

# %% [markdown]
# If your model closes its thinking in words rather than with a token, name them: `Markers.from_text`, and give the
# result to `generate(markers=...)`.
#
# ## Your requests
#
# One line a request, as CSV, JSONL or Parquet: `id` and `user`, and if you have them `system`, `group` (requests that
# belong together, such as paraphrases, share one; they never stand on both sides of a split), and columns of your own.
# `harm` says whether a request is harmful; with `load_prompts` you can name public sets (`known_sets`) instead.

# %%
mine = {"id": ["bridge", "bomb"], "harm": [False, True]}
mine["user"] = [f"please tell me how to build the {name}." for name in mine["id"]]
pd.DataFrame(mine).to_csv("my_prompts.csv", index=False)
display(read_prompts("my_prompts.csv"))

prompts = read_prompts(locate("organism:aligned/prompts.csv"))  # instead of "my_prompts.csv": the stand-in's own
keep = prompts["group"].drop_duplicates().sample(64, random_state=SEED)
prompts = prompts[prompts["group"].isin(keep)]
print(len(prompts), "prompts in", len(keep), "groups")

# %% [markdown]
# ## What does it do with them?
#
# The model writes, and we keep the ids. A Parquet file holds rollouts without loss, so a later session, or another
# machine, goes on from exactly these tokens. What counts as a refusal is read off the first sentence of the answer;
# have a look at some, above all at those of your own model, before you believe it.

# %%
rollouts = generate(model, prompts, Sampling(temperature=0.7, max_new_tokens=160, seed=SEED))
write_parquet(rollouts, "rollouts.parquet", model.tokenizer)
rollouts = read_parquet("rollouts.parquet")

labels = label_rollouts(model, rollouts)
labels = labels.merge(to_frame(rollouts)[["rollout", "prompt", "group"]], on="rollout")
labels = labels.merge(prompts[["id", "harm"]], left_on="prompt", right_on="id").drop(columns="id")
labels["cell"] = cells(labels["harm"], labels["refused"])
labels["part"] = labels["group"].map(split_groups(labels["group"], labels["cell"], seed=SEED))
display(labels.groupby("cell")["answer"].first().to_frame())
design(labels)

# %% [markdown]
# The table counts the 2 × 2 design. If one of your cells is empty (say, the model never refuses a harmless request), a
# probe cannot tell refusing from harm, and `select` will say so instead of fitting. Add requests, modes or samples
# until it is filled.
#
# ## Hidden states, on disk
#
# `collect` writes one HDF5 file. Stopped half-way, the same call goes on; the model is not needed to read it. Ask only
# for what you will look at: all layers of a site at all tokens is what fills disks.

# %%
reads = [Site("resid_post") @ "thinking:8,think_end", Site("z") @ "before_answer"]
store = collect(model, rollouts, reads, path="activations.h5")
print(f"{Path('activations.h5').stat().st_size / 1e6:.0f} MB")
store.to_frame()

# %% [markdown]
# ## Rows, chosen with pandas
#
# Every row knows its rollout, position, token and segment; your own columns join by rollout. A condition is a pandas
# query. For instance: how long are the residual vectors at the end of thinking, where the model will refuse and where
# it will comply?

# %%
facts = labels.set_index("rollout")[["group", "harm", "refused", "cell", "part"]]
chosen = store.select("resid_post", 3, "segment == 'think_end' and harm", tags=facts)
print(chosen.values.shape, chosen.values.dtype)
norms = chosen.rows.assign(norm=chosen.values.norm(dim=-1))
norms.groupby("cell")["norm"].describe()[["count", "mean", "std"]].round(2)

# %% [markdown]
# ## A probe
#
# Fitted at every layer on the train split; the layer is selected on validation, and the test split gives the reported
# number. All tokens of a request and its near duplicates are in one split.

# %%
rows = store.rows("resid_post", tags=facts)
rows = rows[rows["refused"].notna()].assign(label=lambda table: table["refused"].astype(int))
probe = fit_probe((store, "resid_post"), rows, balance_on=["harm"], Cs=(0.001, 0.01, 0.1), permutations=0)
probe

# %% [markdown]
# **What this does not show:** that the model uses this direction, or that the text alone would not predict as much; the
# notebook `01_refusal_cliff` tests both.
#
# Fitted, a probe is plain data: a site, a layer, a direction and a bias. Save it as JSON and read it anywhere, with no
# pickle in between. As a readout it scores tokens inside the forward pass, so a trace needs no stored states at all.

# %%
Path("probe.json").write_text(json.dumps(probe.readout("refusal probe").to_dict()))
readout = readout_from_dict(json.loads(Path("probe.json").read_text()))
scores = forward(model, rollouts[:1], score=[readout]).scores
scores = scores.assign(token=pieces(rollouts[0].ids, model.tokenizer))[["pos", "segment", "token", "layer", "score"]]
scores[scores["segment"].isin(["thinking", "think_end"])].tail(8)

# %% [markdown]
# ## A first look at the heads
#
# Which heads hold refusing up, and which hold it down? The readout is now the model's own output: the log-odds of how
# its refusals and its compliances begin, taken from its own rollouts, so that you need not guess words. We zero one
# head after the other in the upper half of the model, on harmful requests that were refused.

# %%
log_odds = readout_from_rollouts(rollouts, labels)
refused = set(labels.loc[labels["harm"] & labels["refused"].eq(True), "rollout"])
before = [r for r in (one.until_answer() for one in (r for r in rollouts if r.id in refused)) if r is not None][:24]
upper = [(layer, head) for layer in range(model.n_layers // 2, model.n_layers) for head in range(model.n_heads)]
effects = sweep_heads(model, before, log_odds, heads=upper, seed=SEED).to_frame()
strongest = effects["estimate"].abs().nlargest(6).index
effects.loc[strongest, ["layer", "head", "estimate", "low", "high", "n"]].round(2)

# %% [markdown]
# A negative effect: without this head the model leans less towards refusing, so the head holds refusing up. **What this
# does not show:** anything about sets of heads, or whether random heads would do the same; and these are the heads
# ranked *and* reported on the same rollouts, which flatters them. For a claim you want two halves, matched random sets
# and free generation: that is what a study does.

# %%
store.close()
with Store.open("activations.h5") as again:  # later, elsewhere, without the model
    print(again.sites, again.layers("resid_post"), f"{len(again.rows('z')):,} rows of z")

# %% [markdown]
# ## On a GPU
#
# A study is one TOML file and one command. It does all of the above with its controls and ends in a page to read; it
# goes on where it stopped when you call it again, so a job that ran out of time only needs to be sent once more. `plan`
# says beforehand how much memory, time and disk it will take. The shipped study `r1_distill_llama_8b` asks public
# prompt sets; with requests of your own it reads:
#
# ```sh
# verdictscope doctor YOUR_MODEL --dtype bfloat16
# verdictscope plan r1_distill_llama_8b --set model=YOUR_MODEL
# verdictscope run refusal_cliff --out runs/mine \
#     --set model=YOUR_MODEL --set reference= --set dtype=bfloat16 \
#     --set prompts.file=my_prompts.csv --set 'prompts.target={harm=true}' --set 'prompts.control={harm=false}' \
#     --set sampling.max_new_tokens=4096 --set heads.k=32 \
#     --set 'labels.refuse=["I", "Sorry"]' --set 'labels.comply=["Sure", "To", "Here"]'
# verdictscope report runs/mine
# ```
#
# `docs/formats.md` lists every key of a study and every file of a run; `verdictscope report RUN RUN2` compares two
# runs. A stage alone has a command of its own (`verdictscope generate`, `collect`, `probe`, `trace`, `heads`,
# `ablate`).
