"""The room ``activations``: a model and its rollouts become hidden states, in memory, on disk or scored on the fly."""

if __name__ != "verdictscope.activations":
    raise ImportError("import this room as verdictscope.activations: the bare folder name is not a package")

from verdictscope.activations.collect import collect
from verdictscope.activations.doctor import check_model
from verdictscope.activations.forward import Pass, forward
from verdictscope.activations.hooks import reading, writing
from verdictscope.activations.loading import load_model, wrap
from verdictscope.activations.model import Model
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.readouts import LinearReadout, LogOddsReadout, Readout, readout_from_dict
from verdictscope.activations.reward import reward_readout
from verdictscope.activations.select import reader
from verdictscope.activations.sites import Read, Site
from verdictscope.activations.states import States
from verdictscope.activations.store import Store
from verdictscope.activations.views import BatchView
from verdictscope.activations.weights import logit_difference

__all__ = [
    "BatchPlan",
    "BatchView",
    "LinearReadout",
    "LogOddsReadout",
    "Model",
    "Pass",
    "Read",
    "Readout",
    "Site",
    "States",
    "Store",
    "check_model",
    "collect",
    "forward",
    "load_model",
    "logit_difference",
    "reader",
    "reading",
    "readout_from_dict",
    "reward_readout",
    "wrap",
    "writing",
]
