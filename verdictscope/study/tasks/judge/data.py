"""The sections of a judge study: what is judged in which prompt, and the cues that may move the verdict."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from verdictscope.study.schema import Data, Section

Text = Annotated[str, Field(min_length=1)]


class Items(Section):
    """What is judged, and in which prompt.

    Attributes:
        file: a file of items, or ``hub`` for the reader's dataset.
        reader: how its rows are read (``judgments.known_loaders``).
        part: part of a hub dataset.
        format: a shipped format or a TOML file.
        limit: read only the first rows.
    """

    file: str
    reader: str
    part: str | None = None
    format: str
    limit: int | None = Field(None, ge=1)


class CueSection(Section):
    """One cue: sentences that speak for the answer ``{target}``, in turn over the items.

    Attributes:
        kind: a shipped cue, whose sentences and place are taken.
        texts: sentences of your own.
        place: where they stand (``judgments.asking.PLACES``).
    """

    kind: str | None = None
    texts: list[Text] = []
    place: str = "note"

    @model_validator(mode="after")
    def _one_source(self) -> CueSection:
        if bool(self.kind) == bool(self.texts):
            raise ValueError("a cue has either a kind or texts of its own")
        return self


class Verdicts(Section):
    """How verdicts are given.

    Attributes:
        thinking: judge after the judge's own thinking too, not only without it.
        thinking_items: how many items are judged with thinking, evenly spaced over every split; all by default.
    """

    thinking: bool = True
    thinking_items: int | None = Field(None, ge=1)


class JudgeData(Data):
    """The sections of a judge study."""

    unused: ClassVar[frozenset[str]] = frozenset({"engine", "collect", "transfer", "erase", "ablation", "tokens"})

    items: Items
    cues: dict[str, CueSection] = Field(min_length=1)
    control: CueSection
    verdicts: Verdicts = Verdicts()

    @field_validator("cues")
    @classmethod
    def _names(cls, cues: dict[str, CueSection]) -> dict[str, CueSection]:
        if taken := {"plain", "control", "content", "position"} & set(cues):
            raise ValueError(f"a cue cannot be called {min(taken)}: choose another name")
        return cues
