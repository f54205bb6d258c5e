"""What any study names: a question, a model and its reference model, seeds, sampling and the split of the groups."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from verdictscope.study.schema.toml import to_toml

FORMAT = 1

Scalar = bool | int | float | str
Share = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A table of ``study.toml``: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingSection(Section):
    """How tokens are drawn."""

    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(1024, ge=1)


class Split(Section):
    """Shares of the groups: the first two parts choose, the last one reports."""

    shares: tuple[Share, Share, Share] = (0.35, 0.15, 0.5)

    @field_validator("shares")
    @classmethod
    def _sum_to_one(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"train, validation and test must sum to 1, not {sum(shares):g}")
        return shares


class BaseStudy(Section):
    """One question asked of one model, whatever its kind.

    Attributes:
        kind: which stages it has and which sections its file.
        stages: the names of its stages, in order; ``verdictscope.study.stages.NAME.run_NAME`` does it.
    """

    stages: ClassVar[tuple[str, ...]]

    format: Literal[1] = FORMAT
    kind: str
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
    sampling: SamplingSection = SamplingSection()
    split: Split = Split()

    def to_toml(self) -> str:
        """The study with every default written out; reading it back gives an equal study."""
        return to_toml(self.model_dump(exclude_none=True))
