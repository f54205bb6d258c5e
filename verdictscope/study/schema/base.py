"""The schema of ``study.toml``: what any study names, and one section of settings per stage."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, field_validator, model_validator

from verdictscope.study.schema.toml import to_toml

FORMAT: Final = 2

Scalar = bool | int | float | str
Share = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A table of ``study.toml``: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """The sections of one task: what is shown, and how an outcome is recognised.

    A task subclasses it; its fields are sections of ``study.toml`` beside those of :class:`Study`.

    Attributes:
        unused: sections of :class:`Study` that belong to stages which the task does not have.
    """

    unused: ClassVar[frozenset[str]] = frozenset()


class SamplingSection(Section):
    """How tokens are drawn."""

    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(1024, ge=1)


class EngineSection(Section):
    """What writes the unedited rollouts: this process, or a server with token ids in and out."""

    url: str | None = None
    reference_url: str | None = None
    model: str | None = None
    reference_model: str | None = None
    concurrency: int = Field(16, ge=1)
    timeout: float = Field(600.0, gt=0)
    retries: int = Field(5, ge=0)


class Split(Section):
    """Shares of the groups: the first two splits choose, the last one reports."""

    shares: tuple[Share, Share, Share] = (0.35, 0.15, 0.5)

    @field_validator("shares")
    @classmethod
    def _sum_to_one(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"train, validation and test must sum to 1, not {sum(shares):g}")
        return shares


class Collect(Section):
    """Positions whose hidden states are stored."""

    resid_post: str = "thinking:8,think_end"
    z: str = "before_answer"


class Probe(Section):
    """How probes are fitted: penalties to choose from, and label permutations of their null."""

    C: list[Annotated[float, Field(gt=0)]] = Field([0.001, 0.01, 0.1], min_length=1)
    permutations: int = Field(200, ge=50)


class Transfer(Section):
    """Columns of the prompts by which the probe is transferred, and the label permutations of that null."""

    by: list[str] = []
    relabellings: int = Field(200, ge=200)


class Trace(Section):
    """How scores are followed over tokens.

    Attributes:
        plateau: last thinking tokens whose mean the drop is measured from.
        window: tokens before the end of thinking that curves begin at.
        items: items of a judge that are traced, evenly spaced over the test split.
        lengths: forced lengths of a judge's thinking, in tokens.
    """

    plateau: int = Field(8, ge=1)
    window: int = Field(40, ge=1)
    items: int = Field(40, ge=8)
    lengths: list[Annotated[int, Field(ge=0)]] = Field([0, 8, 16, 32], min_length=1)


class Erase(Section):
    """Which concept is erased from the states before the outcome is probed; the factor of the prompts by default."""

    concept: str | None = None
    draws: int = Field(20, ge=19)


class Heads(Section):
    """How heads and sublayers are ranked.

    Attributes:
        k: heads that are selected, at most (per contrast).
        rollouts: rollouts of each half that are swept, at most.
        items: items of each half of a judge study that are swept, evenly spaced; all by default.
        positions: where a component of a judge is ablated. The default holds the closing tokens and the one the verdict
            is read at, and leaves out what a head does at earlier tokens that later ones read (of a cue, say); ``all``
            leaves nothing out and runs every later token again.
        delta: smallest effect that counts, in nats; by default a share of the distance between the outcomes.
    """

    k: int = Field(3, ge=1)
    rollouts: int = Field(128, ge=1)
    items: int | None = Field(None, ge=8)
    positions: str = "think_end,answer,last"
    delta: float | None = Field(None, gt=0)


class Ablation(Section):
    """How the selected heads are tested against random sets of as many heads, matched by layer."""

    random_sets: int = Field(99, ge=99)
    generated_sets: int = Field(5, ge=1)
    curve_sets: int = Field(9, ge=1)

    @model_validator(mode="after")
    def _enough_sets(self) -> Ablation:
        if self.generated_sets > self.random_sets:
            raise ValueError("generated_sets cannot exceed random_sets")
        return self


class Mitigations(Section):
    """What is tried against a judge's biases.

    Attributes:
        random_sets: sets of as many other heads, matched by layer.
        scale: what the selected heads are multiplied by.
        system: a system text that forbids the bias.
        rules: shipped prompt mitigations (``judgments.cues.mitigations``): ``system_rules``, ``self_reflection``.
    """

    random_sets: int = Field(99, ge=99)
    scale: float = Field(0.5, ge=0, lt=1)
    system: str | None = None
    rules: list[Literal["system_rules", "self_reflection"]] = []


class Tokens(Section):
    """Which rollouts are shown token by token."""

    per_cell: int = Field(3, ge=1)


class Study(Section):
    """One question asked of one model. The file is the record: every default is written out beside the results.

    Attributes:
        task: the kind of question (:mod:`verdictscope.study.tasks`); it names the further sections of the file.
        data: those sections, an instance of the task's subclass of :class:`Data`.
    """

    format: Literal[2] = FORMAT
    task: str = "refusal"
    name: str
    question: str
    model: str
    revision: str | None = None
    reference: str | None = None
    reference_revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    trust_remote_code: bool = False
    seed: int = Field(0, ge=0)
    batch_tokens: int = Field(16384, ge=256)
    data: SkipValidation[Any]
    sampling: SamplingSection = SamplingSection()
    engine: EngineSection = EngineSection()
    split: Split = Split()
    collect: Collect = Collect()
    probe: Probe = Probe()
    transfer: Transfer = Transfer()
    trace: Trace = Trace()
    erase: Erase = Erase()
    heads: Heads = Heads()
    ablation: Ablation = Ablation()
    mitigations: Mitigations = Mitigations()
    tokens: Tokens = Tokens()

    def to_dict(self) -> dict[str, Any]:
        """As in the file: the task's sections stand beside the common ones, those of stages it lacks are left out."""
        common = self.model_dump(exclude_none=True, exclude={"data", *self.data.unused})
        return common | self.data.model_dump(exclude_none=True)

    def to_toml(self) -> str:
        """The study with every default written out; reading it back gives an equal study."""
        return to_toml(self.to_dict())
