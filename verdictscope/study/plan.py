"""What a study will cost before it runs: hours, memory and disk by stage, from the model's config and token counts.

Every stage is a row of :data:`OUTCOMES` or :data:`JUDGE`: which token sequences it reads or writes, and how often.
Before a run the sequences are assumed (every rollout writes as much as it may, all of it thinking, and every target
request is complied with), so the counts are bounds; ``tests/study/test_plan.py`` compares them with a run's own
rollouts. Fits, bootstraps and figures need no model and are not counted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from verdictscope.activations.plan import TOKEN_BUDGET, BatchPlan
from verdictscope.errors import InputError, reason
from verdictscope.interventions.head_sets import curve_steps
from verdictscope.interventions.replay.chunks import chunks, kept_per_token, parts, room_for
from verdictscope.sources import locate
from verdictscope.study.run import quiet
from verdictscope.study.schema import Study
from verdictscope.study.tasks import stages_of, task_of
from verdictscope.study.tasks.outcome import OutcomeTask, matches

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CLOSING, TEMPLATE, CHARACTERS = 4, 24, 4
"""Assumed: tokens that close the thinking, tokens of a chat template, characters a token where no tokenizer is here."""
PLACES, EARLY = 8, 64
"""Positions at which thinking is closed early, and rollouts for which it is."""
TABLE_BYTES = {"generate": 6, "trace": 10, "ablate": 16, "tokens": 10}
"""Bytes a token takes in a compressed table, about (measured on the demo)."""


class Text(NamedTuple):
    """Token counts of one rollout: where its thinking starts, its closing, its answer; and its facts."""

    prompt: int
    length: int
    start: int | None = None
    thinking: int = 0
    closing: int = 0
    answer: int | None = None
    part: str = "test"
    cell: str = "complied"
    target: bool = True
    control: bool = False

    @property
    def hero(self) -> bool:
        return self.target and self.cell.endswith("complied")


@dataclass(frozen=True)
class Device:
    """Operations and bytes a device does in a second, as stated by its maker, and the share of them that is reached."""

    name: str
    half: float
    single: float
    bandwidth: float
    memory: float | None
    computes: float = 0.4
    reads: float = 0.6
    launch: float = 0.6e-3


DEVICES = {
    "h100": Device("H100 SXM", 989e12, 67e12, 3.35e12, 80e9),
    "h200": Device("H200 SXM", 989e12, 67e12, 4.8e12, 141e9),
    "a100": Device("A100 SXM 80 GB", 312e12, 19.5e12, 2.039e12, 80e9),
    "l40s": Device("L40S", 362e12, 91.6e12, 864e9, 48e9),
    "rtx4090": Device("RTX 4090", 165e12, 82.6e12, 1.008e12, 24e9),
    "cpu": Device("two CPU cores", 0.05e12, 0.1e12, 20e9, None, 0.5, 0.5, 0.25e-3),
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model from its config; ``active`` are the block parameters a token is multiplied with."""

    name: str
    dtype: str
    parameters: int
    active: int
    head: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    d_ff: int
    vocab: int
    positions: int | None

    @property
    def weights(self) -> int:
        return self.parameters * BYTES[self.dtype]

    @property
    def kv_per_token(self) -> int:
        return 2 * self.n_layers * self.n_kv_heads * self.d_head * BYTES[self.dtype]

    @property
    def live_per_token(self) -> int:
        """Activations of a token at the widest point of a block (an estimate)."""
        attention = (2 * self.n_heads + 2 * self.n_kv_heads) * self.d_head
        return (2 * self.d_model + max(3 * self.d_ff, attention)) * BYTES[self.dtype]

    def flops(self, tokens: int, seen: float | int, logits: int = 0) -> float | int:
        """2 per parameter and token, 4 per pair of tokens and head dimension; each attends to ``seen`` tokens."""
        attention = 4 * self.n_layers * self.n_heads * self.d_head * seen
        return tokens * (2 * self.active + attention) + 2 * self.head * logits


def read_shape(model: str, *, dtype: str, revision: str | None, trust_remote_code: bool, device: str) -> Shape:
    """Sizes of a model from its ``config.json``; no weight is loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from verdictscope.activations.checkpoint import dtype_here, no_such_folder

    name = locate(model)
    if (absent := no_such_folder(name)) is not None:
        raise InputError(absent)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # the hub's client and remote code fail in many ways
        why = f"no model can be planned from {name!r}: {reason(error)}"
        raise InputError(f"{why}; give a folder that holds its config.json (--set model=DIR)") from error
    text = config.get_text_config(decoder=True)
    matrices = [m.weight for m in (skeleton.get_input_embeddings(), skeleton.get_output_embeddings()) if m is not None]
    blocks = [(n, p) for n, p in skeleton.named_parameters() if p.ndim > 1 and all(p is not w for w in matrices)]
    experts = int(getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None) or 0)
    chosen = int(getattr(text, "num_experts_per_tok", None) or 0) / experts if experts else 1.0
    heads = int(text.num_attention_heads)
    stored = getattr(config, "dtype", None) or torch.float32
    loaded = dtype_here(dtype, stored, torch.device(device))
    loaded = str(stored if loaded == "auto" else loaded).removeprefix("torch.")
    return Shape(
        model,
        loaded if loaded in BYTES else "float32",
        sum(p.numel() for p in skeleton.parameters()),
        round(sum(p.numel() * (chosen if ".experts." in n else 1.0) for n, p in blocks)),
        matrices[-1].numel(),
        int(text.num_hidden_layers),
        heads,
        int(getattr(text, "num_key_value_heads", None) or heads),
        int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        int(text.hidden_size),
        int(getattr(text, "intermediate_size", 0) or 4 * text.hidden_size),
        matrices[0].shape[0],
        getattr(text, "max_position_embeddings", None),
    )


@dataclass(frozen=True)
class Work:
    """What the model does: rollouts and tokens written, tokens read, calls, operations, bytes moved, peak bytes."""

    generations: int = 0
    written: int = 0
    read: int = 0
    passes: int = 0
    flops: float | int = 0
    moved: float | int = 0
    peak: int = 0


@dataclass(frozen=True)
class Counting:
    """Turns token sequences into :class:`Work`."""

    study: Study
    shapes: Mapping[str, Shape]
    texts: Mapping[str, Sequence[Text]]
    budget: int
    stems: tuple[int, ...] = ()
    """Lengths of what stands before the last token of label strings of several tokens: each takes a pass of its own."""

    def lengths(self, variant: str = "base", part: Sequence[str] = ("train", "validation", "test")) -> list[int]:
        return [t.length for t in self.texts.get(variant, ()) if t.part in part]

    def until(self, which: Callable[[Text], bool], variant: str = "base", most: int | None = None) -> list[int]:
        """Lengths up to the answer of the rollouts that have one."""
        return [t.answer for t in self.texts.get(variant, ()) if which(t) and t.answer is not None][:most]

    def complied(self, half: str) -> list[int]:
        """Complied target rollouts of the half that ranks heads (``explore``) or reports them."""
        report, most = half == "report", self.study.heads.rollouts
        return self.until(lambda t: t.hero and (t.part == "test") == report, most=most)

    def read(
        self, lengths: Sequence[int], times: int = 1, *, budget: int = 0, logits: int = 0, variant: str = "base"
    ) -> Work:
        """Teacher-forced passes over sequences; ``logits`` rows of each are scored with the label strings."""
        shape, budget = self.shapes[variant], budget or self.study.batch_tokens
        every = [lengths, *([n + stem for n in lengths] for stem in self.stems if logits)]
        batches = [[own[i] for i in b] for own in every if own for b in BatchPlan.make(own, budget).batches]
        flops = sum(shape.flops(len(b) * max(b), max(b), logits * len(b)) for b in batches)
        peak = max((len(b) * (max(b) * shape.live_per_token + logits * shape.vocab * 12) for b in batches), default=0)
        passes = times * len(batches)
        return Work(0, 0, times * sum(map(sum, every)), passes, times * flops, passes * shape.weights, peak)

    def write(self, variant: str) -> Work:
        """Free generation in batches of similar prompts, each to its end."""
        shape, new = self.shapes.get(variant, self.shapes["base"]), self.study.sampling.max_new_tokens
        texts = sorted(self.texts.get(variant, ()), key=lambda t: -t.prompt)
        batches: list[list[Text]] = []
        for t in texts:
            if not batches or (len(batches[-1]) + 1) * (batches[-1][0].prompt + new) > self.study.batch_tokens:
                batches.append([])
            batches[-1].append(t)
        passes, flops, moved, peak = 0, 0.0, 0.0, 0
        for b in batches:
            width, grown = b[0].prompt, [t.length - t.prompt for t in b]
            seen = sum(n * (width + n / 2) for n in grown)
            passes += max(grown)
            total = sum(grown)
            flops += shape.flops(len(b) * width, width, len(b)) + shape.flops(total, seen / max(total, 1), total)
            moved += max(grown) * shape.weights + seen * shape.kv_per_token
            live = max(width * shape.live_per_token, 48 * shape.vocab)  # 48: logits and noise while a token is drawn
            peak = max(peak, len(b) * ((width + max(grown)) * shape.kv_per_token + live))
        return Work(len(texts), sum(t.length - t.prompt for t in texts), 0, passes, flops, moved, peak)

    def sweep(self, lengths: Sequence[int], *, sublayers: bool, kinds: int) -> Work:
        """One clean pass, then each head (and sublayer) ablated from its layer on; ``kinds`` of edits are verified."""
        shape = self.shapes["base"]
        starts = [n for n in range(shape.n_layers) for _ in range(shape.n_heads + 2 * sublayers)]
        kept = kept_per_token(shape.n_layers, shape.d_model, shape.n_heads, shape.d_head, BYTES[shape.dtype])
        passes, flops, peak = 0, 0.0, 0
        for b in parts(list(lengths), kept, self.budget) if lengths else ():
            width = max(lengths[i] for i in b)
            room = room_for(len(b), width, 0, self.budget, len(b) * shape.vocab)
            found = chunks(starts, shape.n_layers - 1, width, room)
            passes += 1 + len(found) + 3 * kinds
            rows = sum(len(c.members) * (shape.n_layers - c.layer) for c in found) / shape.n_layers
            flops += shape.flops(len(b) * width, width, len(b)) * (1 + rows)
            most = max(len(c.members) for c in found)
            peak = max(peak, len(b) * (most * (width * shape.live_per_token + shape.vocab * 12) + width * kept))
            kinds = 0
        return Work(0, 0, sum(lengths) * (1 + len(starts)), passes, flops, passes * shape.weights, peak)

    def early(self, variant: str = "base") -> Work:
        """Thinking of the first headline rollouts closed at every place; broken off within a line it takes a break."""
        hero = [t for t in self.texts[variant] if t.hero and t.part == "test"]
        made = [
            t.start + at + (t.closing or CLOSING) + (0 < at < t.thinking)
            for t in hero[:EARLY]
            if t.start is not None
            for at in sorted({round(t.thinking * k / PLACES) for k in range(PLACES + 1)})
        ]
        return self.read(made, logits=1, variant=variant)

    @property
    def unedited(self) -> list[str]:
        return [v for v in ("base", "reference") if v in self.texts]


Stage = Callable[[Counting], Sequence[Work]]


def _heads(c: Counting) -> list[Work]:
    most, report = c.study.heads.rollouts, c.complied("report")
    cells = c.until(lambda t: t.part != "test" and t.cell.endswith("refused"), most=most)
    cells += c.until(lambda t: t.part != "test" and t.cell.endswith("complied"), most=most)
    sweeps = [c.sweep(c.complied(h), sublayers=h == "report", kinds=1 + (h == "report")) for h in ("explore", "report")]
    both = [c.read(cells, budget=c.budget, logits=1), c.read(cells, budget=c.budget)]
    # direct path, writers, and the attribution of two readouts; eight short passes look at the output head
    return [*both, *sweeps, c.read(report, 4, budget=c.budget), Work(passes=8)]


def _ablate(c: Counting) -> list[Work]:
    a, report, shape = c.study.ablation, c.complied("report"), c.shapes["base"]
    edited = [v for v in c.texts if v not in ("base", "reference")]
    curve = 1 + len(curve_steps(shape.n_layers * shape.n_heads)) * (1 + a.curve_sets)
    found = [c.read(report, 2 + a.random_sets, budget=TOKEN_BUDGET["cpu"], logits=1)]
    found += [c.read(c.complied("explore"), budget=c.budget), c.read(report, curve, budget=c.budget, logits=1)]
    if "reference" in c.texts:
        asked = c.until(lambda t: t.target and t.part == "test", "reference", c.study.heads.rollouts)
        patched = c.read(asked, 2 + a.random_sets, budget=c.budget, logits=1, variant="reference")
        found += [patched, Work(passes=shape.n_layers)]
    found += [c.write(v) for v in edited]
    traced = [[t.length for t in c.texts[v] if t.target and t.part == "test"] for v in ("base", "ablated")]
    return found + [c.read(lengths) for lengths in traced]


def _tokens(c: Counting) -> list[Work]:
    seen: dict[tuple[str, bool], list[Text]] = {}
    for t in c.texts["base"]:
        own = seen.setdefault((t.cell, t.target), [])
        if t.part == "test" and len(own) < c.study.tokens.per_cell:
            own.append(t)
    shown = [t for own in seen.values() for t in own]
    ablated = [t.length for t in shown if t.hero]
    return [c.read([t.length for t in shown], logits=1), c.read(ablated, logits=1)]


OUTCOMES: Mapping[str, Stage] = {
    "generate": lambda c: [c.write(v) for v in c.unedited],
    "collect": lambda c: [c.read(c.lengths(), budget=c.budget)],
    "trace": lambda c: [*(c.read(c.lengths(v), variant=v) for v in c.unedited), c.early()],
    "erase": lambda c: [c.read(c.lengths(part=("train", "test")))],
    "heads": _heads,
    "ablate": _ablate,
    "tokens": _tokens,
}
"""Stages of a study of outcomes that run the model."""


def _swept(c: Counting, part: Sequence[str]) -> list[int]:
    """Both orders of the items of a half that are swept, under every condition."""
    conditions = 2 + len(c.study.data.cues)
    return c.lengths(part=part)[: 2 * conditions * (c.study.heads.items or 10**9)]


JUDGE: Mapping[str, Stage] = {
    "generate": lambda c: [
        w
        for v in c.unedited
        for w in (c.read([t.prompt for t in c.texts[v] if not t.thinking], logits=1, variant=v), c.write(v))
    ],
    "probe": lambda c: [c.read(c.lengths(), budget=c.budget)],
    "trace": lambda c: [c.read(c.lengths(part=("validation", "test"))), c.early()],
    "heads": lambda c: [
        w
        for part in (("train", "validation"), ("test",))
        for t in [_swept(c, part)]
        for w in (c.sweep(t, sublayers=True, kinds=2), c.read(t, 2, budget=c.budget))
    ],
    "ablate": lambda c: [c.read(_swept(c, ("test",)), 2 + c.study.mitigations.random_sets, logits=1)],
    "mitigate": lambda c: [c.read(c.lengths(part=("test",)), 6 + len(c.study.mitigations.rules), logits=1)],
}
"""Stages of a judge study that run the model."""


@dataclass(frozen=True)
class Row:
    """One stage of a plan; ``memory`` and ``disk`` in bytes, ``hours`` of the model alone."""

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
    """What a study will cost; hours depend on the device's assumed rates."""

    study: str
    shape: Shape
    device: Device
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def total(self) -> Row:
        """All stages together; of memory the largest."""
        names = [n for n in Row.__dataclass_fields__ if n not in ("stage", "memory")]
        sums = {name: sum(getattr(row, name) for row in self.rows) for name in names}
        return Row("total", memory=max(row.memory for row in self.rows), **sums)

    def to_dict(self) -> dict[str, Any]:
        model = asdict(self.shape) | {"weights": self.shape.weights, "kv_per_token": self.shape.kv_per_token}
        rows = {"stages": [asdict(row) for row in self.rows], "total": asdict(self.total), "assumed": list(self.notes)}
        return {"study": self.study, "model": model, "device": asdict(self.device), **rows}

    def __str__(self) -> str:
        total, d = self.total, self.device
        head = f"{self.study}: about {hours(total.hours)} h on {d.name}, {size(total.memory)} of memory and "
        head += f"{size(total.disk)} of disk, for {self.shape.name} ({self.shape.dtype})."
        lines = [*textwrap.wrap(head, 80), "", f"{'stage':<12}{'hours':>10}{'memory':>12}{'disk':>12}"]
        for row in (*self.rows, total):
            cells = (hours(row.hours) if row.passes else "", *(size(n) if n else "" for n in (row.memory, row.disk)))
            lines.append(f"{row.stage:<12}{cells[0]:>10}{cells[1]:>12}{cells[2]:>12}".rstrip())
        rates = f"{d.half / 1e12:g} (16 bits) or {d.single / 1e12:g} Tflop/s x {d.computes:g}, "
        rates += f"{d.bandwidth / 1e12:g} TB/s x {d.reads:g}; others: --device {', '.join(DEVICES)}, or --tflops N"
        notes = [f"hours: an estimate, of the model alone, at {rates}", f"assumed: {'; '.join(self.notes)}"]
        if d.memory and total.memory > d.memory:
            notes.append(f"too large for {d.name} with {size(d.memory)}: lower batch_tokens")
        for note in notes:
            lines += textwrap.wrap(note, 80, subsequent_indent="  ", break_on_hyphens=False)
        return "\n".join(lines)


def size(n: float | int) -> str:
    """Bytes for people (a GB is 10⁹ bytes)."""
    unit, name = next(((u, k) for u, k in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if n >= u), (1e3, "kB"))
    return f"{n / unit:,.0f} kB" if name == "kB" else f"{n / unit:,.1f} {name}"


def hours(n: float | int) -> str:
    """Hours with as many digits as an estimate bears."""
    return "< 0.001" if 0 < n < 0.001 else f"{n:,.0f}" if n >= 20 else f"{n:.1f}" if n >= 0.1 else f"{n:.3f}"


def plan_study(
    study: Study, *, device: str | None = None, tflops: float | None = None, written: int | None = None
) -> Plan:
    """Plan a study whose rollouts write so many tokens (``max_new_tokens`` by default)."""
    import torch

    quiet()
    own = (study.device or ("cuda" if torch.cuda.is_available() else "cpu")).partition(":")[0]
    key = device or ("h100" if own == "cuda" else "cpu")
    if key not in DEVICES:
        raise InputError(f"no device {key!r}: known are {', '.join(DEVICES)}; or give --tflops")
    if tflops is not None and not tflops > 0:
        raise InputError(f"--tflops is {tflops:g}: give what the device reaches, in 10^12 operations a second")
    rates = DEVICES[key]
    if tflops is not None:
        rates = replace(rates, half=tflops * 1e12, single=tflops * 1e12, computes=1.0)
    most = study.sampling.max_new_tokens
    if written is not None and not 1 <= written <= most:
        raise InputError(f"--written is {written}: a rollout writes between 1 and max_new_tokens {most} tokens")
    kind = "cpu" if key == "cpu" else "cuda"
    options: dict[str, Any] = {"dtype": study.dtype, "trust_remote_code": study.trust_remote_code, "device": kind}
    shapes = {"base": read_shape(study.model, revision=study.revision, **options)}
    if study.reference:
        shapes["reference"] = read_shape(study.reference, revision=study.reference_revision, **options)
    texts, notes = assumed_texts(study, written or most)
    longest = max(t.prompt for t in texts["base"])
    limit = shapes["base"].positions
    if limit is not None and longest + most > limit:
        raise InputError(
            f"the longest prompt ({longest} tokens) and max_new_tokens {most} exceed the model's {limit} positions: "
            f"lower sampling.max_new_tokens to {max(limit - longest, 0)}"
        )
    counting = Counting(study, shapes, texts, TOKEN_BUDGET.get(kind, TOKEN_BUDGET["cpu"]), label_stems(study))
    rows = tuple(stage_row(counting, stage, rates) for stage in stages_of(study))
    return Plan(study.name, shapes["base"], rates, rows, tuple(notes))


def label_stems(study: Study) -> tuple[int, ...]:
    """Lengths of what precedes the last token of label strings of several tokens; none without a tokenizer."""
    from verdictscope.rollouts import LanguageModel

    tokenizer, task = _tokenizer(study), task_of(study)
    if tokenizer is None or not isinstance(task, OutcomeTask):
        return ()
    strings: Any = task.decision(LanguageModel(None, tokenizer), study)  # type: ignore[arg-type]
    return tuple(sorted({len(string) - 1 for string in strings.strings if len(string) > 1}))


def stage_work(c: Counting, stage: str) -> list[Work]:
    """What a stage asks of the model; nothing for stages that work on tables alone."""
    table = OUTCOMES if isinstance(task_of(c.study), OutcomeTask) else JUDGE
    return [work for work in table[stage](c) if work.passes] if stage in table else []


def stage_row(c: Counting, stage: str, rates: Device) -> Row:
    """A stage's work as a row: the slower of computing and reading memory, and what every call costs."""
    works, shape = stage_work(c, stage), c.shapes["base"]
    peak = rates.half if BYTES[shape.dtype] == 2 else rates.single
    seconds = sum(
        max(w.flops / (peak * rates.computes), w.moved / (rates.bandwidth * rates.reads))
        + w.passes * shape.n_layers * rates.launch
        for w in works
    )
    counts = {n: int(sum(getattr(w, n) for w in works)) for n in ("generations", "written", "read", "passes")}
    memory = max(s.weights for s in c.shapes.values()) + max((w.peak for w in works), default=0) if works else 0
    disk = stored_bytes(c) if stage == "collect" else TABLE_BYTES.get(stage, 0) * (counts["read"] + counts["written"])
    disk += 8_000_000 * (stage in ("figures", "report"))
    return Row(stage, **counts, memory=memory, disk=disk, hours=seconds / 3600)


def stored_bytes(c: Counting) -> int:
    """Bytes of the activation store: every token of ``thinking:N,think_end`` and the token before the answer."""
    shape = c.shapes["base"]
    rows = {"resid": 0, "z": 0}
    for t in c.texts["base"]:
        last = c.study.collect.resid_post.partition("thinking:")[2].partition(",")[0]
        near = min(t.thinking, int(last)) if last.isdigit() else t.thinking
        rows["resid"] += near + t.closing
        rows["z"] += t.answer is not None
    width = {"resid": shape.d_model, "z": shape.n_heads * shape.d_head}
    chunked = {k: -(-n // min(1024, max(n, 1))) * min(1024, max(n, 1)) for k, n in rows.items()}
    return sum(n * shape.n_layers * width[k] * BYTES[shape.dtype] for k, n in chunked.items())


def assumed_texts(study: Study, written: int) -> tuple[dict[str, list[Text]], list[str]]:
    """One assumed rollout for each that will be written, by variant; and what was assumed."""
    from verdictscope.probes import split_groups

    tokenizer, task = _tokenizer(study), task_of(study)
    notes = [f"every rollout writes {written:,} tokens, all of them thinking"]
    if tokenizer is None:
        notes.append(f"{CHARACTERS} characters a token, {TEMPLATE} tokens of template")
    closing = min(CLOSING, written - 1)

    def text(prompt: int, part: str, **facts: Any) -> Text:
        end = prompt + written
        return Text(prompt, end, prompt, written - closing - 1, closing, end - 1, part, **facts)

    if not isinstance(task, OutcomeTask):
        return _judge_texts(study, tokenizer, text), notes
    notes.append("every target request is complied with, every control request too")
    table = task.source(study)
    rows = table.loc[table.index.repeat(study.data.prompts.samples)].reset_index(drop=True)
    factor = rows[task.factor].astype("boolean").fillna(False).astype(bool)
    cells = factor.map({value: task.cells[value, False] for value in (True, False)})
    part = (
        rows["group"]
        .astype(str)
        .map(split_groups(rows["group"].astype(str), cells, shares=study.split.shares, seed=study.seed))
    )
    target, control = matches(rows, study.data.prompts.target), matches(rows, study.data.prompts.control)
    sizes = [_prompt_tokens(tokenizer, u, s) for u, s in zip(rows["user"], rows["system"], strict=True)]
    base = [
        text(n, p, cell=c, target=bool(t), control=bool(k))
        for n, p, c, t, k in zip(sizes, part, cells, target, control, strict=True)
    ]
    test = [t for t in base if t.part == "test"]
    texts = {"base": base, "ablated": test}
    texts |= {f"random_{i}": [t for t in test if t.target or t.control] for i in range(study.ablation.generated_sets)}
    if study.reference:
        texts |= {"reference": base, "patched": [t for t in test if t.target]}
    return texts, notes


def _judge_texts(study: Study, tokenizer: Any, text: Callable[..., Text]) -> dict[str, list[Text]]:
    """Both orders of every item under every condition: without thinking, and some after it."""
    from verdictscope.probes import split_groups

    items = task_of(study).source(study)
    groups = [i.group for i in items]
    part = split_groups(groups, [str(i.label) for i in items], shares=study.split.shares, seed=study.seed)
    conditions = 2 * (2 + len(study.data.cues))
    sizes = [_prompt_tokens(tokenizer, " ".join((i.question, i.a, i.b)), None) + TEMPLATE for i in items]
    some = study.data.verdicts.thinking_items or len(items)
    base = []
    for k, (item, n) in enumerate(zip(items, sizes, strict=True)):
        thinks = study.data.verdicts.thinking and k < some
        plain = Text(n, n, answer=n, part=part[item.group])
        base += conditions * [plain, *([text(n, part[item.group])] if thinks else [])]
    return {"base": base, **({"reference": base} if study.reference else {})}


def _prompt_tokens(tokenizer: Any, user: str, system: str | None) -> int:
    if tokenizer is None:
        return TEMPLATE + -(-(len(user) + len(system or "")) // CHARACTERS)
    from verdictscope.rollouts.templates import render_prompt

    return len(render_prompt(tokenizer, user, system).ids)


def _tokenizer(study: Study) -> Any:
    """The model's tokenizer from its folder or the hub's cache; nothing is fetched for it."""
    from transformers import AutoTokenizer

    try:
        options: dict[str, Any] = {"revision": study.revision, "trust_remote_code": study.trust_remote_code}
        found = AutoTokenizer.from_pretrained(locate(study.model), local_files_only=True, **options)
    except (OSError, ValueError, ImportError, KeyError):
        return None  # reported among the assumptions
    return found if found.chat_template and len(found.get_vocab()) > len(found.all_special_tokens) else None
