"""A Hugging Face decoder with its site map, checked when it loads."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.activations.backends.adapters import backend_of
from verdictscope.activations.checkpoint import read_checkpoint
from verdictscope.activations.identities import Check, check, embedding_weight, finite_weights, noise_floor, raise_first
from verdictscope.activations.infer_sites import measure, sees_later
from verdictscope.activations.sitemap import Overrides, SiteMap, find_modules
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.state import adapters, evaluating, inside, modules_of, on_device, watching
from verdictscope.sources import locate
from verdictscope.weights_digest import structure_digest, weights_digest

if TYPE_CHECKING:
    from verdictscope.activations.doctor import Diagnosis


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
        """The tokenizer.

        Raises:
            InputError: the model came without one.
        """
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
            self._floors[weights] = noise_floor(self)
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
        what = "some were taken away" if other is None else f"{paths.get(other)} is now a {_kind(other)}"
        names = ", ".join(map(repr, adapters(self.hf, now)))
        hint = f" (adapter {names}; or call merge_and_unload first)" if names else ""
        raise InputError(f"the modules of {self.name} changed after it was wrapped ({what}): wrap it again{hint}")

    def doctor(self, **options: Any) -> Diagnosis:
        """Whether this model is read rightly, check by check; see :func:`verdictscope.activations.doctor.doctor`."""
        from verdictscope.activations.doctor import doctor

        return doctor(self, **options)

    def __repr__(self) -> str:
        kind = f"{type(self.hf).__name__}, {self.n_layers} layers, {self.n_heads} heads, d_model {self.d_model}"
        return f"Model({self.name!r}: {kind}, {str(self.dtype).removeprefix('torch.')} on {self.device})"


def _kind(module: nn.Module) -> str:
    """What a module is: the package too, since an adapter's ``Linear`` is not PyTorch's."""
    return f"{type(module).__module__.partition('.')[0]} {type(module).__name__} that was not there"


def load_model(
    name: str | Path | Any,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overrides: Overrides | None = None,
) -> Model:
    """Loads a causal language model (or a reward model) and its tokenizer, finds the sites and checks them.

    Args:
        name: a bundled model (``organism:NAME``), a checkpoint folder or a hub name; of an adapter the base model is
            loaded and the adapter merged into it.
        dtype: ``"auto"`` (as stored; float32 on a CPU that is slow in the stored type, which is said in a warning),
            or a torch dtype or its name.
        device: where to run; CUDA if there is any, else the CPU.
        revision: hub branch, tag or commit.
        trust_remote_code: run Python code that comes with the checkpoint.
        overrides: module paths where the adapter's are wrong or missing, see ``sitemap.find_modules``.

    Raises:
        InputError: the model is not there or cannot be loaded, or a site check fails.

    Example:
        >>> from verdictscope.activations import load_model
        >>> load_model("organism:cliff", device="cpu")
        Model('organism:cliff': Qwen3ForCausalLM, 6 layers, 8 heads, d_model 128, float32 on cpu)
    """
    if not isinstance(name, str | Path):
        raise InputError(f"load_model takes a name or a folder, not a {type(name).__name__}; use wrap")
    hf, tokenizer = read_checkpoint(
        locate(str(name)), dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code
    )
    return wrap(
        hf,
        tokenizer,
        name=str(name),
        revision=getattr(hf.config, "_commit_hash", None) or revision,
        overrides=overrides,
    )


_ready: weakref.WeakKeyDictionary[Any, tuple[str, Model]] = weakref.WeakKeyDictionary()


def as_model(held: Any) -> Model:
    """A ``Model`` as it is; a Hugging Face, TransformerLens or nnsight model wrapped, once for as long as its modules
    and the shapes of its weights stay what they are (an adapter put on is another build).

    Raises:
        InputError: it is none of these, or a site check fails.
    """
    if isinstance(held, Model):
        return held
    build = structure_digest(held) if isinstance(held, nn.Module) else ""
    known, ready = _ready.get(held, (None, None))
    if ready is None or known != build or modules_of(ready.hf) != ready.modules:  # an adapter added, a layer replaced
        ready = wrap(held)
        _ready[held] = build, ready
    return ready


def wrap(
    hf: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    overrides: Overrides | None = None,
) -> Model:
    """Finds and checks the sites of a model that is already in memory, and leaves it as it is.

    Train mode, autocast and ``torch.compile`` (of the model, its ``forward`` or its layers) do not touch what is read:
    every pass is made in evaluation mode, in the dtype of the weights and uncompiled, and edits act in any call of the
    model inside their block. Adapters that are not merged are part of the model.

    Args:
        hf: a Hugging Face decoder, also compiled, or a ``PeftModel``, TransformerLens ``TransformerBridge`` or nnsight
            ``TransformersModel`` that holds one (see ``backends/adapters.py`` for how it is taken out and checked to
            be the same function).
        tokenizer: its tokenizer.
        name: what to call it in files; by default what it was loaded from.
        revision: hub commit.
        overrides: module paths, see ``sitemap.find_modules``.

    Raises:
        InputError: a site check fails; the message names the site, the layer and the relative size of the
            error.
    """
    hf = inside(hf) if isinstance(hf, nn.Module) else hf
    backend = backend_of(hf)
    if backend is not None:
        hf, tokenizer = backend.unwrap(), tokenizer or backend.tokenizer()
    if not isinstance(hf, PreTrainedModel):
        raise InputError(
            f"a {type(hf).__name__} is no model: pass a Hugging Face, TransformerLens or nnsight model (what a "
            "DataParallel holds is its .module)"
        )
    model = unchecked(hf, tokenizer, name=name, revision=revision, overrides=overrides)
    checks = (*model.checks, *check(model))
    raise_first(checks)
    object.__setattr__(model, "checks", checks)
    return model


def unchecked(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    overrides: Overrides | None = None,
) -> Model:
    """Like ``wrap`` without the checks, for tools that report on them."""
    on_device(hf)
    finite = finite_weights(hf)
    raise_first([finite])
    config = hf.config.get_text_config()
    with evaluating(hf) as modules, watching(hf, modules):
        if getattr(config, "is_decoder", None) is False and sees_later(hf):
            raise InputError(
                f"{type(hf).__name__} is an encoder here: a token sees later ones; load it with is_decoder=True"
            )
        stated = getattr(config, "num_attention_heads", None)
        sites = measure(hf, find_modules(hf, overrides), int(stated) if isinstance(stated, int) else 1)
    heads = next((block for block in sites.blocks if block.o is not None), None)
    n_heads = heads.n_heads if heads else 0
    heard = next((block.attention for block in sites.blocks if block.attention is not None), None)
    kv_heads = heard.n_kv_heads if heard else int(getattr(config, "num_key_value_heads", None) or n_heads)
    return Model(
        hf=hf,
        optional_tokenizer=tokenizer,
        name=name or hf.config.name_or_path or type(hf).__name__,
        revision=revision,
        sites=sites,
        n_heads=n_heads,
        n_kv_heads=kv_heads,
        d_head=heads.d_head if heads else 0,
        d_model=sites.shape("resid_pre", 0)[0],
        checks=(finite,),
        modules=modules,
    )
