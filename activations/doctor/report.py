"""What the doctor says: one line a check, and what follows from all of them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

Status = Literal["supported", "degraded", "unsupported", "silently wrong", "error"]
STATUSES: dict[str, str] = {
    "supported": "holds, to the tolerance given",
    "degraded": "works, with a loss that is named",
    "unsupported": "not there in this model or not possible here; asking for it is a clear error",
    "silently wrong": "numbers come out that are not what they are called",
    "error": "the check itself could not be finished",
}
"""What each status means."""


SITE_MAP = "site map"
"""The check without which there are no others: where the sites are."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        check: what was checked.
        status: one of :data:`STATUSES`.
        measured: the number that decided, relative unless the detail says otherwise; ``None`` where there is none.
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
        return not self.not_well

    @property
    def not_well(self) -> list[str]:
        """Names of the checks that speak against reading this model."""
        bad = [f for f in self.findings if f.status in ("silently wrong", "error")]
        bad += [f for f in self.findings if f.check == SITE_MAP and f.status == "unsupported"]
        return [f.check for f in bad]

    @property
    def worst_identity(self) -> float:
        """The largest measured error among the checks that are identities of the forward pass."""
        return max((f.measured or 0.0 for f in self.findings if f.check.startswith("identity")), default=math.nan)

    def status(self, check: str) -> str:
        """Status of the first check whose name begins like this.

        Raises:
            KeyError: there was no such check.
        """
        for finding in self.findings:
            if finding.check.startswith(check):
                return finding.status
        raise KeyError(check)

    def to_frame(self) -> pd.DataFrame:
        """One line a check."""
        return pd.DataFrame([asdict(f) for f in self.findings])

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        counts = {s: sum(f.status == s for f in self.findings) for s in STATUSES}
        return {
            "model": self.model,
            "architecture": self.architecture,
            "dtype": self.dtype,
            "device": self.device,
            "attention": self.attention,
            "noise_floor": _finite(self.noise_floor),
            "ok": self.ok,
            "counts": counts,
            "checks": [_json(f) for f in self.findings],
        }

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.architecture}, {self.dtype} on {self.device}, {self.attention} attention"]
        if self.noise_floor is not None:
            lines.append(f"noise floor {self.noise_floor:.1e}: what padding and batch mates change, relative")
        lines.append("")
        width = max((len(f.check) for f in self.findings), default=0)
        for f in self.findings:
            lines.append(f"{f.status:<14}  {f.check:<{width}}  {_numbers(f)}  {f.detail}".rstrip())
        lines += ["", "all well" if self.ok else f"not well: {'; '.join(self.not_well)}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{c}</th>" for c in ("status", "check", "measured", "allowed", "layer", ""))
        title = html.escape(str(self).splitlines()[0])
        return f"<p>{title}</p><table><tr>{head}</tr>{''.join(_row(f) for f in self.findings)}</table>"


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None


def _json(finding: Finding) -> dict[str, Any]:
    return asdict(finding) | {"measured": _finite(finding.measured), "allowed": _finite(finding.allowed)}


def _numbers(f: Finding) -> str:
    if f.measured is None:
        return " " * 20
    allowed = "" if f.allowed is None else f"<= {f.allowed:.1e}"
    return f"{f.measured:8.1e} {allowed:<11}"


def _row(f: Finding) -> str:
    numbers = ["" if x is None else f"{x:.2g}" for x in (f.measured, f.allowed)]
    layer = "" if f.layer is None else str(f.layer)
    cells: Sequence[str] = (f.status, f.check, *numbers, layer, f.detail)
    return "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>"
