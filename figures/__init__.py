"""The room ``figures``: a tidy table becomes one figure, and a caption that says what the figure does not show."""

if __name__ != "verdictscope.figures":
    raise ImportError("import this room as verdictscope.figures: the bare folder name is not a package")

from verdictscope.figures.ablation import ablation_caption, ablation_figure
from verdictscope.figures.agreement import agreement_caption, agreement_figure
from verdictscope.figures.attribution import attribution_caption, attribution_figure
from verdictscope.figures.bias_detector import bias_detector_caption, bias_detector_figure
from verdictscope.figures.bias_map import bias_map_caption, bias_map_figure
from verdictscope.figures.bias_parts import bias_parts_caption, bias_parts_figure
from verdictscope.figures.correctness import correctness_caption, correctness_figure
from verdictscope.figures.debate import debate_caption, debate_figure
from verdictscope.figures.erasure import erased_trace_caption, erased_trace_figure, erasure_figure
from verdictscope.figures.forced_lengths import forced_lengths_caption, forced_lengths_figure
from verdictscope.figures.head_card import head_card_caption, head_card_figure
from verdictscope.figures.head_map import head_map_caption, head_map_figure
from verdictscope.figures.layer_position import probe_map_caption, probe_map_figure
from verdictscope.figures.mitigations import mitigation_caption, mitigation_figure
from verdictscope.figures.protocol import protocol_figure
from verdictscope.figures.reliability import reliability_caption, reliability_figure
from verdictscope.figures.span_parts import span_caption, span_figure
from verdictscope.figures.style import save
from verdictscope.figures.token_view import TokenView, token_view
from verdictscope.figures.token_view import csp as token_view_csp
from verdictscope.figures.trace import closing_tokens, trace_caption, trace_figure
from verdictscope.figures.transfer import transfer_caption, transfer_figure
from verdictscope.figures.verdict_probe import verdict_probe_caption, verdict_probe_figure
from verdictscope.figures.verdict_trace import verdict_trace_caption, verdict_trace_figure

__all__ = [
    "TokenView",
    "ablation_caption",
    "ablation_figure",
    "agreement_caption",
    "agreement_figure",
    "attribution_caption",
    "attribution_figure",
    "bias_parts_caption",
    "bias_parts_figure",
    "bias_map_caption",
    "bias_map_figure",
    "bias_detector_caption",
    "bias_detector_figure",
    "closing_tokens",
    "debate_caption",
    "debate_figure",
    "correctness_caption",
    "correctness_figure",
    "erased_trace_caption",
    "erased_trace_figure",
    "erasure_figure",
    "forced_lengths_caption",
    "forced_lengths_figure",
    "head_card_caption",
    "head_card_figure",
    "head_map_caption",
    "head_map_figure",
    "mitigation_caption",
    "mitigation_figure",
    "probe_map_caption",
    "probe_map_figure",
    "protocol_figure",
    "reliability_caption",
    "reliability_figure",
    "save",
    "span_caption",
    "span_figure",
    "token_view",
    "token_view_csp",
    "trace_caption",
    "trace_figure",
    "transfer_caption",
    "transfer_figure",
    "verdict_trace_caption",
    "verdict_trace_figure",
    "verdict_probe_caption",
    "verdict_probe_figure",
]
