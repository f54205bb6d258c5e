"""Results of the compatibility checks: one finding a check, and the diagnosis of all of them."""

from __future__ import annotations

import html
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pandas as pd

from verdictscope.provenance import finite

Status = Literal["supported", "degraded", "unsupported", "silently wrong", "error"]
STATUSES: dict[str, str] = {
    "supported": "holds within the stated tolerance",
    "degraded": "works, with a stated limitation",
    "unsupported": "not available for this model; asking for it raises an error",
    "silently wrong": "would return values that are not what their name says",
    "error": "the check itself could not be completed",
}
"""What each status means."""


CHECKS: dict[str, str] = {
    "weights are in memory": "no weight is on the meta device or offloaded; otherwise no other check runs",
    "weights are finite": "no weight is NaN or infinite; otherwise the tensor is named and no other check runs",
    "evaluation mode": "*degraded* in train mode: passes of this package run in evaluation mode, your own do not",
    "nothing is compiled": "*degraded* under `torch.compile`: passes of this package, and yours under edits, run "
    "uncompiled",
    "no adapter beside the weights": "*degraded* where adapters act: states are read and edited with them, but editing "
    "the weights needs `merge_and_unload` first",
    "no foreign hooks": "hooks of other code on the model: *degraded* where they only observe, *silently wrong* where "
    "one changes a value; then no other check runs",
    "the tokenizer fits the embedding": "*unsupported* where the tokenizer has tokens without a row in the embedding",
    "site map": "the sites could not be located; then no other check runs",
    "identity: resid_pre = hidden_states": "the input of each block is what Hugging Face records",
    "identity: resid_post = hidden_states": "so is the output of each block, except the last, which Hugging Face gives "
    "after the final norm",
    "identity: resid_post = next resid_pre": "nothing acts between blocks",
    "identity: resid_pre +": "`attn_out` (and `mlp_out` in a parallel block), after post-norm and branch gain, is what "
    "the block adds to the residual stream",
    "identity: resid_mid + mlp_out = resid_post": "so is `mlp_out`",
    "identity: sum over heads of W_O z + bias": "the input of the output projection is split into heads in the right "
    "order",
    "identity: output projection = attention output": "the output projection is the last step of the attention",
    "identity: z = attention product": "the output projection reads the attention product (where a norm follows it)",
    "identity: final_norm = hidden_states[-1]": "`final_norm` is read after the final norm, not before it",
    "identity: pattern from q and k, times v = attention product": "`q`, `k`, `v` and the recomputed `pattern` give "
    "the output of every head, with windows, sinks and soft caps",
    "identity: gathered logits = stock logits": "logits of selected rows are the model's own",
    "identity: components of a readout sum to it": "embedding, heads, biases and MLPs, through the final norm, sum to "
    "a logit; attribution rests on this",
    "weights: head weights": "the output weights of single heads are available; *degraded* on packed (quantised) "
    "weights",
    "weights: unembedding": "the logits are one linear map of the final norm's output",
    "the noise floor is rounding": "padding and batch mates change values by rounding only; in other checks *equal* "
    "means within 8 times this floor",
    "every site fires once a pass": "no hook is skipped or runs twice",
    "sites this model does not have": "asking for one of these raises an error",
    "hooks on but idle: logits bit-identical": "reading changes no bit of the output",
    "hooks are gone after an error": "no hook stays on the model",
    "same pass twice: same bytes": "results are reproducible",
    "another token changes nothing before it": "the model is causal and positions are what they are called",
    "batch mates change nothing": "the states of a rollout do not depend on the other rollouts of its batch",
    "pad tokens change nothing": "nor on the token used for padding",
    "the padding side changes nothing": "the model's own values under left padding (this package pads on the right)",
    "the given layout": "your own batches (`--padding`, `--no-position-ids`) give the same values",
    "cached decoding = one pass": "states computed while generating equal those of one pass over the whole rollout",
    "mates on the other side of a rope switch change nothing": "where position embeddings depend on the row length "
    "(LongRoPE, dynamic NTK), every row gets those of its own length",
    "an earlier, longer call changes nothing": "a row gives the same values before and after a longer row",
    "both sides of a rope switch = Hugging Face": "equal to what Hugging Face gives for the row alone, below, at and "
    "above the switch",
    "cached decoding over a rope switch = one pass": "*degraded* where the model's own `generate` continues from keys "
    "computed for a shorter row: tokens beyond the switch were then generated with other position embeddings than they "
    "are read with",
    "Hugging Face output_hidden_states": "`forward` returns the hidden states that Hugging Face returns",
}
"""Beginning of a check's name to what it means when it holds."""

SITE_MAP = "site map"
"""The check without which there are no others: where the sites are."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        check: what was checked.
        status: one of :data:`STATUSES`.
        measured: the measured number, relative unless the detail gives another unit; ``None`` where there is none.
        allowed: what it may be.
        layer: where the worst was seen, ``None`` for the model as a whole.
        detail: in words.
    """

    check: str
    status: Status
    measured: float | None = None
    allowed: float | None = None
    layer: int | None = None
    detail: str = ""


def within(check: str, measured: float, allowed: float, layer: int | None = None, detail: str = "") -> Finding:
    """Supported if the number is allowed (and a number), else silently wrong."""
    good = math.isfinite(measured) and measured <= allowed
    return Finding(check, "supported" if good else "silently wrong", measured, allowed, layer, detail)


@dataclass(frozen=True)
class Diagnosis:
    """Everything the doctor found about one model.

    What this does not show: that a model is right about anything, or that sites of other inputs behave as those of the
    short random ones used here.

    Attributes:
        model: its name.
        architecture: its class.
        dtype: floating type.
        device: where it ran.
        attention: the attention kernel.
        noise_floor: relative difference that padding and batch mates make.
        findings: one a check, in the order they were made.
    """

    model: str
    architecture: str
    dtype: str
    device: str
    attention: str
    noise_floor: float | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the model is read at all, nothing is silently wrong and no check failed to finish."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed: this model should not be read until they pass."""
        bad = [f for f in self.findings if f.status in ("silently wrong", "error")]
        bad += [f for f in self.findings if f.check == SITE_MAP and f.status == "unsupported"]
        return [f.check for f in bad]

    @property
    def worst_identity(self) -> float:
        """The largest measured error among the checks that are identities of the forward pass."""
        return max((f.measured or 0.0 for f in self.findings if f.check.startswith("identity")), default=math.nan)

    def status(self, check: str) -> str:
        """Status of the first check whose name begins like this."""
        for finding in self.findings:
            if finding.check.startswith(check):
                return finding.status
        raise KeyError(check)

    def to_frame(self) -> pd.DataFrame:
        """One line a check."""
        return pd.DataFrame([asdict(f) for f in self.findings])

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data; numbers that are not finite become ``None``."""
        about = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "findings"}
        counts = {s: sum(f.status == s for f in self.findings) for s in STATUSES}
        checks = [asdict(f) for f in self.findings]
        return finite(about | {"ok": self.ok, "counts": counts, "checks": checks})

    def __str__(self) -> str:
        about = f"{self.model}: {self.architecture}, {self.dtype} on {self.device}, {self.attention} attention"
        lines = ["Model compatibility checks", about]
        if self.noise_floor is not None:
            lines.append(f"noise floor {self.noise_floor:.1e}: relative change of values by padding and batch mates")
        lines.append("")
        width = max((len(f.check) for f in self.findings), default=0)
        for f in self.findings:
            numbers = "" if f.measured is None else f"{f.measured:8.1e}"
            numbers += "" if f.measured is None or f.allowed is None else f" <= {f.allowed:.1e}"
            lines.append(f"{f.status:<14}  {f.check:<{width}}  {numbers:<20}  {f.detail}".rstrip())
        lines += ["", "all checks passed" if self.ok else f"failed: {'; '.join(self.failed)}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, border=0, na_rep="", float_format="{:.2g}".format)
        return f"<p>{html.escape(str(self).splitlines()[1])}</p>{table}"
