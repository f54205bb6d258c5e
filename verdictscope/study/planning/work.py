"""What each stage asks of the model, call by call: the arithmetic of a plan.

It mirrors ``verdictscope.study.stages``: who changes how often a stage runs the model changes it here, and
``tests/study/test_plan.py`` holds the two against each other on a real run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from verdictscope.activations.hdf5 import CHUNK_ROWS, ROW_TYPES
from verdictscope.activations.plan import TOKEN_BUDGET, BatchPlan
from verdictscope.activations.positions import resolve
from verdictscope.errors import InputError
from verdictscope.interventions.head_sets import curve_steps
from verdictscope.interventions.replay.chunks import chunks, kept_per_token, parts, room_for
from verdictscope.rollouts.rollout import Rollout, Span
from verdictscope.study.load import Study
from verdictscope.study.planning.jobs import Job, Work
from verdictscope.study.planning.outlook import CLOSING, Outlook
from verdictscope.study.planning.shape import Shape
from verdictscope.study.stages.cliff_checks import MOST
from verdictscope.traces.commitment import places
from verdictscope.traces.landmarks import landmarks

DRAW = 48
"""Bytes a row and vocabulary entry while a token is drawn: logits, their tempered copy, order, noise and its bits."""
TOKEN_ROW = {"rollouts": 6, "trace": 10}
"""Bytes a token takes in a compressed table, about (measured on the demo)."""
PAGE = 8_000_000
"""Bytes of figures and report together, about."""


@dataclass(frozen=True)
class Counting:
    """What all counting needs.

    Attributes:
        study: the study.
        shape: the model under study.
        outlook: its rollouts.
        device: ``cpu`` or ``cuda``, on which default batch sizes hang.
        reference model: sizes of the reference model, if there is one.
    """

    study: Study
    shape: Shape
    outlook: Outlook
    device: str
    reference: Shape | None = None
    notes: list[str] = field(default_factory=list)

    def of(self, variant: str) -> Shape:
        """Sizes of a variant's model."""
        return self.reference if variant == "reference" and self.reference else self.shape

    # -- the two ways a model is run
    # --------------------------------------------------------------------------------------------------------------

    def writing(self, variant: str) -> Job:
        """Free generation: batches of similar prompts, each written to its end. An engine that refills the batch
        makes fewer passes; this is the most."""
        shape, new = self.of(variant), self.study.sampling.max_new_tokens
        rollouts = sorted(self.outlook.rollouts[variant], key=lambda r: -r.n_prompt)
        passes = flops = moved = cache = live = 0
        for batch in full_batches([r.n_prompt for r in rollouts], new, self.study.batch_tokens):
            members = [rollouts[i] for i in batch]
            rows, width = len(members), members[0].n_prompt
            lengths = [len(r) - r.n_prompt for r in members]
            steps = max(lengths)
            passes += steps
            seen = sum(n * (width + n / 2) for n in lengths)  # tokens looked at over all steps
            flops += shape.flops(rows, width, rows) + round(
                sum(lengths) * 2 * (shape.multiplied + shape.head)
                + 4 * shape.n_layers * shape.n_heads * shape.d_head * seen
            )
            moved += steps * shape.weights + round(seen * shape.kv_per_token)
            cache = max(cache, rows * (width + steps) * shape.kv_per_token)
            live = max(live, rows * max(width * shape.live_per_token, DRAW * shape.vocab))
        written = sum(len(r) - r.n_prompt for r in rollouts)
        return Job(f"{variant} writes", len(rollouts), written, 0, passes, flops, moved, cache, live)

    def reading(
        self,
        what: str,
        rollouts: Sequence[Rollout],
        budget: int,
        times: int = 1,
        logits: str | None = None,
        variant: str = "base",
        labels: bool = False,
    ) -> Job:
        """Teacher-forced passes over what was written: every batch of the plan, so many times.

        Args:
            what: in words.
            rollouts: what is read.
            budget: padded tokens of a batch.
            times: how often.
            logits: positions whose logits are made.
            variant: whose model.
            labels: whether label strings of several tokens take passes of their own.
        """
        shape = self.of(variant)
        lengths = [len(r) for r in rollouts]
        batches = BatchPlan.make(lengths, budget).batches if lengths else ()
        passes, flops, live, read = len(batches), 0, 0, sum(lengths)
        for batch in batches:
            rows, width = len(batch), max(lengths[i] for i in batch)
            made = sum(len(resolve(logits, rollouts[i])) for i in batch) if logits else 0
            flops += shape.flops(rows, width, made)
            live = max(live, rows * width * shape.live_per_token + made * shape.vocab * 12)
            if labels:
                extra = [n for i in batch for n in self.continued(rollouts[i])]
                further = BatchPlan.make(extra, budget).batches if extra else ()
                passes, read = passes + len(further), read + sum(extra)
                flops += sum(shape.flops(len(part), max(extra[j] for j in part), len(part)) for part in further)
        moved = passes * shape.weights
        return Job(what, 0, 0, times * read, times * passes, times * flops, times * moved, 0, live)

    def replaying(self, what: str, rollouts: Sequence[Rollout], starts: Sequence[int], kinds: int = 0) -> Job:
        """One clean pass over what was written up to the answer, and passes that start at the edited layers.

        Args:
            what: in words.
            rollouts: what is read.
            starts: for every edit of all positions, the first layer that it changes.
            kinds: kinds of edits whose replay is verified for the first time on this model, by three passes each.
        """
        shape, budget = self.shape, self.default_budget()
        stems = sorted({s[:-1] for s in self.outlook.label_strings if len(s) > 1}) or [()]
        ends = {i: int(at[0]) + 1 for i, r in enumerate(rollouts) if len(at := resolve("before_answer", r))}
        kept = kept_per_token(shape.n_layers, shape.d_model, shape.n_heads, shape.d_head, shape.itemsize)
        lengths = [sum(ends.get(i, 0) + len(stem) for stem in stems) for i in range(len(rollouts))]
        passes = flops = live = 0
        for part in parts(lengths, kept, budget) if lengths else ():
            lanes = [ends[i] + len(stem) for i in part if i in ends for stem in stems]
            wanted, width = sum(len(stem) + 1 for stem in stems) * len(part), max(lanes)
            room = room_for(len(lanes), width, 0, budget, wanted * shape.vocab)
            found = chunks(starts, shape.n_layers - 1, width, room)
            passes += 1 + len(found) + 3 * kinds
            flops += shape.flops(len(lanes), width, wanted)
            for chunk in found:
                rows, made = len(lanes) * len(chunk.members), wanted * len(chunk.members)
                blocks = shape.flops(rows, width) * (shape.n_layers - chunk.layer) // shape.n_layers
                flops += blocks + shape.flops(0, width, made)
                live = max(live, rows * width * shape.live_per_token + made * shape.vocab * 12)
            live += sum(lanes) * kept
            kinds = 0
        read = sum(lengths) * (1 + len(starts))
        return Job(what, 0, 0, read, passes, flops, passes * shape.weights, 0, live)

    def continued(self, rollout: Rollout) -> list[int]:
        """Lengths of the sequences in which labels of several tokens are scored after a rollout's thinking."""
        stems = sorted({string[:-1] for string in self.outlook.label_strings if len(string) > 1})
        at = resolve("before_answer", rollout)
        return [int(at[0]) + 1 + len(stem) for stem in stems] if len(at) else []

    # -- what the stages choose
    # --------------------------------------------------------------------------------------------------------------

    def default_budget(self) -> int:
        """Padded tokens of a batch where a stage names none."""
        return TOKEN_BUDGET.get(self.device, TOKEN_BUDGET["cpu"])

    def complied_targets(self, half: str) -> list[Rollout]:
        """As ``stages.heads``: target requests complied with, up to their answer."""
        labels = self.outlook.labels
        complied = labels["target"] & labels["cell"].str.endswith("_complied")
        chosen = complied & ((labels["part"] == "test") == (half == "report"))
        cut = [r.until_answer() for r in self.outlook.chosen(chosen)]
        return [r for r in cut if r is not None][: self.study.heads.rollouts]

    def endings(self) -> list[Rollout]:
        """As ``stages.cliff_checks``: thinking of the first headline rollouts, closed at every place of the readers.

        Thinking broken off within a line takes a line break before its closer.
        """
        labels = self.outlook.labels
        headline = labels["target"] & labels["cell"].str.endswith("_complied") & (labels["part"] == "test")
        made = []
        for r in self.outlook.chosen(headline)[:MOST]:
            found = landmarks(r)
            if found.thinking is None:
                continue
            own = CLOSING if found.answer is None or found.think_end is None else found.answer - found.think_end
            for place in places(r):
                n = found.thinking + place + own + (0 < place < found.n_thinking)
                made.append(Rollout(f"{r.id}~{place}", r.group, (0,) * n, (Span("template", 0, n),), n, "given"))
        return made

    def refused_and_complied(self) -> list[Rollout]:
        """As ``stages.heads``: rollouts of the exploring half by their verdict, up to their answer."""
        labels = self.outlook.labels
        found: list[Rollout] = []
        for end in ("_refused", "_complied"):
            chosen = self.outlook.chosen((labels["part"] != "test") & labels["cell"].str.endswith(end))
            cut = [r.until_answer() for r in chosen]
            found += [r for r in cut if r is not None][: self.study.heads.rollouts]
        return found

    def reference_targets(self) -> list[Rollout]:
        """As ``stages.transplant``: what the reference model wrote on the target requests of the test part, up to
        the answer."""
        labels = self.outlook.labels
        cut = [
            r.until_answer() for r in self.outlook.chosen(labels["target"] & (labels["part"] == "test"), "reference")
        ]
        return [r for r in cut if r is not None][: self.study.heads.rollouts]

    def per_cell(self) -> list[Rollout]:
        """As ``stages.tokens``: the first rollouts of every cell of the test part."""
        labels = self.outlook.labels
        shown = (
            labels[labels["part"] == "test"].groupby(["cell", "target"], sort=False).head(self.study.tokens.per_cell)
        )
        return self.outlook.chosen(labels["rollout"].isin(shown["rollout"]))

    def rows_at(self, positions: str) -> int:
        """Rows that are stored at some positions; positions found in the text are counted as every token."""
        try:
            return sum(len(resolve(positions, r)) for r in self.outlook.rollouts["base"])
        except InputError:
            self.notes.append(f"positions {positions!r} are found in the text: counted as every token")
            return sum(map(len, self.outlook.rollouts["base"]))


def full_batches(prompts: Sequence[int], new: int, budget: int) -> Iterator[list[int]]:
    """Prompts, the longest first, in batches of at most so many tokens of prompt and answer, one at least."""
    batch: list[int] = []
    for i, _ in enumerate(prompts):
        if batch and (len(batch) + 1) * (prompts[batch[0]] + new) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def rollouts_work(c: Counting) -> Work:
    """``rollouts``: every unedited variant writes."""
    variants = [variant for variant in ("base", "reference") if variant in c.outlook.rollouts]
    tokens = sum(len(r) for variant in variants for r in c.outlook.rollouts[variant])
    return Work("generate", tuple(c.writing(variant) for variant in variants), about=TOKEN_ROW["rollouts"] * tokens)


def collect_work(c: Counting) -> Work:
    """``collect``: one pass over the base variant, and the store."""
    base, section = c.outlook.rollouts["base"], c.study.collect
    rows = {"resid": c.rows_at(section.resid_post), "z": c.rows_at(section.z)}
    values = {"resid": c.shape.resid_per_row, "z": c.shape.z_per_row}
    row = sum(_width(kind) for kind in ROW_TYPES.values())
    stored = sum(_whole_chunks(n) * values[site] + n * row for site, n in rows.items())
    return Work("collect", (c.reading("base is read", base, c.default_budget()),), exact=stored)


def trace_work(c: Counting) -> Work:
    """``trace``: one pass over every unedited variant, and the headline's thinking closed early."""
    variants = [variant for variant in ("base", "reference") if variant in c.outlook.rollouts]
    jobs = [
        c.reading(f"{variant} is scored", c.outlook.rollouts[variant], c.study.batch_tokens, variant=variant)
        for variant in variants
    ]
    about = TOKEN_ROW["trace"] * sum(job.read for job in jobs)
    if endings := c.endings():
        jobs.append(c.reading("thinking closed early", endings, c.study.batch_tokens, 1, "before_answer", labels=True))
    return Work("trace", tuple(jobs), about=about)


def erase_work(c: Counting) -> Work:
    """``erase``: one pass over the training and the test part of the base variant."""
    read = c.outlook.chosen(c.outlook.labels["part"].isin(["train", "test"]))
    return Work("erase", (c.reading("states around the end of thinking", read, c.study.batch_tokens),))


def heads_work(c: Counting) -> Work:
    """``heads``: the distance of refused and complied rollouts; both halves once untouched and, from its layer on,
    without each head, the reporting one also without each sublayer; two readouts are taken apart in a pass each; two
    passes for the direct path and the writers, one for the null probes' states; and six short passes look at the head
    twice: what it reads, and the scale of its logits."""
    starts = [layer for layer in range(c.shape.n_layers) for _ in range(c.shape.n_heads)]
    sublayers = 2 * [*range(c.shape.n_layers)]
    jobs = [
        c.reading("refused and complied", c.refused_and_complied(), c.default_budget(), 1, "before_answer", labels=True)
    ]
    jobs += [
        c.replaying(
            f"{half} half, every head",
            c.complied_targets(half),
            starts + sublayers * (half == "report"),
            kinds=2 if half == "report" else 1,
        )
        for half in ("explore", "report")
    ]
    direct = c.complied_targets("report")
    jobs.append(c.reading("direct path and writers", direct, c.default_budget(), 2))
    jobs.append(c.reading("states of refused and complied", c.refused_and_complied(), c.default_budget()))
    jobs.append(c.reading("attribution", c.complied_targets("report"), c.default_budget(), 2))
    jobs.append(Job("scale of the logits", passes=6, flops=4 * c.shape.flops(1, 1, 4), moved=4 * c.shape.weights))
    jobs.append(Job("how the stream begins", passes=2))  # they end before the first layer
    return Work("heads", tuple(jobs))


def ablate_work(c: Counting) -> Work:
    """``ablate``: untouched, found and random sets on the same tokens, ever more heads, heads put into the reference
    model; free
    generation; two controls of the traces."""
    labels, ablation = c.outlook.labels, c.study.ablation
    times = 2 + ablation.random_sets
    cut = c.complied_targets("report")
    ks = curve_steps(c.shape.n_layers * c.shape.n_heads)
    jobs = [c.reading("random sets", cut, TOKEN_BUDGET["cpu"], times, "before_answer", labels=True)]
    jobs.append(c.reading("what heads write", c.complied_targets("explore"), c.default_budget()))
    jobs.append(
        c.reading(
            "ever more heads",
            cut,
            c.default_budget(),
            1 + len(ks) * (1 + ablation.curve_sets),
            "before_answer",
            labels=True,
        )
    )
    if c.study.reference:
        jobs.append(
            c.reading(
                "heads put into the reference",
                c.reference_targets(),
                c.default_budget(),
                times,
                "before_answer",
                variant="reference",
                labels=True,
            )
        )
        jobs.append(Job("which rows make a head", passes=c.shape.n_layers))
    variants = ["ablated", *(f"random_{i}" for i in range(ablation.generated_sets)), "transplanted"]
    jobs += [c.writing(variant) for variant in variants if c.outlook.rollouts.get(variant)]
    asked = labels["target"] & (labels["part"] == "test")
    for variant in ("base", "ablated"):
        jobs.append(c.reading(f"{variant} without the heads", c.outlook.chosen(asked, variant), c.study.batch_tokens))
    written = sum(len(r) for variant in variants for r in c.outlook.rollouts.get(variant, []))
    traced = sum(job.read for job in jobs[-2:])
    return Work("ablate", tuple(jobs), about=TOKEN_ROW["rollouts"] * written + TOKEN_ROW["trace"] * traced)


def tokens_work(c: Counting) -> Work:
    """``tokens``: chosen rollouts, the complied target ones a second time without the found heads."""
    shown = c.per_cell()
    labels = c.outlook.labels
    complied = set(labels.loc[labels["target"] & labels["cell"].str.endswith("_complied"), "rollout"])
    longer = any(len(string) > 1 for string in c.outlook.label_strings)
    positions = "before_answer" if longer else "all"
    variants = {"base": shown, "without the heads": [r for r in shown if r.id in complied]}
    jobs = [
        c.reading(f"{variant}, token by token", rollouts, c.study.batch_tokens, 1, positions, labels=longer)
        for variant, rollouts in variants.items()
        if rollouts
    ]
    rows = sum(job.read for job in jobs) * c.shape.n_layers
    return Work("tokens", tuple(jobs), about=TOKEN_ROW["trace"] * rows)


def no_model(stage: str) -> Callable[[Counting], Work]:
    """A stage that works on tables alone."""
    return lambda _: Work(stage, about=PAGE if stage in ("figures", "report") else 0)


WORK: Mapping[str, Callable[[Counting], Work]] = {
    "generate": rollouts_work,
    "collect": collect_work,
    "probe": no_model("probe"),
    "transfer": no_model("transfer"),
    "trace": trace_work,
    "erase": erase_work,
    "heads": heads_work,
    "ablate": ablate_work,
    "tokens": tokens_work,
    "results": no_model("results"),
    "figures": no_model("figures"),
    "report": no_model("report"),
}
"""What each stage asks for."""


def _whole_chunks(rows: int) -> int:
    """Rows a store makes room for: its chunks are allocated whole."""
    chunk = max(1, min(CHUNK_ROWS, rows))
    return -(-rows // chunk) * chunk


def _width(kind: type) -> int:
    import numpy as np

    return np.dtype(kind).itemsize
