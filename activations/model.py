"""A Hugging Face decoder with its site map."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.activations.capture import Check, embedding_weight
from verdictscope.activations.identities import measure_noise_floor
from verdictscope.activations.sitemap import SiteMap
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.state import adapters, modules_of
from verdictscope.weights_digest import weights_digest


@dataclass(frozen=True, eq=False)
class Model:
    """A model whose sites are known and were checked.

    Attributes:
        hf: the Hugging Face model, running its own attention kernels. Every pass runs it in evaluation mode, without
            autocast and uncompiled, and leaves it as it was.
        optional_tokenizer: its tokenizer, ``None`` where there is none (see ``tokenizer``).
        name: what it was loaded from.
        revision: the hub commit, if known.
        sites: site names to modules.
        checks: the load-time identities with their measured errors.
        modules: every module it had when its sites were found.
        n_heads: query heads.
        n_kv_heads: key and value heads.
        d_head: width of one head at the input of the output projection of the first layer that has one.

    Example:
        >>> from verdictscope.activations import load_model
        >>> model = load_model("organism:cliff", device="cpu")
        >>> model.n_layers, model.n_heads, model.d_model
        (6, 8, 128)
    """

    hf: PreTrainedModel
    optional_tokenizer: PreTrainedTokenizerBase | None
    name: str
    revision: str | None
    sites: SiteMap
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    checks: tuple[Check, ...] = ()
    _floors: dict[str, float] = field(default_factory=dict, repr=False)
    modules: list[nn.Module] = field(default_factory=list, repr=False)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        if self.optional_tokenizer is None:
            raise InputError(
                f"model {self.name!r} has no tokenizer: put its tokenizer files beside the weights, or pass one to wrap"
            )
        return self.optional_tokenizer

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.sites)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return self.hf.dtype

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return embedding_weight(self.hf).device

    @property
    def noise_floor(self) -> float:
        """Largest relative difference that padding and batch-mates make (measured once for these weights).

        Of residual-stream values and logits, in the norm over the hidden axis, on this device and in this
        dtype.
        """
        weights = self.fingerprint
        if weights not in self._floors:
            self._floors[weights] = measure_noise_floor(self)
        return self._floors[weights]

    @property
    def fingerprint(self) -> str:
        """Digest of all weights and settings as they are now; see :mod:`verdictscope.weights_digest`."""
        return weights_digest(self.hf)

    def unchanged(self) -> None:
        """Raises ``InputError`` if modules were replaced, added or taken away since the sites were found."""
        now = modules_of(self.hf)
        if not self.modules or now == self.modules:
            return
        paths = {module: path for path, module in self.hf.named_modules()}
        other = next((m for m in now if m not in set(self.modules)), None)
        what = "some were taken away"
        if other is not None:  # with the package, since an adapter's Linear is not PyTorch's
            kind = f"{type(other).__module__.partition('.')[0]} {type(other).__name__}"
            what = f"{paths.get(other)} is now a {kind} that was not there"
        names = ", ".join(map(repr, adapters(self.hf, now)))
        hint = f" (adapter {names}; or call merge_and_unload first)" if names else ""
        raise InputError(f"the modules of {self.name} changed after it was wrapped ({what}): wrap it again{hint}")

    def __repr__(self) -> str:
        kind = f"{type(self.hf).__name__}, {self.n_layers} layers, {self.n_heads} heads, d_model {self.d_model}"
        return f"Model({self.name!r}: {kind}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
