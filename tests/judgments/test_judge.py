"""Judging end to end on random models: every probability is the stock model's own, every verdict is accounted for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.judgments.judge_worlds import ANSWER, CHOICE, DEBATE, PAIR, plain_logprob, real, tiny_judge
from tests.public_data import some
from verdictscope.activations import forward
from verdictscope.errors import InputError
from verdictscope.judgments import DebateItem, JudgeSettings, judge, load_format, load_items, order_contrasts
from verdictscope.judgments.cases import Case, own_verdict
from verdictscope.judgments.items import Item, Turn
from verdictscope.judgments.labels import distinct, encode_labels, label_log_odds
from verdictscope.judgments.verdicts import VERDICT_COLUMNS
from verdictscope.rollouts import Forcer, Sampling, find_markers
from verdictscope.rollouts.engines.requests import Written
from verdictscope.traces import forced_lengths, lens_readouts
from verdictscope.traces.contrasts import part_curves, parts_at
from verdictscope.traces.debates import debate_traces
from verdictscope.traces.verdicts import trace_places, verdict_trace

SETS = [
    ("judgebench/claude-3-5-sonnet.jsonl", "judgebench", "arena_hard"),
    ("llmbar/Natural.json", "llmbar", "output_ab"),
    ("pandalm/testset-v1.json", "pandalm", "mt_bench_pair"),
]


@pytest.mark.parametrize(("file", "reader", "form"), SETS)
def test_benchmark_items_are_judged_end_to_end(file: str, reader: str, form: str) -> None:
    items = load_items(some(file), reader, limit=3).items
    model = tiny_judge()
    judged = judge(model, items, form)
    table = judged.to_frame()
    assert list(table.columns[: len(VERDICT_COLUMNS)]) == list(VERDICT_COLUMNS)
    assert table["order"].tolist() == ["AB", "BA"] * 3
    assert (table["status"] == "ok").all()
    assert table["label"].tolist() == [i.label for i in items for _ in "ab"]
    sums = table[["p_first", "p_second", "p_tie"]].sum(axis=1)
    assert np.allclose(sums, 1)
    for row in table.to_dict("records"):
        assert row["probability"] == max(row["p_first"], row["p_second"], row["p_tie"])
        assert row["verdict"] == {"first": row["order"][0], "second": row["order"][1]}.get(row["shown"], "tie")
    assert len(judged.labels) == 6 * len(load_format(form).labels())


@pytest.mark.parametrize(("file", "reader", "form"), SETS)
def test_benchmark_items_are_traced_end_to_end(file: str, reader: str, form: str) -> None:
    """Prompt, readout, trace, table: through the thinking, through its lengths, and over the turns of a debate."""
    items = load_items(some(file), reader, limit=2).items
    model, tok = tiny_judge(), real("qwen")
    judged = judge(model, items, form, settings=JudgeSettings(thinking=6), sampling=Sampling(max_new_tokens=8))
    assert (judged.verdicts["status"] == "ok").all()
    labels = load_format(form).labels()
    encoded = encode_labels(tok, [label.text for label in labels], load_format(form).lead)
    readout = label_log_odds("verdict", encoded, [label.verdict for label in labels])
    every = replace(readout, positions="all")
    trace = verdict_trace(model, judged, [*lens_readouts(model, every), readout])
    assert set(trace["rollout"]) == set(judged.verdicts["rollout"])
    odds = np.log(judged.verdicts["p_first"]) - np.log(judged.verdicts["p_second"])
    said = trace[trace["readout"] == "verdict"].set_index("rollout")["score"].loc[judged.verdicts["rollout"]]
    assert said.to_numpy() == pytest.approx(odds.to_numpy(), abs=1e-3)
    contrasts = order_contrasts(judged.verdicts).values()
    curves = part_curves(
        parts_at(trace_places(trace, 3), contrasts, "place", ("readout", "layer")), "place", ("readout", "layer")
    )
    position = curves[(curves["part"] == "position") & (curves["readout"] == "verdict")]
    assert position["estimate"].tolist() == pytest.approx([odds.to_numpy().mean()], abs=1e-3)
    assert (curves[curves["part"] == "position"]["n"] == len(items)).all()
    short = forced_lengths(model, judged.rollouts, readout, Forcer(tok), (0, 3, 6), lead=encoded.shared)
    assert short["reason"].eq("").all()
    own = short[short["allowed"].isna()].set_index("rollout")["score"].loc[judged.verdicts["rollout"]]
    assert own.to_numpy() == pytest.approx(odds.to_numpy(), abs=1e-3)
    spoken = [
        DebateItem(
            id=i.id,
            question=i.question,
            a=i.a[:200] or "-",
            b=i.b[:200] or "-",
            label=i.label if i.label in ("A", "B") else None,
            turns=(Turn("A", i.a[:400]), Turn("B", i.b[:400])),
        )
        for i in items
    ]
    turns = debate_traces(model, spoken)
    assert len(turns.table) == len(items) * 3 * 2
    assert turns.table["score"].notna().all()
    assert set(turns.curves()["turn"]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("item", "form"),
    [
        (PAIR, "judgelm"),
        (ANSWER, "mt_bench_single"),
        (CHOICE, "choice_letter"),
        (ANSWER, "correct_incorrect"),
        (DEBATE, "debate_letter"),
    ],
)
def test_probabilities_are_the_stock_models_own(item: Item, form: str) -> None:
    model, tok = tiny_judge(), real("qwen")
    judged = judge(model, [item], form, settings=JudgeSettings(orders=["BA"]))
    (rollout,) = judged.rollouts
    labels = load_format(form).labels(item)
    texts, lead = [label.text for label in labels], load_format(form).lead
    encoded = encode_labels(tok, texts, lead)
    n = len(encoded.shared)
    assert encoded.shared == rollout.ids[len(rollout) - n :]
    assert judged.labels["said"].tolist() == texts
    for k in range(0, len(labels), max(1, len(labels) // 7)):
        logp = plain_logprob(model, rollout.ids, encoded.strings[k])
        assert judged.labels["logp"][k] == pytest.approx(logp, abs=2e-4)


def test_beginnings_that_tell_labels_apart_are_cheaper_and_at_least_as_likely() -> None:
    model, tok = tiny_judge(), real("qwen")
    assert distinct([(1, 9), (1, 0, 9), (8, 7, 9), (8, 8, 9)]) == ((1, 9), (1, 0), (8, 7), (8, 8))
    form = load_format("trustjudge_100")
    encoded = encode_labels(tok, [label.text for label in form.labels()], form.lead)
    short = distinct(encoded.strings)
    assert len({s[:-1] for s in encoded.strings if len(s) == 3}) == 90  # Qwen writes digits one by one
    assert len({s[:-1] for s in short}) == 10  # 1 to 9, and 10 before 100
    judged = judge(model, [ANSWER], form, settings=JudgeSettings(whole_labels=False))
    row = judged.verdicts.iloc[0]
    assert row["status"] == "ok"
    assert 1 <= row["expected"] <= 100
    (rollout,) = judged.rollouts
    for k in (0, 8, 9, 86, 99):
        logp = plain_logprob(model, rollout.ids, short[k])
        assert judged.labels["logp"][k] == pytest.approx(logp, abs=2e-4)
        assert logp >= plain_logprob(model, rollout.ids, encoded.strings[k])


def test_the_readout_is_the_difference_of_the_labels() -> None:
    model, tok = tiny_judge(), real("qwen")
    form = load_format("arena_hard")
    judged = judge(model, [PAIR], form, settings=JudgeSettings(orders=["AB"]))
    labels = form.labels()
    encoded = encode_labels(tok, [label.text for label in labels], form.lead)
    readout = label_log_odds("verdict", encoded, [label.verdict for label in labels])
    score = forward(model, judged.rollouts, score=[readout]).scores["score"][0]
    row = judged.verdicts.iloc[0]
    assert score == pytest.approx(np.log(row["p_first"]) - np.log(row["p_second"]), abs=1e-4)


@pytest.mark.parametrize("thinking", ["on", "off", 4, 0])
@pytest.mark.parametrize("answer", ["scored", "written"])
def test_thinking_on_off_and_at_a_forced_length(thinking: str | int, answer: str) -> None:
    model, tok = tiny_judge(), real("qwen")
    sampling = Sampling(temperature=1.0, max_new_tokens=12)
    judged = judge(
        model,
        [PAIR],
        "pair_letter",
        settings=JudgeSettings(answer=answer, thinking=thinking, runs=2),
        sampling=sampling,
    )
    table = judged.verdicts
    assert len(table) == 4
    assert (table["status"] == "ok").sum() == table["verdict"].notna().sum() == table["probability"].notna().sum()
    closer = find_markers(tok).closer[0][0]
    if thinking == "off":
        assert (table["n_thinking"] == 0).all() or (table["n_thinking"] <= 1).all()
    if isinstance(thinking, int):
        assert (table["n_thinking"][table["status"] != "shorter"] <= thinking + 1).all()
        for rollout in judged.rollouts:
            assert rollout.ids.count(closer) == 1
    if answer == "scored" and thinking != "on":
        assert (table["status"] == "ok").all()
    if thinking == "on" and answer == "scored":  # a random model does not close its thinking
        assert set(table["status"]) <= {"ok", "truncated"}


def test_thinking_is_kept_going() -> None:
    model, tok = tiny_judge(), real("qwen")

    class Closes(Says):
        """Closes its thinking after a word, every time it is asked."""

        def write(self, requests, sampling, eos):  # type: ignore[no-untyped-def]
            ids = tuple(tok(" hm\n</think>\n\nA<|im_end|>", add_special_tokens=False)["input_ids"])
            ends = [k for k, i in enumerate(ids) if i in eos]
            for k in range(len(requests)):
                yield [Written(k, ids[: ends[0] + 1], "stop")]

    how = JudgeSettings(thinking="on", engine=Closes([], 0), answer="written")
    plain = judge(model, [PAIR], "pair_letter", settings=how)
    longer = judge(model, [PAIR], "pair_letter", settings=replace(how, waits=2))
    assert (plain.verdicts["verdict"] == longer.verdicts["verdict"]).all()
    for before, after in zip(plain.written, longer.written, strict=True):
        assert before.id == after.id
        said = tok.decode(list(after.ids[len(before.ids) - 8 :]))
        assert said.count("Wait") == 2
        assert said.count("</think>") == 1
    scored = judge(model, [PAIR], "pair_letter", settings=replace(how, waits=2, answer="scored"))
    assert (scored.verdicts["n_thinking"] > plain.verdicts["n_thinking"]).all()
    assert (scored.verdicts["status"] == "ok").all()
    with pytest.raises(InputError, match="is for thinking that is on"):
        judge(model, [PAIR], "pair_letter", settings=JudgeSettings(waits=1))


def test_a_written_verdict_has_its_probability_and_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tok = tiny_judge(), real("qwen")
    said = [
        "<think>\nA wins: [[A>B]]\n</think>\n\nBoth fine. My verdict:[[B>>A]]<|im_end|>",
        "<think>\nno",
        "[[A>B]] [[B>A]]",
        "</think> nothing",
    ]
    engine = Says([tuple(tok(text, add_special_tokens=False)["input_ids"]) for text in said], tok.eos_token_id)
    items = [type(PAIR)(id=f"p{k}", question="q", a="x", b="y", label="B") for k in range(4)]
    judged = judge(
        model,
        items,
        "arena_hard",
        settings=JudgeSettings(orders=["BA"], answer="written", thinking="template", engine=engine),
    )
    table = judged.verdicts
    assert table["status"].tolist() == ["ok", "truncated", "contradictory", "unparsed"]
    assert table["verdict"].tolist() == ["A", None, None, None]  # "second" in the order BA
    assert table["shown"].tolist() == ["second", None, None, None]
    whole = judged.written[0]
    (verdict,) = [s for s in whole.spans if s.segment == "verdict"]
    assert tok.decode(list(whole.ids[verdict.start : verdict.stop])) == "B"
    assert whole.ids[: verdict.start] == judged.rollouts[0].ids
    lines = judged.labels
    strings = encode_labels(
        tok, [x.text for x in load_format("arena_hard").labels()], before=whole.ids[: verdict.start - 1]
    )
    logp = [plain_logprob(model, judged.rollouts[0].ids, s) for s in strings.strings]
    assert np.allclose(lines["logp"], logp, atol=2e-4)


class Says:
    """An engine that says given words."""

    name, independent = "says", True

    def __init__(self, words: list[tuple[int, ...]], end: int) -> None:
        self.words, self.end = words, end

    def describe(self) -> dict[str, str]:
        return {}

    def write(self, requests, sampling, eos):  # type: ignore[no-untyped-def]
        for k, ids in enumerate(self.words[: len(requests)]):
            text = ids if ids[-1] == self.end or k == 1 else (*ids, self.end)
            yield [Written(k, text, "length" if k == 1 else "stop")]

    def wave(self, sizes):  # type: ignore[no-untyped-def]
        return len(sizes)


def test_a_moved_option_is_told_in_the_items_own_letters() -> None:
    moved = CHOICE.moved(1, 0)  # "two" is shown as A
    assert own_verdict("A", Case("c", moved, "", 0)) == "B"
    judged = judge(tiny_judge(), [moved], "choice_letter")
    assert sorted(judged.labels["verdict"]) == ["A", "B", "C"]
    assert judged.labels["verdict"].tolist() == ["B", "A", "C"]
    assert judged.verdicts["order"].tolist() == [""]


def test_a_folder_keeps_the_verdicts_and_knows_its_request(tmp_path: Path) -> None:
    model = tiny_judge()
    first = judge(model, [PAIR], "pair_letter", path=tmp_path / "run")
    again = judge(model, [PAIR], "pair_letter", path=tmp_path / "run")
    assert first.verdicts.equals(again.verdicts.astype(first.verdicts.dtypes))
    assert [r.ids for r in first.rollouts] == [r.ids for r in again.rollouts]
    with pytest.raises(InputError, match="holds verdicts that were made with other"):
        judge(model, [PAIR], "compassjudger", path=tmp_path / "run")


def test_errors() -> None:
    model = tiny_judge()
    with pytest.raises(InputError, match="same id"):
        judge(model, [PAIR, PAIR], "pair_letter")
    with pytest.raises(InputError, match="order 'BB' is not one of"):
        judge(model, [PAIR], "pair_letter", settings=JudgeSettings(orders=["BB"]))
    with pytest.raises(InputError, match="thinking 'of' is not one of"):
        judge(model, [PAIR], "pair_letter", settings=JudgeSettings(thinking="of"))
    with pytest.raises(InputError, match="neither scored nor written"):
        judge(model, [PAIR], "pair_letter", settings=JudgeSettings(answer="both"))
    with pytest.raises(InputError, match="has no thinking markers"):
        judge(tiny_judge("mistral"), [PAIR], "pair_letter", settings=JudgeSettings(thinking="on"))
    endless = replace(PAIR, a="word " * 70_000)
    with pytest.raises(InputError, match="1 of 1 prompts do not fit the judge's context of 65536 tokens, p/AB/0 with"):
        judge(model, [endless], "pair_letter", settings=JudgeSettings(orders=["AB"]))
    drawn = judge(tiny_judge("mistral"), [PAIR], "pair_letter", settings=JudgeSettings(orders=["random"]))
    assert drawn.verdicts["order"][0] in ("AB", "BA")
