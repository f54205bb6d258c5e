"""A rollout is read as it is alone, at every length: beyond a rope switch, at the last position, and not beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import rollout

from tests.scaled_models import CHANGING, FIXED, SWITCH, fresh, shared
from verdictscope.activations import BatchPlan, LogOddsReadout, Site, forward, wrap
from verdictscope.activations.batch import head_logits
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.limits import position_limit
from verdictscope.rollouts.engines.rope import changing, switch_lengths
from verdictscope.rollouts.rollout import Rollout, Span

READ = Site("resid_post") @ "all"
LENGTHS = (20, SWITCH, SWITCH + 1, SWITCH + 30)
ROLLOUTS = [rollout(f"r{n}", n, seed=n) for n in LENGTHS]
ODDS = LogOddsReadout("odds", [[3, 5, 8], [7]], [[11, 4], [3, 6]], positions="think_end,last")


def close(a: torch.Tensor, b: torch.Tensor, allowed: float = 3e-6) -> bool:
    return float((a - b).norm(dim=-1).max() / b.norm(dim=-1).max()) < allowed


READ_HERE = [name for name in CHANGING if name != "phimoe"]  # whose sites no adapter knows


@pytest.mark.parametrize("name", [*READ_HERE, *FIXED])
def test_a_mate_and_an_earlier_call_change_nothing(name: str) -> None:
    model = wrap(shared(name))
    assert switch_lengths(model.hf) == ([SWITCH] if name in CHANGING else [])
    for _ in range(2):  # the second time after long rows and every other length
        together = forward(
            model, ROLLOUTS, [READ], score=[ODDS], plan=BatchPlan(((2, 0, 3, 1),), 1000), logits_at="all"
        )
        rows, scores = together.rows[READ].rollout, together.scores
        for r in ROLLOUTS:
            here = torch.tensor((rows == r.id).to_numpy())
            alone = forward(model, [r], [READ], score=[ODDS], logits_at="all")
            with torch.no_grad():
                stock = fresh(name)(input_ids=torch.tensor([r.ids]), use_cache=False, output_hidden_states=True)
            assert close(together.values[READ][:, here], alone.values[READ])
            assert close(alone.values[READ][0], stock.hidden_states[1][0])
            assert close(together.logits[here], stock.logits[0])
            mine = scores[scores.rollout == r.id].score.to_numpy()
            np.testing.assert_allclose(mine, alone.scores.score.to_numpy(), atol=2e-5)


@pytest.mark.parametrize("name", ["phi3", "llama dynamic"])
@pytest.mark.parametrize("length", [SWITCH - 1, SWITCH, SWITCH + 9])
def test_every_token_of_a_label_is_predicted_as_after_the_tokens_before_it(name: str, length: int) -> None:
    """Labels reach over the switch: log p of a token is that of a model that was given what stands before it."""
    r = rollout("r", length, seed=1)
    found = forward(wrap(shared(name)), [r], score=[LogOddsReadout("odds", [[3, 5, 8]], [[7]], positions="last")])
    logp = []
    for before, token in (((), 3), ((3,), 5), ((3, 5), 8), ((), 7)):
        with torch.no_grad():
            stock = fresh(name)(input_ids=torch.tensor([[*r.ids, *before]]), use_cache=False).logits[0, -1]
        logp.append(float(stock.log_softmax(-1)[token]))
    assert found.scores.score[0] == pytest.approx(sum(logp[:3]) - logp[3], abs=2e-5)


@pytest.mark.parametrize("name", READ_HERE)
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = wrap(fresh(name))

    def state() -> list[object]:
        return [
            (key, value.tolist() if isinstance(value, torch.Tensor) else value)
            for module in changing(model.hf)
            for key, value in (*module._buffers.items(), *vars(module).items())
            if key.endswith(("inv_freq", "max_seq_len_cached", "attention_scaling")) and "long" not in key
        ]

    before = state()
    forward(model, ROLLOUTS, [READ])
    head_logits(model, torch.zeros(2, 32))
    assert state() == before
    # what a call of the caller's own left behind stays too, and changes nothing here
    values = forward(model, ROLLOUTS[:1], [READ]).values[READ]
    with torch.no_grad():
        model.hf(input_ids=torch.tensor([ROLLOUTS[3].ids]), use_cache=False)
    before = state()
    assert torch.equal(forward(model, ROLLOUTS[:1], [READ]).values[READ], values)
    assert state() == before


def learned(name: str) -> hf.PreTrainedModel:
    small = {"vocab_size": 97, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    config = {
        "gpt2": lambda: hf.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        "opt": lambda: hf.OPTConfig(**small, hidden_size=32, ffn_dim=48, word_embed_proj_dim=32),
        "gptj": lambda: hf.GPTJConfig(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4),
        "llama": lambda: hf.LlamaConfig(**small, hidden_size=32, intermediate_size=48),
        "roberta": lambda: hf.RobertaConfig(**small, hidden_size=32, intermediate_size=48, is_decoder=True),
    }[name]()
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize(("name", "limit"), [("gpt2", 64), ("opt", 64), ("gptj", 64), ("llama", 64), ("roberta", 62)])
def test_a_rollout_longer_than_the_positions_is_one_error_everywhere(name: str, limit: int) -> None:
    hf_model = learned(name)
    assert position_limit(hf_model) == limit
    model = hf_model if name == "roberta" else wrap(hf_model)
    if name == "roberta":  # its positions begin behind the padding's
        with torch.no_grad():
            hf_model(input_ids=torch.ones(1, limit, dtype=torch.long) * 5)
        return
    fits, long = rollout("fits", limit), rollout("long", limit + 1)
    forward(model, [fits], [READ])
    with pytest.raises(InputError, match=f"rollout long .*{limit + 1} tokens .*{limit} positions"):
        forward(model, [fits, long], [READ])
    # a label that reaches over the end
    with pytest.raises(InputError, match=f"rollout fits .*{limit} positions"):
        forward(model, [fits], score=[LogOddsReadout("odds", [[3, 5, 8]], [[7]], positions="last")])


def test_what_a_rope_scaling_adds_to_the_positions() -> None:
    assert position_limit(shared("llama dynamic")) == 4 * SWITCH
    assert position_limit(shared("gemma3 dynamic")) == 4 * SWITCH
    assert position_limit(shared("phi3")) == position_limit(shared("llama longrope")) == 256
    assert position_limit(shared("llama yarn")) == 256  # the length after scaling is stated
    assert position_limit(shared("llama linear")) == 4 * 256
    model = fresh("llama yarn")
    model.config.max_position_embeddings = SWITCH
    assert position_limit(model) == 4 * SWITCH
    bloom = hf.AutoModelForCausalLM.from_config(hf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=1, n_head=4))
    assert position_limit(bloom) is None


@pytest.mark.parametrize("name", ["phi3", "llama dynamic", "gpt2"])
def test_a_rollout_of_one_token_is_read_and_one_of_none_is_refused(name: str) -> None:
    model = wrap(shared(name) if name in CHANGING else learned(name))
    one, long = Rollout("one", "g", (5,), (Span("user", 0, 1),), 1), rollout("long", 60)
    both = forward(model, [one, long], [READ], score=[LogOddsReadout("odds", [[3, 5]], [[7]], positions="last")])
    alone = forward(model, [one], [READ])
    assert close(both.values[READ][:, :1], alone.values[READ])
    with pytest.raises(InputError, match="rollout none .*0 tokens"):
        Rollout("none", "g", (), (), 0)
