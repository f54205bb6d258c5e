"""A model judges items: prompts in, one table of verdicts with their probabilities out.

Two ways to a verdict. *Scored*: the format's label strings are teacher-forced right where the answer would begin (after
the thinking, where the judge thinks), and nothing of the answer is written. *Written*: the judge writes its answer, the
answer is read, and the label strings are teacher-forced in its place, so that a written verdict has a probability too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from verdictscope.activations import Model
from verdictscope.errors import InputError
from verdictscope.judgments.asking import ORDERS, Insertion
from verdictscope.judgments.cases import Asker, CaseAnswer, Transform, make_cases, make_prompts, own_verdict
from verdictscope.judgments.formats.format import Format, load_format
from verdictscope.judgments.items import Item
from verdictscope.judgments.labels import distinct, label_logprobs
from verdictscope.judgments.scores import expected_score, probabilities, verdict_probabilities
from verdictscope.judgments.verdicts import VERDICT_COLUMNS
from verdictscope.kept import check_same, model_facts, tokenizer_facts
from verdictscope.provenance import digest, whole, write_json
from verdictscope.rollouts import ChatOptions, Rollout, Sampling, read_parquet, write_parquet
from verdictscope.rollouts.engines.huggingface import HuggingFace
from verdictscope.rollouts.engines.limits import position_limit
from verdictscope.rollouts.engines.requests import Engine
from verdictscope.rollouts.engines.state import kept_again
from verdictscope.rollouts.language_model import tokenizer_of

Progress = Callable[[int, int], None]
_TEXTS = ("verdict", "shown", "label", "said", "answer")
MORE = ("rollout", "format", "said", "mass", "n_thinking", "answer")


@dataclass(frozen=True, eq=False, repr=False)
class Judged:
    """The verdicts of a judge.

    Attributes:
        verdicts: a row per item, order and run: :data:`VERDICT_COLUMNS`; then ``rollout``, ``format``, ``said`` (the
            label string), ``mass`` (probability that any label string comes there, given what they share),
            ``n_thinking`` (tokens), ``answer`` (as written), and ``p_first p_second p_tie`` or ``expected`` (the mean
            score).
        labels: a row per rollout and label string: rollout, said, verdict (own frame), value, logp (nats).
        rollouts: by row that has a probability, the tokens up to the one before the verdict's first differing token:
            where probes, traces and edits read it (``last``).
        written: whole rollouts, the verdict's first differing token marked as the segment ``verdict``.

    Example:
        >>> from verdictscope import judge, load_model
        >>> from verdictscope.judgments import load_items
        >>> from verdictscope.sources import locate
        >>> items = load_items(locate("organism:judge/items.csv"), "pairs", limit=1).items
        >>> judge(load_model("organism:judge"), items, locate("organism:judge/format.toml"))
        Judged(2 verdicts of 1 items: 2 ok)
    """

    verdicts: pd.DataFrame
    labels: pd.DataFrame
    rollouts: tuple[Rollout, ...]
    written: tuple[Rollout, ...] = ()

    @classmethod
    def load(cls, folder: str | Path) -> Judged:
        """What :func:`judge` kept in a folder."""
        folder = Path(folder)
        if not (folder / "request.json").is_file():
            raise InputError(f"{folder} holds no finished verdicts: judge the items into it (judge(..., path=))")
        tables = [pd.read_parquet(folder / f"{name}.parquet") for name in ("verdicts", "labels")]
        for name in _TEXTS:
            tables[0][name] = tables[0][name].astype(object).where(tables[0][name].notna(), None)
        rollouts = [folder / f"{name}.parquet" for name in ("readings", "whole")]
        return cls(*tables, *(tuple(read_parquet(f)) if f.is_file() else () for f in rollouts))

    def to_frame(self) -> pd.DataFrame:
        """The table of verdicts."""
        return self.verdicts

    def __repr__(self) -> str:
        status = ", ".join(f"{n} {name}" for name, n in self.verdicts["status"].value_counts().items())
        return f"Judged({len(self.verdicts)} verdicts of {self.verdicts['item'].nunique()} items: {status})"

    def named(self, variant: str) -> Judged:
        """The same with ``variant/`` before every rollout's id, so that several variants can be measured together."""
        tables = [table.assign(rollout=f"{variant}/" + table["rollout"]) for table in (self.verdicts, self.labels)]
        ids = [
            tuple(replace(r, id=f"{variant}/{r.id}") for r in rollouts) for rollouts in (self.rollouts, self.written)
        ]
        return Judged(tables[0], tables[1], ids[0], ids[1])


@dataclass(frozen=True)
class JudgeSettings:
    """How a judge is asked.

    Attributes:
        orders: ``AB``, ``BA``, both, or ``random`` (one of them per item, drawn from its id); ignored for items
            without sides.
        answer: ``scored`` (label strings teacher-forced, the likeliest is the verdict) or ``written`` (the answer is
            generated and parsed).
        thinking: ``off`` (an empty block), ``on``, ``template`` (as the chat template renders it), or a number of
            tokens after which thinking is closed. A judge without thinking takes ``off`` and ``template``.
        waits: how often thinking that would close is continued with "Wait" (:func:`verdictscope.rollouts.prolong`).
        whole_labels: score every token of a label; otherwise only as many as distinguish it from the others, which
            costs far less on scales of two-digit scores.
        runs: repeats per prompt; the noise floor of a sampling judge.
        insertions: cues, by item and order.
        transforms: changes of the prompt, in order (``judgments.cues.mitigations``).
        name: what to call the judge in tables; the model's name by default.
        chat: switches of the chat template and thinking markers named by hand.
        engine: what generates tokens, as of :func:`verdictscope.rollouts.generate`.
        batch_tokens: tokens of a batch.

    Example:
        >>> JudgeSettings(orders=("AB",), thinking=64).answer
        'scored'
    """

    orders: Sequence[str] = ORDERS
    answer: str = "scored"
    thinking: str | int = "off"
    waits: int = 0
    whole_labels: bool = True
    runs: int = 1
    insertions: Callable[[Item, str], Sequence[Insertion]] | None = None
    transforms: Sequence[Transform] = ()
    name: str | None = None
    chat: ChatOptions = ChatOptions()
    engine: str | Engine = "huggingface"
    batch_tokens: int = 16_384


def judge(
    model: Model,
    items: Sequence[Item],
    format: str | Path | Format,
    *,
    settings: JudgeSettings | None = None,
    sampling: Sampling | None = None,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> Judged:
    """Let a model judge items.

    Args:
        model: the judge; its tokenizer has a chat template.
        items: what is judged; ids unique.
        format: name of a shipped format, a TOML file, or a :class:`Format`.
        settings: orders, thinking, cues and the like.
        sampling: how to sample, where anything is generated.
        path: a folder to keep rollouts and verdicts in: a call that was killed, given again, continues, and one that
            is done is read, for the same weights as they are now, edits in force, tokenizer, items and settings alone.
        progress: called with (done, all) as tokens are scored and rollouts generated.

    Raises:
        InputError: ids repeat, an unknown order or setting, an item that the format does not judge, thinking asked of
            a judge that has none; ``path`` holds the verdicts of another request; what
            :func:`verdictscope.rollouts.generate` raises.

    Example:
        >>> from verdictscope import load_model
        >>> from verdictscope.judgments import load_items
        >>> from verdictscope.sources import locate
        >>> items = load_items(locate("organism:judge/items.csv"), "pairs", limit=2).items
        >>> found = judge(load_model("organism:judge"), items, locate("organism:judge/format.toml"))
        >>> found.verdicts[["order", "verdict"]].shape
        (4, 2)
    """
    form, settings, drawn = load_format(format), settings or JudgeSettings(), sampling or Sampling()
    chat, engine = settings.chat, settings.engine
    cases = make_cases(form, items, settings.orders, settings.runs)
    prompts = make_prompts(
        tokenizer_of(model), form, cases, settings.insertions, settings.transforms, chat.template_kwargs
    )
    how = Asker(
        model,
        form,
        settings.answer,
        settings.thinking,
        drawn,
        chat.markers,
        engine,
        settings.batch_tokens,
        progress,
        settings.waits,
    )
    name, folder = settings.name or model.name, None if path is None else Path(path)
    if folder is not None:
        request = {
            "prompts": digest(repr([(c.id, p.ids, c.order, c.run) for c, p in zip(cases, prompts, strict=True)])),
            "items": digest(repr([c.item for c in cases])),
            "format": json.loads(json.dumps(asdict(form), default=repr)),
            "answer": settings.answer,
            "thinking": settings.thinking,
            "waits": settings.waits,
            "whole_labels": settings.whole_labels,
            "sampling": asdict(drawn),
            "judge": name,
            "markers": repr(chat.markers),
            "engine": _described(engine),
        }
        request |= model_facts(model.hf, like=_kept_weights(folder)) | tokenizer_facts(model.tokenizer)
        if (kept := _kept(folder, request)) is not None:
            kept_again()
            return kept
    answers = how.answers(cases, prompts, folder)
    judged = _judged(model, form, answers, name, settings.whole_labels, settings.batch_tokens, progress)
    if folder is not None:
        _keep(folder, request, judged, model.tokenizer)
    return judged


def _judged(
    model: Model,
    form: Format,
    answers: Sequence[CaseAnswer],
    name: str,
    whole_labels: bool,
    budget: int,
    progress: Progress | None,
) -> Judged:
    at = [k for k, r in enumerate(answers) if r.prefix is not None and r.encoded is not None]
    prefixes = [answers[k].prefix for k in at]
    _check_context(model, [p for p in prefixes if p is not None])
    strings = [answers[k].encoded.strings for k in at]  # type: ignore[union-attr]
    strings = strings if whole_labels else [distinct(labels) for labels in strings]
    found = label_logprobs(model, prefixes, strings, token_budget=budget, progress=progress)  # type: ignore[arg-type]
    logps: dict[int, np.ndarray] = dict(zip(at, found, strict=True))
    rows = [_row(form, answer, name, logps.get(k)) for k, answer in enumerate(answers)]
    columns = [*VERDICT_COLUMNS, *MORE, *(("p_first", "p_second", "p_tie") if form.sided else ("expected",))]
    labels = [line for k in at for line in _lines(form, answers[k], logps[k])]
    written = tuple(r.whole for r in answers if r.whole is not None)
    table = pd.DataFrame(rows, columns=columns)
    for column in _TEXTS:
        table[column] = table[column].astype(object).where(table[column].notna(), None)
    lines = pd.DataFrame(labels, columns=["rollout", "said", "verdict", "value", "logp"])
    return Judged(table, lines, tuple(p for p in prefixes if p is not None), written)


def _check_context(model: Model, prefixes: Sequence[Rollout]) -> None:
    """A prompt beyond the model's positions would be read, and read wrongly."""
    limit = position_limit(model.hf)
    if limit is not None and (long := [r for r in prefixes if len(r) > limit]):
        raise InputError(
            f"{len(long)} of {len(prefixes)} prompts do not fit the judge's context of {limit} tokens, {long[0].id} "
            f"with {len(long[0])} first: leave those items out, or take another judge"
        )


def _row(form: Format, answer: CaseAnswer, name: str, logp: np.ndarray | None) -> dict[str, Any]:
    case, parsed = answer.case, answer.parsed
    shown, p, said = parsed.verdict, float("nan"), parsed.said
    more: dict[str, float] = {}
    if logp is not None:
        labels = form.labels(case.item)
        by_verdict = verdict_probabilities(logp, [label.verdict for label in labels])
        if parsed.status == "scored":
            shown = max(by_verdict, key=lambda v: by_verdict[v])
            said = labels[int(np.argmax(logp))].text.strip()
        p = by_verdict.get(shown or "", float("nan"))
        more = {f"p_{v}": by_verdict.get(v, 0.0) for v in ("first", "second", "tie")} if form.sided else {}
        more["mass"] = float(np.exp(logp).sum())
        values = [label.value for label in labels]
        if None not in values and not form.sided:
            more["expected"] = expected_score(probabilities(logp), [v for v in values if v is not None])
    status = "ok" if parsed.status == "scored" else parsed.status
    return {
        "item": case.item.id,
        "group": case.item.group,
        "judge": name,
        "order": case.order,
        "run": case.run,
        "verdict": own_verdict(shown, case),
        "shown": shown if form.sided else None,
        "probability": p,
        "label": case.item.label,
        "status": status,
        "source": case.item.source,
        "rollout": case.id,
        "format": form.name,
        "said": said,
        "n_thinking": answer.n_thinking,
        "answer": answer.answer,
        **more,
    }


def _lines(form: Format, answer: CaseAnswer, logp: np.ndarray) -> list[tuple[Any, ...]]:
    labels = zip(form.labels(answer.case.item), logp, strict=True)
    case = answer.case
    return [(case.id, label.text, own_verdict(label.verdict, case), label.value, float(lp)) for label, lp in labels]


def _described(engine: str | Engine) -> Any:
    """What draws, where that is not the model at hand, whose facts are noted anyway."""
    if isinstance(engine, str | HuggingFace):
        return "huggingface"
    return {"name": engine.name, **engine.describe()}


def _request_in(folder: Path) -> dict[str, Any] | None:
    """The request a folder was finished with; empty where it was not, ``None`` where an earlier version did it."""
    file = folder / "request.json"
    if not file.is_file():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))["request"]
    return found if isinstance(found, dict) else None


def _kept_weights(folder: Path) -> str | None:
    return (_request_in(folder) or {}).get("weights")


def _kept(folder: Path, request: Mapping[str, Any]) -> Judged | None:
    found = _request_in(folder)
    if found == {}:
        return None
    check_same(f"{folder} holds verdicts that were", found, request, "name another folder, or remove it")
    return Judged.load(folder)


def _keep(folder: Path, request: Mapping[str, Any], judged: Judged, tokenizer: PreTrainedTokenizerBase) -> None:
    """Everything, and the request last: it says that the rest is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("verdicts", judged.verdicts), ("labels", judged.labels)):
        with whole(folder / f"{name}.parquet") as part:
            table.to_parquet(part, index=False)
    for name, rollouts in (("readings", judged.rollouts), ("whole", judged.written)):
        if rollouts:
            write_parquet(rollouts, folder / f"{name}.parquet", tokenizer)
    write_json(folder / "request.json", {"request": request, "format": 2})
