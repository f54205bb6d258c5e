"""The room ``figures``: a tidy table becomes one figure with its caption."""

if __name__ != "verdictscope.figures":
    raise ImportError("import this room as verdictscope.figures: the bare folder name is not a package")

from verdictscope.figures.ablation import ablation
from verdictscope.figures.agreement import agreement
from verdictscope.figures.attribution import attribution
from verdictscope.figures.bias_detector import bias_detector
from verdictscope.figures.bias_parts import contrasts
from verdictscope.figures.correctness import correctness
from verdictscope.figures.debate import debate
from verdictscope.figures.erasure import erasure
from verdictscope.figures.forced_lengths import forced_lengths
from verdictscope.figures.head_card import head_card
from verdictscope.figures.head_map import head_map
from verdictscope.figures.layer_position import probe_map
from verdictscope.figures.mitigations import mitigations
from verdictscope.figures.protocol import probe_test
from verdictscope.figures.reliability import reliability
from verdictscope.figures.span_parts import spans
from verdictscope.figures.style import Display
from verdictscope.figures.token_view import TokenView, token_view
from verdictscope.figures.trace import closing_tokens, trace
from verdictscope.figures.transfer import transfer
from verdictscope.figures.verdict_probe import verdict_probe
from verdictscope.figures.verdict_trace import verdict_trace

__all__ = [
    "Display",
    "TokenView",
    "ablation",
    "agreement",
    "attribution",
    "bias_detector",
    "closing_tokens",
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
