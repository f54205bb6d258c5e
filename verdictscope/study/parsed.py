"""Were enough answers parsed for what follows? Reported as soon as they are written, with what to change."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from verdictscope.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

UNREAD = "unread"
"""The cell of rollouts whose outcome could not be parsed."""
FEW = 0.5
"""Share of parsed answers below which a run warns when it has written them."""


def parsed_counts(what: str, labels: pd.DataFrame) -> str:
    """How many answers were parsed, why the rest were not, and what to do.

    Args:
        what: whose answers.
        labels: rows with ``cell`` and ``cut_off``.
    """
    lost = labels[labels["cell"].eq(UNREAD)]
    cut = {where: int(lost["cut_off"].eq(where).sum()) for where in ("thinking", "answer")}
    why = [f"{n:,} cut off in {'the ' * (where == 'answer')}{where}" for where, n in cut.items() if n]
    if rest := len(lost) - sum(cut.values()):
        why.append(f"{rest:,} unparsed for another reason, see rollouts.parquet")
    line = f"{what}: {len(labels) - len(lost):,} of {len(labels):,} answers could be parsed"
    line += f" ({', '.join(why)})" if why else ""
    return f"{line}: raise sampling.max_new_tokens" if any(cut.values()) else line


def warn(labels: pd.DataFrame) -> None:
    """Warn on standard error where most answers of a variant could not be parsed; its rollouts are kept."""
    for variant, own in labels.groupby("variant", sort=False):
        if own["cell"].ne(UNREAD).mean() < FEW:
            print(f"verdictscope: {parsed_counts(str(variant), own)}", file=sys.stderr)


def need_answers(base: pd.DataFrame, wording: Mapping[str, str]) -> None:
    """Refuse to go on where a probe could not be fitted: before hidden states are read, which takes longest.

    Args:
        base: labels of the model under study, with ``part``, ``outcome``, ``cell`` and ``cut_off``.
        wording: nouns of the task, with ``yes`` and ``no``.

    Raises:
        InputError: one of the splits lacks an outcome.
    """
    for part in ("train", "validation", "test"):
        found = set(base.loc[base["part"] == part, "outcome"].dropna().astype(bool))
        for outcome, word in ((True, wording["yes"]), (False, wording["no"])):
            if outcome not in found:
                raise InputError(
                    f"no {word} rollout in the {part} split, so no probe can be fitted. "
                    f"{parsed_counts('base', base)}; or add prompts or samples"
                )


def need_verdicts(table: pd.DataFrame) -> None:
    """Refuse to go on without a verdict to compare.

    Args:
        table: verdicts, with variant, thinking, condition, status and probability.

    Raises:
        InputError: under one condition not one verdict was parsed.
    """
    for (variant, thinking, condition), own in table.groupby(["variant", "thinking", "condition"], sort=False):
        if own["probability"].notna().any():
            continue
        why = ", ".join(f"{n:,} {status}" for status, n in own["status"].value_counts().items())
        cut = own["status"].eq("truncated").any()
        advice = "raise sampling.max_new_tokens" if cut else "see `said` in verdicts.parquet, and the format"
        where = f"{variant}, {condition}, thinking {thinking}"
        raise InputError(f"{where}: 0 of {len(own):,} verdicts could be parsed ({why}): {advice}")
