"""The room ``activations``: a model and its rollouts become hidden states, on disk or scored on the fly."""

if __name__ != "verdictscope.activations":
    raise ImportError("import this room as verdictscope.activations: the bare folder name is not a package")

from .collect import collect
from .forward import Pass, forward, passes
from .hooks import BatchView, Tap, hooked, reading, writing
from .identities import Check
from .model import Model, load, wrap
from .plan import BatchPlan
from .positions import resolve
from .readouts import LinearReadout, LogOddsReadout, Readout
from .sitemap import SiteMap
from .sites import SITES, Read, Site
from .store import Store
from .weights import (
    FinalNorm,
    Unembedding,
    apply_final_norm,
    final_norm,
    head_output_bias,
    head_output_weight,
    logit_difference,
    unembedding,
)

__all__ = [
    "SITES",
    "BatchPlan",
    "BatchView",
    "Check",
    "FinalNorm",
    "LinearReadout",
    "LogOddsReadout",
    "Model",
    "Pass",
    "Read",
    "Readout",
    "Site",
    "SiteMap",
    "Store",
    "Tap",
    "Unembedding",
    "apply_final_norm",
    "collect",
    "final_norm",
    "forward",
    "head_output_bias",
    "head_output_weight",
    "hooked",
    "load",
    "logit_difference",
    "passes",
    "reading",
    "resolve",
    "unembedding",
    "wrap",
    "writing",
]
