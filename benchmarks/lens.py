"""TransformerLens's bridge over a model that is already in memory."""

from __future__ import annotations

import tempfile
from typing import Any


def boot(hf: Any, vocab: int, device: str = "cpu") -> Any:
    """A bridge, with a tokenizer of as many words as the vocabulary has; the model is changed by it: pass a copy."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    hf.config.architectures = [type(hf).__name__]
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w0"))
    with tempfile.TemporaryDirectory() as folder:
        made = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", bos_token="w1", eos_token="w2")
        made.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)  # the bridge loads it again from where it came
        return TransformerBridge.boot_transformers("random", hf_model=hf, tokenizer=tokenizer, device=device)
