"""The study of refusal: requests are shown, rollouts refuse or comply."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from verdictscope.study.schema.base import BaseStudy, Scalar, Section


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


class EngineSection(Section):
    """What writes the unedited rollouts: this process, or a server with token ids in and out."""

    url: str | None = None
    reference_url: str | None = None
    model: str | None = None
    reference_model: str | None = None
    concurrency: int = Field(16, ge=1)
    timeout: float = Field(600.0, gt=0)
    retries: int = Field(5, ge=0)


class Labels(Section):
    """First words of refusing and of complying answers."""

    refuse: list[str] = Field(min_length=1)
    comply: list[str] = Field(min_length=1)


class Collect(Section):
    """Positions whose hidden states are stored."""

    resid_post: str = "thinking:8,think_end"
    z: str = "before_answer"


class Probe(Section):
    """How the probe is fitted and doubted."""

    C: list[Annotated[float, Field(gt=0)]] = Field([0.01, 0.1, 1.0], min_length=1)
    permutations: int = Field(200, ge=50)


class Transfer(Section):
    """Where the probe is read without having been fitted there."""

    by: list[str] = []
    relabellings: int = Field(200, ge=200)


class Trace(Section):
    """How traces are drawn and cliffs measured."""

    plateau: int = Field(8, ge=1)
    window: int = Field(40, ge=1)


class Erase(Section):
    """Which concept is taken out of the states, to see whether refusing is still read."""

    concept: str = "harm"
    draws: int = Field(20, ge=19)


class Heads(Section):
    """How heads are ranked."""

    k: int = Field(3, ge=1)
    rollouts: int = Field(128, ge=1)
    delta: float | None = Field(None, gt=0)


class Ablation(Section):
    """How the found heads are tested."""

    random_sets: int = Field(99, ge=99)
    generated_sets: int = Field(5, ge=1)
    curve_sets: int = Field(9, ge=1)

    @model_validator(mode="after")
    def _enough_sets(self) -> Ablation:
        if self.generated_sets > self.random_sets:
            raise ValueError("generated_sets cannot exceed random_sets")
        return self


class Tokens(Section):
    """Which rollouts are read token by token."""

    per_cell: int = Field(3, ge=1)


class Study(BaseStudy):
    """Why a model refuses or complies. The file is the record: every default is written out beside the results."""

    stages: ClassVar[tuple[str, ...]] = (
        "rollouts",
        "collect",
        "probe",
        "transfer",
        "trace",
        "erase",
        "heads",
        "ablate",
        "tokens",
        "summary",
        "figures",
        "report",
    )

    kind: Literal["refusal"] = "refusal"
    prompts: Prompts
    engine: EngineSection = EngineSection()
    labels: Labels
    collect: Collect = Collect()
    probe: Probe = Probe()
    transfer: Transfer = Transfer()
    trace: Trace = Trace()
    erase: Erase = Erase()
    heads: Heads = Heads()
    ablation: Ablation = Ablation()
    tokens: Tokens = Tokens()
