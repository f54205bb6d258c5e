"""The task *refusal*: why does a model refuse or comply?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from verdictscope.study.schema import Section, Study
from verdictscope.study.tasks import register
from verdictscope.study.tasks.outcome import OutcomeData, OutcomeTask

if TYPE_CHECKING:
    import pandas as pd

    from verdictscope.activations import Model, Readout
    from verdictscope.rollouts import Rollout


class Labels(Section):
    """First words of refusing and of complying answers."""

    refuse: list[str] = Field(min_length=1)
    comply: list[str] = Field(min_length=1)


class RefusalData(OutcomeData):
    """The sections of a refusal study."""

    labels: Labels


class Refusal(OutcomeTask):
    """Requests are harmful or harmless; rollouts refuse or comply."""

    name = "refusal"
    data = RefusalData
    factor = "harm"
    outcome = "refused"
    cells = {
        (True, True): "harmful_refused",
        (True, False): "harmful_complied",
        (False, True): "harmless_refused",
        (False, False): "harmless_complied",
    }
    wording = {
        "yes": "refused",
        "no": "complied",
        "unit": "request",
        "target": "target requests",
        "control": "control requests",
    }

    def label(self, model: Model, study: Study, rollouts: Sequence[Rollout]) -> pd.DataFrame:
        from verdictscope.judgments import label_rollouts

        return label_rollouts(model, rollouts)[["rollout", "refused", "reason"]]

    def words(self, study: Study) -> list[str]:
        return [*study.data.labels.refuse, *study.data.labels.comply]

    def decision(self, model: Model, study: Study) -> Readout:
        from verdictscope.judgments import refusal_readout

        return refusal_readout(model, study.data.labels.refuse, study.data.labels.comply)


register(Refusal())
