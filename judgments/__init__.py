"""The room ``judgments``: answers become verdicts, label strings become readouts."""

if __name__ != "verdictscope.judgments":
    raise ImportError("import this room as verdictscope.judgments: the bare folder name is not a package")

from verdictscope.judgments.asking import Asked, Insertion, ask, rendered
from verdictscope.judgments.contrasts import (
    CONTENT,
    Contrast,
    cue_contrast,
    mean_contrast,
    order_contrasts,
    split_orders,
)
from verdictscope.judgments.cues import Cue, cue_study, make_cue, make_cues
from verdictscope.judgments.formats import Format, Label, Parsed, known_formats, load_format
from verdictscope.judgments.guard import FORMATS, Guard, GuardFormat
from verdictscope.judgments.items import AnswerItem, ChoiceItem, DebateItem, Item, PairItem, Step, Turn
from verdictscope.judgments.judging import Judged, JudgeSettings, judge, load_judged
from verdictscope.judgments.labels import Encoded, at_first_difference, encode_labels, label_logprobs, verdict_readout
from verdictscope.judgments.measure import Measure, contrast, measured, share
from verdictscope.judgments.metrics.agreement import cohen_kappa, leniency, scott_pi
from verdictscope.judgments.metrics.bias import (
    Cued,
    cue_measures,
    denoised,
    flip_noise,
    order_measures,
    repeat_measures,
)
from verdictscope.judgments.metrics.calibration import expected_calibration_error, reliability, risk_coverage_area
from verdictscope.judgments.metrics.consistency import (
    Triples,
    conflict_ratio,
    non_transitivity,
    relation_of_orders,
    relation_of_scores,
)
from verdictscope.judgments.metrics.cue_metrics import cue_metrics
from verdictscope.judgments.metrics.logs import LOG_FORMATS, Log, read_log
from verdictscope.judgments.metrics.panel import (
    Combined,
    combine_judges,
    conjunction,
    fleiss_kappa,
    majority_vote,
    pairwise_kappa,
    vote_shares,
    votes_of,
)
from verdictscope.judgments.metrics.ranking import (
    Ranking,
    corrected_levels,
    corrected_share,
    identifiability,
    rank_candidates,
)
from verdictscope.judgments.metrics.shared import SharedThinking, shared_thinking
from verdictscope.judgments.metrics.summary import JudgeMetrics, log_metrics, verdict_metrics
from verdictscope.judgments.preference import pair_conditioned, reward_preference, sequence_preference
from verdictscope.judgments.readers import READERS, Reader, Reading, known_readers, read_items
from verdictscope.judgments.readouts import (
    answer_context,
    encode_label,
    first_tokens,
    readout_from_rollouts,
    refusal_readout,
)
from verdictscope.judgments.refusal import OPENINGS, label_rollouts, refusal_opening, refused
from verdictscope.judgments.scores import (
    distribution_sensitive,
    expected_score,
    less_perplexed,
    likelihood_aware,
    probabilities,
    verdict_probabilities,
)
from verdictscope.judgments.solving import idealised_ranking, ranking_accuracy, solve_to_judge
from verdictscope.judgments.spans import SPANS, by_side, token_spans, user_spans
from verdictscope.judgments.verdicts import VERDICT_COLUMNS, check_verdicts, paired

__all__ = [
    "CONTENT",
    "Contrast",
    "cue_contrast",
    "mean_contrast",
    "order_contrasts",
    "split_orders",
    "FORMATS",
    "LOG_FORMATS",
    "OPENINGS",
    "READERS",
    "SPANS",
    "VERDICT_COLUMNS",
    "AnswerItem",
    "Asked",
    "ChoiceItem",
    "Combined",
    "Cue",
    "Cued",
    "DebateItem",
    "Encoded",
    "Format",
    "Guard",
    "GuardFormat",
    "Insertion",
    "Item",
    "JudgeMetrics",
    "JudgeSettings",
    "Judged",
    "Label",
    "Log",
    "Measure",
    "PairItem",
    "Parsed",
    "Ranking",
    "Reader",
    "Reading",
    "SharedThinking",
    "Step",
    "Triples",
    "Turn",
    "answer_context",
    "ask",
    "at_first_difference",
    "by_side",
    "check_verdicts",
    "cohen_kappa",
    "combine_judges",
    "conflict_ratio",
    "conjunction",
    "contrast",
    "corrected_levels",
    "corrected_share",
    "cue_measures",
    "cue_metrics",
    "cue_study",
    "denoised",
    "distribution_sensitive",
    "encode_label",
    "encode_labels",
    "expected_calibration_error",
    "expected_score",
    "first_tokens",
    "fleiss_kappa",
    "flip_noise",
    "idealised_ranking",
    "identifiability",
    "judge",
    "known_formats",
    "known_readers",
    "label_logprobs",
    "label_rollouts",
    "leniency",
    "less_perplexed",
    "likelihood_aware",
    "load_format",
    "load_judged",
    "log_metrics",
    "majority_vote",
    "make_cue",
    "make_cues",
    "measured",
    "non_transitivity",
    "order_measures",
    "pair_conditioned",
    "paired",
    "pairwise_kappa",
    "probabilities",
    "rank_candidates",
    "ranking_accuracy",
    "read_items",
    "read_log",
    "readout_from_rollouts",
    "refusal_opening",
    "refusal_readout",
    "refused",
    "relation_of_orders",
    "relation_of_scores",
    "reliability",
    "rendered",
    "repeat_measures",
    "reward_preference",
    "risk_coverage_area",
    "scott_pi",
    "sequence_preference",
    "share",
    "shared_thinking",
    "solve_to_judge",
    "token_spans",
    "user_spans",
    "verdict_metrics",
    "verdict_probabilities",
    "verdict_readout",
    "vote_shares",
    "votes_of",
]
