"""What a study will cost, stage by stage, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from verdictscope.errors import InputError
from verdictscope.sources import locate
from verdictscope.study.planning.jobs import Work
from verdictscope.study.planning.outlook import Outlook, assume
from verdictscope.study.planning.rates import Rates, assumed, measure
from verdictscope.study.planning.shape import Shape, read_config, read_shape
from verdictscope.study.planning.work import WORK, Counting
from verdictscope.study.run import quiet
from verdictscope.study.tasks import stages_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from verdictscope.study.load import Study


@dataclass(frozen=True)
class Row:
    """One stage of a plan.

    Attributes:
        stage: its name.
        generations, written, read, passes: as of :class:`~verdictscope.study.planning.jobs.Job`.
        memory: bytes of weights, cache and activations at the peak; 0 where no model runs.
        disk: bytes written.
        hours: of the model alone.
    """

    stage: str
    generations: int
    written: int
    read: int
    passes: int
    memory: int
    disk: int
    hours: float


@dataclass(frozen=True)
class Plan:
    """What a study will cost.

    What this does not show: the hours of a particular machine (they hang on the rates, which are an assumption unless
    they were measured), and the time of fits, bootstraps and figures, which need no model.

    Attributes:
        study: its name.
        shape: the model under study.
        reference model: the reference model, if there is one.
        rates: what the hours rest on.
        rows: a row a stage.
        notes: what was assumed.
    """

    study: str
    shape: Shape
    reference: Shape | None
    rates: Rates
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def total(self) -> Row:
        """All stages together; of memory the largest."""
        sums = {key: sum(getattr(row, key) for row in self.rows) for key in Row.__dataclass_fields__ if key != "stage"}
        return Row("together", **sums | {"memory": max(row.memory for row in self.rows)})

    def to_dict(self) -> dict[str, Any]:
        """For JSON: bytes, counts and hours by stage, sizes of the model, rates and assumptions."""
        return {
            "study": self.study,
            "model": asdict(self.shape) | {"kv_per_token": self.shape.kv_per_token},
            "reference": asdict(self.reference) if self.reference else None,
            "rates": asdict(self.rates),
            "stages": [asdict(row) for row in self.rows],
            "together": asdict(self.total),
            "assumed": list(self.notes),
        }

    def __str__(self) -> str:
        from verdictscope.study.planning.show import as_text

        return as_text(self)


def plan_study(
    study: Study,
    *,
    device: str | None = None,
    tflops: float | None = None,
    measured: bool = False,
    written: int | None = None,
    prompts: int | None = None,
) -> Plan:
    """Plan a study.

    Args:
        study: the study.
        device: name of a device whose rates are assumed; by default this machine's kind (``h100`` or ``cpu``).
        tflops: see :func:`~verdictscope.study.planning.rates.assumed`.
        measured: measure the rates here in place of assuming them.
        written: tokens a rollout writes on average; as many as it may by default.
        prompts: plan for so many requests of 128 tokens, half of them targets, without reading the study's.

    Raises:
        InputError: the model's config or the prompts cannot be read, or an option makes no sense.
    """
    if study.task != "refusal":
        raise InputError(f"{study.name} is a {study.task} study: the plan knows refusal studies only")
    quiet()
    kind = _device(study)
    planned = kind if device is None or measured else ("cpu" if device == "cpu" else "cuda")
    options = {"dtype": study.dtype, "trust_remote_code": study.trust_remote_code, "device": planned}
    shape = read_shape(study.model, revision=study.revision, **options)
    reference = read_shape(study.reference, revision=study.reference_revision, **options) if study.reference else None
    most = study.sampling.max_new_tokens
    if written is not None and not 1 <= written <= most:
        raise InputError(f"--written is {written}: a rollout writes between 1 and max_new_tokens {most} tokens")
    tokenizer = _tokenizer(study) if prompts is None else None
    outlook = assume(study, _prompts(study, prompts), tokenizer, written or most)
    _check_context(shape, outlook, most)
    if measured:
        config = read_config(locate(study.model), study.revision, study.trust_remote_code)
        rates = measure(config, shape.dtype, study.device or kind, study.trust_remote_code)
    else:
        rates = assumed(device or ("h100" if kind == "cuda" else "cpu"), tflops)
        kind = planned
    counting = Counting(study, shape, outlook, kind, reference)
    rows = [row(counting, WORK[stage](counting), rates) for stage in stages_of(study)]
    return Plan(study.name, shape, reference, rates, tuple(rows), (*outlook.notes, *dict.fromkeys(counting.notes)))


def row(counting: Counting, work: Work, rates: Rates) -> Row:
    """A stage's work as a row of the plan."""
    shapes = [counting.shape, *([counting.reference] if counting.reference else [])]
    weights = max(shape.weights for shape in shapes)
    shape = counting.shape
    counts: Mapping[str, int] = {key: work.total(key) for key in ("generations", "written", "read", "passes")}
    return Row(
        stage=work.stage,
        **counts,
        memory=weights + work.peak() if work.jobs else 0,
        disk=work.exact + work.about,
        hours=sum(rates.seconds(job, shape.n_layers, shape.itemsize) for job in work.jobs) / 3600,
    )


def _prompts(study: Study, many: int | None) -> Any:
    import pandas as pd

    from verdictscope.study.tasks import task_of

    if many is None:
        return task_of(study).source(study)
    if many < 6:
        raise InputError(f"--prompts is {many}: a study needs at least 6 requests")
    table = pd.DataFrame({"id": [str(i) for i in range(many)], "user": "x" * 512, "system": None})
    table["group"] = table["id"]
    table["harm"] = pd.array([i % 2 == 0 for i in range(many)], dtype="boolean")
    for section, rest in ((study.data.prompts.target, 0), (study.data.prompts.control, 1)):
        for column, value in section.items():
            if column != "harm":
                table.loc[table.index % 2 == rest, column] = value
    return table


def _tokenizer(study: Study) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer from its folder or the hub's cache; nothing is fetched for it."""
    from transformers import AutoTokenizer

    try:
        options = {"revision": study.revision, "trust_remote_code": study.trust_remote_code}
        found = AutoTokenizer.from_pretrained(locate(study.model), local_files_only=True, **options)
    except (OSError, ValueError, ImportError, KeyError):
        return None  # said among the assumptions
    return found if found.chat_template and len(found.get_vocab()) > len(found.all_special_tokens) else None


def _check_context(shape: Shape, outlook: Outlook, most: int) -> None:
    longest = max(r.n_prompt for r in outlook.rollouts["base"])
    if shape.positions is not None and longest + most > shape.positions:
        raise InputError(
            f"the longest prompt ({longest} tokens) and max_new_tokens {most} exceed the model's {shape.positions} "
            f"positions: lower sampling.max_new_tokens to {max(shape.positions - longest, 0)}"
        )


def _device(study: Study) -> str:
    import torch

    return (study.device or ("cuda" if torch.cuda.is_available() else "cpu")).partition(":")[0]
