"""The room ``activations``: a model and its rollouts become hidden states, on disk or scored on the fly."""

if __name__ != "verdictscope.activations":
    raise ImportError("import this room as verdictscope.activations: the bare folder name is not a package")

from verdictscope.activations.capture import Check
from verdictscope.activations.collect import collect
from verdictscope.activations.doctor import check_model
from verdictscope.activations.forward import Pass, forward, passes
from verdictscope.activations.hooks import BatchView, Tap, hooked, reading, writing
from verdictscope.activations.loading import load_model, wrap
from verdictscope.activations.model import Model
from verdictscope.activations.moments import MomentFitter, Moments, moments_of
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.positions import resolve
from verdictscope.activations.readouts import LinearReadout, LogOddsReadout, Readout
from verdictscope.activations.readouts import from_dict as readout_from_dict
from verdictscope.activations.regex_positions import explicit
from verdictscope.activations.reward import reward_readout
from verdictscope.activations.select import Selected, reader
from verdictscope.activations.sitemap import SiteMap
from verdictscope.activations.sites import SITES, Read, Site
from verdictscope.activations.states import States
from verdictscope.activations.store import Store
from verdictscope.activations.weights import (
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
    "MomentFitter",
    "Moments",
    "Pass",
    "Read",
    "Readout",
    "Selected",
    "Site",
    "SiteMap",
    "States",
    "Store",
    "Tap",
    "Unembedding",
    "apply_final_norm",
    "check_model",
    "collect",
    "explicit",
    "final_norm",
    "forward",
    "head_output_bias",
    "head_output_weight",
    "hooked",
    "load_model",
    "logit_difference",
    "moments_of",
    "passes",
    "reader",
    "reading",
    "readout_from_dict",
    "resolve",
    "reward_readout",
    "unembedding",
    "wrap",
    "writing",
]
