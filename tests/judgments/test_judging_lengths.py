"""Judging at every length: a label is scored as after the tokens before it, whatever is judged beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.rollouts.makers import byte_tokenizer
from tests.scaled_models import SWITCH, fresh, scaled, shared, tokens
from verdictscope.activations import wrap
from verdictscope.errors import InputError
from verdictscope.judgments import PairItem, judge
from verdictscope.judgments.labels import label_logprobs
from verdictscope.rollouts import Rollout, Span

LABELS = ((3, 5, 8), (3, 6), (7,))
PREFIXES = [
    Rollout(f"p{n}", "g", tuple(tokens(n, n)), (Span("user", 0, n),), n) for n in (20, SWITCH - 1, SWITCH, SWITCH + 9)
]


@pytest.mark.parametrize("name", ["phi3", "llama dynamic", "llama yarn"])
def test_labels_are_scored_as_after_the_tokens_before_them(name: str) -> None:
    found = label_logprobs(wrap(shared(name)), PREFIXES, [LABELS] * len(PREFIXES))
    for prefix, logps in zip(PREFIXES, found, strict=True):
        for label, logp in zip(LABELS, logps, strict=True):
            expected = 0.0
            for k, token in enumerate(label):
                with torch.no_grad():
                    stock = fresh(name)(torch.tensor([[*prefix.ids, *label[:k]]]), use_cache=False).logits[0, -1]
                expected += float(stock.double().log_softmax(-1)[token])
            assert logp == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("labels", [[(-1,), (4,)], [(4, -1), (5,)], [(), (4,)], [(3000,), (4,)], [(4, 3000), (5,)]])
def test_labels_outside_the_vocabulary_are_errors(labels: list[tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="label [12] of rollout p20 has (token|0 tokens)"):
        label_logprobs(wrap(shared("phi3")), PREFIXES[:1], [labels])


def test_labels_of_another_number_of_prefixes_are_an_error() -> None:
    with pytest.raises(InputError, match="2 prefixes and labels for 1"):
        label_logprobs(wrap(shared("phi3")), PREFIXES[:2], [LABELS])


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_verdict_does_not_depend_on_what_is_judged_beside_it(kind: str) -> None:
    tok = byte_tokenizer()
    items = [PairItem(id=str(n), question="Which?", a="x" * n, b="y" * n) for n in (1, 60, 400)]
    alone = [judge(wrap(scaled(kind, len(tok), 600), tok), [i], "pair_letter").labels for i in items]
    model = wrap(scaled(kind, len(tok), 600), tok)
    for _ in range(2):
        both = judge(model, items, "pair_letter").labels
        np.testing.assert_allclose(both.logp, np.concatenate([a.logp for a in alone]), atol=2e-5)


def test_items_longer_than_the_positions_and_unknown_tokens_are_named() -> None:
    tok = byte_tokenizer()
    model = wrap(scaled("longrope", len(tok), 600), tok)
    fits, long = (PairItem(id=name, question="Which?", a="x" * n, b="y") for name, n in (("fits", 9), ("long", 5000)))
    with pytest.raises(InputError, match="4800 tokens, long/AB"):
        judge(model, [fits, long], "pair_letter")
    small = wrap(scaled("longrope", len(tok) - 4, 600), tok)
    with pytest.raises(InputError, match=f"fits.* token .*vocabulary of {len(tok) - 4}"):
        judge(small, [fits], "pair_letter")
