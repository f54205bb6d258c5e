"""The study of a judge: pairs are judged in both orders, plainly and with cues, and the verdict is taken apart."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from verdictscope.study.schema.base import BaseStudy, Section

Text = Annotated[str, Field(min_length=1)]


class Items(Section):
    """What is judged, and in which prompt.

    Attributes:
        file: a file of items, or ``hub`` for the reader's dataset.
        reader: how its rows are read (``judgments.known_readers``).
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
    """How verdicts are read.

    Attributes:
        thinking: judge with the judge's own thinking too, beside the reading without it.
        thinking_items: how many items are judged with thinking, evenly spaced over every part; all by default.
    """

    thinking: bool = True
    thinking_items: int | None = Field(None, ge=1)


class BiasHeads(Section):
    """How heads and MLPs are ranked.

    Attributes:
        k: heads that count as found, at most, per bias.
        positions: where a head is taken out. The default holds the closing tokens and the one the verdict is read at,
            and leaves out what a head does at earlier tokens that later ones read (of a cue, say); ``all`` leaves
            nothing out and runs every later token anew.
        items: items of each half that are swept, evenly spaced; all by default.
        delta: smallest effect that counts, in nats; 5 % of the distance that content makes by default.
    """

    k: int = Field(3, ge=1)
    positions: str = "think_end,answer,last"
    items: int | None = Field(None, ge=8)
    delta: float | None = Field(None, gt=0)


class Mitigations(Section):
    """What is tried against the bias.

    Attributes:
        random_sets: sets of as many other heads, matched by layer.
        scale: what the found heads are multiplied by.
        system: a system text that forbids the bias.
        rules: shipped prompt mitigations (``judgments.cues.mitigations``): ``system_rules``, ``self_reflection``.
    """

    random_sets: int = Field(99, ge=99)
    scale: float = Field(0.5, ge=0, lt=1)
    system: str | None = None
    rules: list[Literal["system_rules", "self_reflection"]] = []


class VerdictProbes(Section):
    """How verdict and correctness probes and the bias detector are fitted and doubted."""

    C: list[Annotated[float, Field(gt=0)]] = Field([0.001, 0.01, 0.1], min_length=1)
    permutations: int = Field(200, ge=50)


class VerdictTraces(Section):
    """How the verdict is followed through the thinking.

    Attributes:
        items: how many, evenly spaced over the test part.
        lengths: forced lengths of thinking, in tokens.
    """

    items: int = Field(40, ge=8)
    lengths: list[Annotated[int, Field(ge=0)]] = Field([0, 8, 16, 32], min_length=1)


class JudgeStudy(BaseStudy):
    """What moves a judge's verdict, and through which heads. The file is the record, as of every study."""

    stages: ClassVar[tuple[str, ...]] = (
        "verdicts",
        "bias_heads",
        "mitigations",
        "verdict_probes",
        "verdict_traces",
        "judge_summary",
        "judge_figures",
        "report",
    )

    kind: Literal["judge"]
    items: Items
    cues: dict[str, CueSection] = Field(min_length=1)
    control: CueSection
    verdicts: Verdicts = Verdicts()
    heads: BiasHeads = BiasHeads()
    mitigations: Mitigations = Mitigations()
    probe: VerdictProbes = VerdictProbes()
    trace: VerdictTraces = VerdictTraces()

    @field_validator("cues")
    @classmethod
    def _names(cls, cues: dict[str, CueSection]) -> dict[str, CueSection]:
        if taken := {"plain", "control", "content", "position"} & set(cues):
            raise ValueError(f"a cue cannot be called {min(taken)}: choose another name")
        return cues
