"""The kinds of question a study can ask. A task says what differs between them; the stages are the same for all.

A new task is one file: subclass :class:`Task` (or :class:`verdictscope.study.tasks.outcome.OutcomeTask` where each
rollout has one of two outcomes) and :func:`register` an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from verdictscope.errors import InputError
from verdictscope.study.schema import Data, Study

if TYPE_CHECKING:
    from numpy import ndarray

    from verdictscope.activations import LogOddsReadout, Model, Readout
    from verdictscope.judgments import Contrast
    from verdictscope.rollouts import Rollout
    from verdictscope.study.folder import RunFolder

STAGES = (
    "generate",
    "collect",
    "probe",
    "transfer",
    "trace",
    "erase",
    "heads",
    "ablate",
    "mitigate",
    "tokens",
    "results",
    "figures",
    "report",
)
"""Every stage, in order; a task may lack some."""

SHIPPED = {"refusal": "verdictscope.study.tasks.refusal", "judge": "verdictscope.study.tasks.judge"}
"""Tasks of this package, and the modules that register them."""

_REGISTERED: dict[str, Task] = {}


class Task:
    """One kind of question.

    Attributes:
        name: what ``task`` in ``study.toml`` says.
        data: its own sections of ``study.toml``.
        stages: which of :data:`STAGES` it has.
        computed_by: ``module:function`` of stages that compute something else than ``stages/NAME.py`` does.
        wording: nouns for reports: ``yes`` and ``no`` (the outcomes), ``unit`` (what is shown), ``target`` and
            ``control`` (the two sets of them).
        sublayers: sites that are ablated whole too, by split.
        signs: signs of the contrasts, where they are known beforehand; by default those of the explore split.
        read_at: the position at which the decision is read.
    """

    name: ClassVar[str]
    data: ClassVar[type[Data]]
    stages: ClassVar[tuple[str, ...]] = STAGES
    computed_by: ClassVar[Mapping[str, str]] = {}
    wording: ClassVar[Mapping[str, str]] = {}
    sublayers: ClassVar[Mapping[str, tuple[str, ...]]] = {"explore": (), "report": ("attn_out", "mlp_out")}
    signs: Mapping[str, float] | None = None
    read_at: ClassVar[str] = "before_answer"

    def files(self, study: Study) -> list[str]:
        """Files outside the run folder that the study's prompts or items come from, as the study names them."""
        raise NotImplementedError

    def source(self, study: Study) -> Any:
        """The prompts or items of a study, read and checked."""
        raise NotImplementedError

    def decision(self, model: Model, study: Study) -> Readout:
        """The readout of the decision under study: log-odds of the two outcomes."""
        raise NotImplementedError

    def contrasts(self, run: RunFolder, variant: str, thinking: str) -> dict[str, Contrast]:
        """The contrasts over a variant's rollouts, by name."""
        raise NotImplementedError

    def swept(self, study: Study) -> list[str]:
        """Variants whose heads are swept."""
        return ["base"]

    def positions(self, study: Study) -> str:
        """Where components are ablated in the sweep."""
        return "all"

    def random_sets(self, study: Study) -> int:
        """How many random sets the selected heads are compared with."""
        return study.ablation.random_sets

    def decision_at(self, decision: LogOddsReadout) -> Readout:
        """The decision as the sweeps read it."""
        return decision

    def decided(
        self, run: RunFolder, variant: str, split: str, *, every: bool = False, thinking: str = "off"
    ) -> tuple[list[Rollout], dict[str, Contrast]]:
        """Rollouts of the ``explore`` split (train and validation) or the ``report`` split (test), up to the decision,
        as many as the sweep takes or ``every`` one, and the contrasts over them."""
        raise NotImplementedError

    def linear_readouts(self, run: RunFolder, variant: str) -> dict[str, tuple[Readout, str]]:
        """Readouts that are attributed to components, by name, and the position at which each is read."""
        raise NotImplementedError

    def rates(
        self, contrasts: Mapping[str, Contrast], values: ndarray, rollouts: Sequence[str]
    ) -> dict[str, tuple[ndarray, tuple[str, ...]]]:
        """Rates that follow from decisions ``[line rollout]``, by name: per line and item, and the items' groups."""
        return {}

    def stage(self, name: str) -> Callable[[RunFolder], None]:
        """What does a stage of this task."""
        module, _, function = self.computed_by.get(name, f"verdictscope.study.stages.{name}:run_{name}").partition(":")
        return getattr(import_module(module), function)  # type: ignore[no-any-return]


def register(task: Task) -> Task:
    """Make a task known by its name."""
    _REGISTERED[task.name] = task
    return task


def task_named(name: str) -> Task:
    """A registered task.

    Raises:
        InputError: there is none of this name.
    """
    if name in SHIPPED:
        import_module(SHIPPED[name])
    if name not in _REGISTERED:
        known = ", ".join(dict.fromkeys([*SHIPPED, *_REGISTERED]))
        raise InputError(f"task {name!r} is none of {known}")
    return _REGISTERED[name]


def task_of(study: Study) -> Task:
    """The task of a study."""
    return task_named(study.task)


def stages_of(study: Study) -> tuple[str, ...]:
    """The stages of a study, in order."""
    own = task_of(study).stages
    return tuple(name for name in STAGES if name in own)
