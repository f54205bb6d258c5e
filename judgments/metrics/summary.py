"""All metrics of a table of verdicts or of a recorded log: one tidy table, counts of everything left out, warnings."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.agreement import agreement_measures
from verdictscope.judgments.metrics.bias import order_measures, repeat_measures
from verdictscope.judgments.metrics.calibration import calibration_measures, reliability
from verdictscope.judgments.metrics.cues import cue_table
from verdictscope.judgments.metrics.logs.log import Log, View
from verdictscope.judgments.metrics.logs.own import from_table
from verdictscope.judgments.metrics.logs.read import read_log
from verdictscope.judgments.metrics.measure import COLUMNS, Measure, measured, share
from verdictscope.judgments.metrics.panel import combine_judges, majority_vote, panel_measures, votes_of
from verdictscope.judgments.metrics.ranking import candidate_measures
from verdictscope.judgments.verdicts import known, paired, same
from verdictscope.stats import RESAMPLES
from verdictscope.values import whole_number

if TYPE_CHECKING:
    from verdictscope.figures import Display

PANEL, MAJORITY, COMBINED = "(panel)", "(majority)", "(combined)"
"""Names in the column ``judge`` for all judges together: their agreement, their majority, their label-free
combination."""

CALIBRATION = ("judge", "part", "bin", "low", "high", "n", "confidence", "accuracy", "accuracy_low", "accuracy_high")


@dataclass(frozen=True, eq=False, repr=False)
class JudgeMetrics:
    """Metrics of agreement, bias and calibration.

    Attributes:
        table: a row per judge, part and metric, see docs/formats.md.
        counts: rows, items, verdicts, and problems and statuses by kind.
        problems: every row of the log that was left out or repaired, with the reason.
        calibration: confidence against accuracy by bin; empty where no verdict has a probability.
        warnings: what the numbers do not show.
        settings: format, resamples, seed.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"item": ["q1", "q2"], "verdict": ["A", "B"], "label": ["A", "A"]})
        >>> verdict_metrics(table, resamples=50)
        JudgeMetrics(2 rows, 2 items, 2 verdicts (all read); no problem rows)
    """

    table: pd.DataFrame
    counts: dict[str, Any]
    problems: pd.DataFrame
    calibration: pd.DataFrame
    warnings: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """The tidy table."""
        return self.table.copy()

    def value(self, name: str, judge: str | None = None, part: str | None = None) -> float:
        """One estimate.

        Args:
            name: of the metric.
            judge: whose; the only one by default.
            part: of which part; the first that has the metric by default.

        Raises:
            InputError: there is none, or it needs to be said whose.
        """
        rows = self.table[self.table["name"] == name]
        for column, wanted in (("judge", judge), ("part", part)):
            rows = rows if wanted is None else rows[rows[column] == wanted]
        if rows.empty:
            raise InputError(f"no metric {name!r} of judge {judge!r}, part {part!r}: see to_frame()")
        rows = rows[rows["part"] == rows["part"].iloc[0]]
        if len(rows) > 1:
            raise InputError(f"{name!r} exists for {len(rows)} judges: name one of {', '.join(rows['judge'])}")
        return float(rows["estimate"].iloc[0])

    def plot(self, part: str | None = None) -> Display:
        """Agreement with the labels by judge; see also :meth:`plot_calibration`."""
        from verdictscope.figures import agreement

        return agreement(self.table, part=part)

    def plot_calibration(self, part: str | None = None) -> Display:
        """The reliability diagram."""
        from verdictscope.figures import reliability

        return reliability(self.calibration, self.table, part=part)

    def to_dict(self) -> dict[str, Any]:
        """Everything as one object, for JSON; numbers that are not finite become null."""
        from verdictscope.provenance import finite

        made = {
            "format": 1,
            **self.settings,
            **self.counts,
            "judges": list(dict.fromkeys(self.table["judge"])),
            "parts": list(dict.fromkeys(self.table["part"])),
            "warnings": list(self.warnings),
            "problem_rows": self.problems.to_dict("records"),
            "figures": self.table.to_dict("records"),
            "calibration": self.calibration.to_dict("records"),
        }
        found: dict[str, Any] = finite(made)
        return found

    def __repr__(self) -> str:
        return f"JudgeMetrics({summary_line(self.counts)})"

    def _repr_html_(self) -> str:
        shown = self.table.drop(columns=["definition"]).round(4).to_html(index=False, border=0)
        notes = "".join(f"<li>{html.escape(w)}</li>" for w in self.warnings)
        return f"<p>{html.escape(summary_line(self.counts))}</p>{shown}<ul>{notes}</ul>"


def summary_line(counts: dict[str, Any]) -> str:
    """Rows, verdicts and problems in one line."""
    problems = ", ".join(f"{n} {kind}" for kind, n in counts["problems"].items() if n) or "no problem rows"
    unread = ", ".join(f"{n} {status}" for status, n in counts["status"].items() if status != "ok") or "all read"
    return f"{counts['rows']} rows, {counts['items']} items, {counts['verdicts']} verdicts ({unread}); {problems}"


def log_metrics(
    path: str | Path,
    format: str | None = None,
    *,
    labels: str | Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> JudgeMetrics:
    """Metrics of a recorded log.

    Args:
        path: the log, or a folder that ``judge run`` (:func:`judge` with ``path``) wrote.
        format: its format, see :data:`verdictscope.judgments.LOG_FORMATS`; by default ``verdicts``, this package's own.
        labels: a second file with labels (PandaLM).
        resamples: bootstrap resamples behind each interval.
        seed: of the draws.

    Raises:
        InputError: the file cannot be read in this format.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("log.csv").write_text("item,verdict,label\\nq1,A,A\\nq2,B,A\\n")
        >>> log_metrics("log.csv", resamples=50).value("accuracy")
        0.5
    """
    whole_number(resamples, "resamples"), whole_number(seed, "seed")
    log = read_log(path, format, labels)
    return _metrics(log, {"log": log.name, "file": str(path), "resamples": resamples, "seed": seed})


def verdict_metrics(
    table: pd.DataFrame,
    *,
    categories: Sequence[str] | None = None,
    positive: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> JudgeMetrics:
    """Metrics of a table of verdicts (docs/formats.md), such as judges of this package give.

    Args:
        table: verdicts; ``part`` may name parts.
        categories: labels there can be; by default A, B and tie where rows have an order, else those that occur.
        positive: of two categories, the one counted as positive.
        resamples: bootstrap resamples behind each interval.
        seed: of the draws.

    Raises:
        InputError: a column is missing, a verdict occurs twice, or a verdict or label is not one of the
            categories, by its row; no verdict is ever a label (``a`` for ``A``).

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"item": ["q1", "q2"], "verdict": ["A", "B"], "label": ["A", "A"]})
        >>> verdict_metrics(table, resamples=50).value("accuracy")
        0.5
    """
    whole_number(resamples, "resamples"), whole_number(seed, "seed")
    log = from_table(table, categories, positive)
    return _metrics(log, {"log": "verdicts", "resamples": resamples, "seed": seed})


def _metrics(log: Log, settings: dict[str, Any]) -> JudgeMetrics:
    how = {"resamples": settings["resamples"], "seed": settings["seed"]}
    tables, bins, warnings = [], [], list(log.warnings)
    for view in log.views:
        for judge, rows in _judges(view, warnings):
            tables.append(framed(view.part, judge, _metrics_of(view, rows, how)))
            bins.append(_bins(view, judge, rows))
        if len(view.panel) > 1:
            votes = votes_of(view.table[view.table["judge"].isin(view.panel)])
            about = (
                view.table.drop_duplicates(["item", "order", "run"])
                .set_index(["item", "order", "run"])
                .loc[votes.index]
            )
            measures: list[Measure] = panel_measures(votes, view.categories)
            tables.append(framed(view.part, PANEL, measured(measures, about["group"], **how)))
    calibration = pd.concat([b for b in bins if len(b)] or [pd.DataFrame(columns=list(CALIBRATION))])
    verdicts = log.verdicts
    counts = {
        "rows": log.rows,
        "items": int(verdicts["item"].nunique()),
        "groups": int(verdicts["group"].nunique()),
        "verdicts": len(verdicts),
        "problems": log.counts,
        "status": {str(k): int(v) for k, v in verdicts["status"].value_counts().items()},
    }
    table = pd.concat(tables, ignore_index=True)
    return JudgeMetrics(
        table, counts, log.problems, calibration.reset_index(drop=True), tuple(dict.fromkeys(warnings)), settings
    )


def framed(part: str, judge: str, metrics: pd.DataFrame) -> pd.DataFrame:
    """Metrics with their judge and part in front."""
    metrics = metrics[list(COLUMNS)].copy()
    metrics.insert(0, "part", part)
    metrics.insert(0, "judge", judge)
    return metrics


def _judges(view: View, warnings: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """Every judge's verdicts, and those of their majority and combination; none of a view that is a panel alone."""
    if view.kind == "panel":
        return []
    table = view.table.sort_values(["judge", "item", "order", "run"], kind="stable")
    found = [(j, table[table["judge"] == j]) for j in dict.fromkeys(view.table["judge"])]
    if view.together:
        votes = votes_of(table[table["judge"].isin(view.panel)])
        found.append((MAJORITY, _together(table, votes, majority_vote(votes))))
        if view.positive is not None:
            found += _combination(view, table, votes, warnings)
    return found


def _together(
    table: pd.DataFrame, votes: pd.DataFrame, said: ndarray, probability: ndarray | None = None
) -> pd.DataFrame:
    """Verdicts of all judges together as a judge's own."""
    about = table.drop_duplicates(["item", "order", "run"]).set_index(["item", "order", "run"]).loc[votes.index]
    made = about.reset_index().assign(verdict=pd.Series(said, dtype=object), judge=MAJORITY)
    return made.assign(probability=np.nan if probability is None else probability)


def _combination(
    view: View, table: pd.DataFrame, votes: pd.DataFrame, warnings: list[str]
) -> list[tuple[str, pd.DataFrame]]:
    scores = (votes == view.positive).astype(float).where(votes.notna())
    try:
        found = combine_judges(scores)
    except InputError as error:
        warnings.append(f"{view.part}: no label-free combination: {error}")
        return []
    negative = next(c for c in view.categories if c != view.positive)
    posterior = found.posterior
    said = np.array(
        [None if not np.isfinite(p) else view.positive if p >= 0.5 else negative for p in posterior], dtype=object
    )
    sure = np.maximum(posterior, 1 - posterior)
    dropped = found.judges[~found.judges["kept"]]
    dropped_why = "; ".join(f"{j} {why}" for j, why in zip(dropped["judge"], dropped["reason"], strict=True))
    warnings += [f"{view.part}, {COMBINED}: {w}" for w in found.warnings]
    if dropped_why:
        warnings.append(f"{view.part}, {COMBINED} leaves out {dropped_why}")
    return [(COMBINED, _together(table, votes, said, sure))]


def _metrics_of(view: View, rows: pd.DataFrame, how: dict[str, int]) -> pd.DataFrame:
    if view.kind == "cue":
        return cue_table(rows, how)
    floor, prompts = repeat_measures(rows)
    parts = [measured(floor, prompts, **how)]
    if view.kind == "pairs":
        pairs = paired(rows)
        parts.append(measured(order_measures(pairs, verdicts=view.categories), pairs.group, **how))
    verdict, label = (rows[c].to_numpy(dtype=object) for c in ("verdict", "label"))
    made = agreement_measures(verdict, label, view.categories, positive=view.positive)
    read, right = known(verdict), same(verdict, label)
    made += [share(f"says_{c}", verdict == c, read, f"share of {c} among the verdicts read") for c in view.categories]
    made += calibration_measures(rows["probability"].to_numpy(dtype=float), right, read & known(label))
    if "candidate" in rows and rows["candidate"].nunique() > 2 and view.positive is not None:
        made += candidate_measures(verdict, label, rows["candidate"].to_numpy(dtype=object), view.positive)
    parts.append(measured(made, rows["group"], **how))
    return pd.concat(parts, ignore_index=True)


def _bins(view: View, judge: str, rows: pd.DataFrame) -> pd.DataFrame:
    label, verdict = (rows[c].to_numpy(dtype=object) for c in ("label", "verdict"))
    confidence = rows["probability"].to_numpy(dtype=float)
    used = known(label) & known(verdict) & np.isfinite(confidence)
    if not used.any() or view.kind == "cue":
        return pd.DataFrame(columns=list(CALIBRATION))
    found = reliability(confidence[used], same(verdict, label)[used])
    found.insert(0, "part", view.part)
    found.insert(0, "judge", judge)
    return found
