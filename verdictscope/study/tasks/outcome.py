"""Studies whose rollouts each have one of two outcomes: prompts in, a label for every rollout out.

Prompts vary in one factor (a request is harmful or not), and a rollout has an outcome (it refuses or complies): their
cells are what probes are balanced over and traces are averaged in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from verdictscope.errors import InputError
from verdictscope.sources import locate
from verdictscope.study.parsed import UNREAD, parsed_counts
from verdictscope.study.schema import Data, Scalar, Section, Study
from verdictscope.study.tasks import Task, task_of

if TYPE_CHECKING:
    import pandas as pd

    from verdictscope.activations import Model, Readout
    from verdictscope.judgments import Contrast
    from verdictscope.rollouts import Rollout
    from verdictscope.study.folder import RunFolder


class Prompts(Section):
    """Which requests are shown."""

    file: str | Annotated[list[str], Field(min_length=1)]
    samples: int = Field(1, ge=1)
    limit: int | None = Field(None, ge=1)
    target: dict[str, Scalar] = {"harm": True}
    control: dict[str, Scalar] = {"harm": False}

    @property
    def files(self) -> list[str]:
        """The sources, one or several."""
        return [self.file] if isinstance(self.file, str) else self.file

    @property
    def name(self) -> str:
        """The sources in words."""
        return ", ".join(self.files)


class OutcomeData(Data):
    """The sections of a study of outcomes."""

    unused: ClassVar[frozenset[str]] = frozenset({"mitigations"})

    prompts: Prompts


class OutcomeTask(Task):
    """A task whose rollouts each have one of two outcomes.

    Attributes:
        factor: the column of the prompts in which they vary, true or false.
        outcome: the column of ``labels.parquet`` that holds the outcome: true, false, or missing where unparsed.
        cells: names of the cells by (factor, outcome).
    """

    data: ClassVar[type[Data]] = OutcomeData
    stages = (
        "generate",
        "collect",
        "probe",
        "transfer",
        "trace",
        "erase",
        "heads",
        "ablate",
        "tokens",
        "results",
        "figures",
        "report",
    )
    factor: ClassVar[str]
    outcome: ClassVar[str]
    cells: ClassVar[dict[tuple[bool, bool], str]]

    def cell(self, factor: pd.Series, outcome: pd.Series) -> pd.Series:
        """The cell of each rollout; :data:`UNREAD` where the outcome is missing."""
        import pandas as pd

        cells = pd.Series(UNREAD, index=factor.index, dtype=object)
        for (of_factor, of_outcome), name in self.cells.items():
            cells[factor.eq(of_factor) & outcome.eq(of_outcome).fillna(False).astype(bool)] = name
        return cells

    def neutral(self, labels: pd.DataFrame) -> pd.DataFrame:
        """Labels with ``factor`` and ``outcome``: this task's two columns under names that are the same for all."""
        return labels.assign(factor=labels[self.factor], outcome=labels[self.outcome])

    @property
    def signs(self) -> dict[str, float]:  # type: ignore[override]
        """A component without which the outcome becomes more likely has a positive effect."""
        return {self.name: -1.0}

    def decided(
        self, run: RunFolder, variant: str, split: str, *, every: bool = False, thinking: str = "off"
    ) -> tuple[list[Rollout], dict[str, Contrast]]:
        """Target prompts without the outcome: those heads might have suppressed it in."""
        from verdictscope.judgments import mean_contrast

        labels = run.labels(variant)
        chosen = labels["target"] & labels["outcome"].eq(False) & ((labels["part"] == "test") == (split == "report"))
        most = None if every else run.study.heads.rollouts
        found = run.until_answer(labels.loc[chosen.fillna(False), "rollout"], variant, most)
        if (n := len({r.group for r in found})) < 2:
            parsed = parsed_counts(self.wording["target"], labels[labels["target"]])
            raise InputError(
                f"{n or 'no'} group of {self.wording['target']} of the {split} split {self.wording['no']}, and a test "
                f"of heads takes two. {parsed}; or add prompts to "
                "prompts.target, or take others"
            )
        return found, {self.name: mean_contrast(found, self.name)}

    def by_outcome(self, run: RunFolder) -> tuple[list[Rollout], list[Rollout]]:
        """The explore split's rollouts with and without the outcome, up to the answer."""
        labels = run.labels()
        explore = labels[labels["part"] != "test"]
        kinds = []
        for outcome in (True, False):
            chosen = explore.loc[explore["outcome"].eq(outcome).fillna(False), "rollout"]
            kinds.append(run.until_answer(chosen, most=run.study.heads.rollouts))
        return kinds[0], kinds[1]

    def linear_readouts(self, run: RunFolder, variant: str) -> dict[str, tuple[Readout, str]]:
        from verdictscope.activations import logit_difference

        linear = {"log_odds": logit_difference(run.model(variant), run.decision()), "probe": run.probe()}
        return {name: (readout, self.read_at) for name, readout in linear.items()}

    def label(self, model: Model, study: Study, rollouts: Sequence[Rollout]) -> pd.DataFrame:
        """``rollout``, the outcome's column, and ``reason`` where it is missing."""
        raise NotImplementedError

    def words(self, study: Study) -> list[str]:
        """Words that give an outcome away where they stand in a prompt."""
        raise NotImplementedError

    def files(self, study: Study) -> list[str]:
        return list(study.data.prompts.files)

    def source(self, study: Study) -> pd.DataFrame:
        """The prompt table of a study, checked for the columns the design needs.

        Raises:
            InputError: a file cannot be read, a column is missing, or no prompt is a target or a control.
        """
        from verdictscope.rollouts import load_prompts
        from verdictscope.rollouts.prompts.sets import join_prompts

        section: Prompts = study.data.prompts
        prompts = join_prompts([load_prompts(locate(file)) for file in section.files])
        needed = {self.factor, *section.target, *section.control}
        missing = sorted(needed - set(prompts.columns))
        if missing:
            raise InputError(
                f"{section.name} has no column {missing[0]!r}: the study's cells, target or control need it"
            )
        for column in study.transfer.by:
            if column not in prompts.columns:
                raise InputError(
                    f"{section.name} has no column {column!r} for transfer.by: name another, or none (by=[])"
                )
        if section.limit is not None:
            keep = prompts["group"].drop_duplicates().head(section.limit)
            prompts = prompts[prompts["group"].isin(keep)].reset_index(drop=True)
        for name, where in (("target", section.target), ("control", section.control)):
            if not matches(prompts, where).any():
                raise InputError(f"{section.name}: no prompt matches prompts.{name} {where}")
        return prompts

    def contrasts(self, run: RunFolder, variant: str, thinking: str) -> dict[str, Contrast]:
        """One contrast: every target rollout by itself, whose mean is the effect on the outcome."""
        from verdictscope.judgments import Contrast

        labels = run.labels(variant)
        asked = labels[labels["target"]]
        ids = tuple(asked["rollout"])
        single = tuple((i,) for i in ids)
        return {self.outcome: Contrast(self.outcome, ids, tuple(asked["group"]), single, ((1.0,),) * len(ids))}


def matches(table: pd.DataFrame, where: dict[str, Any]) -> pd.Series:
    """Rows whose columns equal the given values."""
    import pandas as pd

    hit = pd.Series(True, index=table.index)
    for column, value in where.items():
        # Text columns hold text only: a number in the study is compared as text there.
        text = pd.api.types.is_string_dtype(table[column]) and not isinstance(value, bool)
        hit &= table[column].eq(str(value) if text else value).fillna(False).astype(bool)
    return hit


def outcome_task(study: Study) -> OutcomeTask:
    """The task of a study of outcomes.

    Raises:
        InputError: the study is of another kind.
    """
    task = task_of(study)
    if not isinstance(task, OutcomeTask):
        raise InputError(f"{study.name} is a {task.name} study: its rollouts are not labelled one by one")
    return task
