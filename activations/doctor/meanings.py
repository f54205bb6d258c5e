"""What each check means, for the page and for whoever reads a row."""

from __future__ import annotations

CHECKS: dict[str, str] = {
    "weights are in memory": "no weight is on the meta device or offloaded; where one is, nothing is run",
    "weights are finite": "no weight is NaN or infinite; where one is, the tensor is named and nothing is run",
    "evaluation mode": "*degraded* in train mode: passes here run in evaluation mode, your own do not",
    "nothing is compiled": "*degraded* under `torch.compile`: passes here, and yours under edits, run uncompiled",
    "no adapter beside the weights": "*degraded* where adapters act: they are read and edited with the model, and "
    "baking or moving weights needs `merge_and_unload` first",
    "no hooks of others": "forward hooks of other programs: *degraded* where they look on, *silently wrong* where one "
    "changes a value; then passes are refused and nothing else is run",
    "the tokenizer fits the embedding": "*unsupported* where the tokenizer has tokens without a row in the model",
    "site map": "the sites could not be placed at all; there are no further rows then",
    "identity: resid_pre = hidden_states": "what enters each block is what Hugging Face records",
    "identity: resid_post = hidden_states": "so is what leaves it, but for the last, which Hugging Face gives normed",
    "identity: resid_post = next resid_pre": "nothing happens between blocks",
    "identity: resid_pre +": "`attn_out` (and in a parallel block `mlp_out`), post-norm and branch gain included, is "
    "what the residual stream gains",
    "identity: resid_mid + mlp_out = resid_post": "so is `mlp_out`",
    "identity: sum over heads of W_O z + bias": "heads are cut at the output projection's input, in the right order",
    "identity: output projection = attention output": "that projection is the attention's last step",
    "identity: z = attention product": "what that projection reads is the attention product (where a norm follows it)",
    "identity: final_norm = hidden_states[-1]": "`final_norm` is read behind the last norm, not before it",
    "identity: pattern from q and k, times v = attention product": "`q`, `k`, `v` and the recomputed `pattern` make "
    "the heads' outputs: windows, sinks and soft caps included",
    "identity: gathered logits = stock logits": "logits of chosen rows are the model's own",
    "identity: parts of a readout sum to it": "embedding, heads, biases and MLPs, through the final norm, add up to a "
    "logit: what attribution rests on",
    "weights: head weights": "what a head writes can be had from the weights; *degraded* on packed (quantised) weights",
    "weights: unembedding": "the head is one linear map of the final norm's output",
    "the noise floor is rounding": "what padding and batch mates change is small enough to be rounding; elsewhere "
    "*the same* means within 8 of it",
    "every site fires once a pass": "no hook is silent or fires twice",
    "sites this model does not have": "asking for them is a clear error",
    "hooks on but idle: logits bit-identical": "reading changes no bit",
    "hooks are gone after an error": "nothing is left on the model",
    "same pass twice: same bytes": "results can be repeated",
    "another token changes nothing before it": "the model is causal, and positions are what they are called",
    "batch mates change nothing": "a rollout's states are its own",
    "pad tokens change nothing": "neither is padding",
    "the padding side changes nothing": "the model's own numbers under left padding; here padding goes to the right",
    "the given layout": "your own batches (`--padding`, `--no-position-ids`) give the same numbers",
    "cached decoding = one pass": "what the model computed while it wrote is what is read afterwards",
    "mates on the other side of a rope switch change nothing": "where position embeddings depend on a row's length "
    "(LongRoPE, dynamic NTK), a row is read with its own beside longer and shorter ones",
    "an earlier, longer call changes nothing": "a row read again after a longer one gives the same",
    "both sides of a rope switch = Hugging Face": "what Hugging Face gives for a row alone, on either side and at it",
    "cached decoding over a rope switch = one pass": "*degraded* where the model's own `generate` goes on from keys of "
    "a shorter row: what was written beyond the switch is then read with other position embeddings than it was "
    "written with",
    "Hugging Face output_hidden_states": "`forward` gives the values that Hugging Face gives",
    "metamorphic: swap query heads of a group": "two query heads that share keys change places in the weights: `q`, "
    "`z`, `pattern` change places with them and nothing else moves",
    "metamorphic: turn a value head's basis": "a value head's basis is rotated in V and undone in W_O: `v` and `z` "
    "turn, what the heads write stays",
    "metamorphic: swap two MLP neurons": "two neurons change places: nothing moves",
    "TransformerLens run_with_cache": "TransformerLens reads the same values, where it loads the model; *degraded* if "
    "it differs while the identities hold for ours",
    "nnsight trace": "so does nnsight",
    "weights as before": "the checks that change weights put every byte back",
}
"""Beginning of a check's name to what it means when it holds."""
