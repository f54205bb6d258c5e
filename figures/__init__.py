"""The room ``figures``: a tidy table becomes one figure with its caption."""

if __name__ != "verdictscope.figures":
    raise ImportError("import this room as verdictscope.figures: the bare folder name is not a package")

from verdictscope.figures.ablation import ablation
from verdictscope.figures.auroc_maps import bias_detector, transfer
from verdictscope.figures.contrast_curves import debate, forced_lengths
from verdictscope.figures.contrasts import contrasts
from verdictscope.figures.correctness import correctness
from verdictscope.figures.erasure import erasure
from verdictscope.figures.head_card import head_card
from verdictscope.figures.head_map import attribution, head_map
from verdictscope.figures.judge_metrics import agreement, reliability
from verdictscope.figures.mitigations import mitigations
from verdictscope.figures.probe_map import probe_map
from verdictscope.figures.probe_test import probe_test, verdict_probe
from verdictscope.figures.spans import spans
from verdictscope.figures.style import Display
from verdictscope.figures.token_view import token_view
from verdictscope.figures.trace import trace
from verdictscope.figures.verdict_trace import verdict_trace

__all__ = [
    "Display",
    "ablation",
    "agreement",
    "attribution",
    "bias_detector",
    "contrasts",
    "correctness",
    "debate",
    "erasure",
    "forced_lengths",
    "head_card",
    "head_map",
    "mitigations",
    "probe_map",
    "probe_test",
    "reliability",
    "spans",
    "token_view",
    "trace",
    "transfer",
    "verdict_probe",
    "verdict_trace",
]
