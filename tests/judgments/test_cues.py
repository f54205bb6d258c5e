"""Cues: one sentence for both sides, controls as long as the cue, studies that change nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.judgments.judge_worlds import ANSWER, BASES, CHOICE, PAIR, real, tiny_judge
from verdictscope.errors import InputError
from verdictscope.judgments import JudgeSettings, ask, judge, load_format, make_cues
from verdictscope.judgments.asking import rendered
from verdictscope.judgments.cues.cue import KINDS, TEXTED, make_cue, sentences
from verdictscope.judgments.cues.mitigations import examples, self_reflection, system_rules
from verdictscope.judgments.cues.padding import matched
from verdictscope.judgments.cues.study import cue_study
from verdictscope.judgments.metrics import verdict_metrics
from verdictscope.rollouts import Sampling


@pytest.mark.parametrize("base", BASES)
def test_every_control_is_as_long_as_its_cue_in_the_whole_prompt(base: str) -> None:
    tok, form = real(base), load_format("pair_letter")
    for kind in TEXTED:
        place, texts = sentences()[kind]
        assert len(texts) == len(set(texts)) >= 3
        for k in range(len(texts)):
            cue = make_cue(kind, PAIR, None if kind == "reflection" else "B", text=k, tokenizer=tok)
            lengths = []
            for variant in (cue.control, cue.cued):
                asked = ask(form, variant.item, "AB", variant.insertions)
                lengths.append(len(rendered(tok, asked).ids))
            assert cue.neutral != cue.text
            # where a cue ends an answer it meets other neighbours than where it was counted; at most one token
            assert abs(lengths[0] - lengths[1]) <= (place == "answer"), (kind, k, cue.neutral)


def test_the_same_sentence_speaks_for_the_right_and_the_wrong_side() -> None:
    right, _ = make_cues("bandwagon", [PAIR, CHOICE], "right")
    wrong, _ = make_cues("bandwagon", [PAIR, CHOICE], "wrong")
    for a, b in zip(right, wrong, strict=True):
        assert (a.text, a.place) == (b.text, b.place)
        assert (a.toward, b.toward) == ("right", "wrong")
        assert a.target != b.target
    form = load_format("pair_letter")
    texts = [ask(form, PAIR, "AB", cue.cued.insertions).user for cue in (right[0], wrong[0])]
    (differ,) = [(x, y) for x, y in zip(*texts, strict=True) if x != y]
    assert differ == ("A", "B")


def test_a_cue_names_its_target_where_it_is_shown() -> None:
    cue = make_cue("bandwagon", PAIR, "A", text="Most chose {target}.")
    form = load_format("output_ab")
    assert "Most chose Output (a)." in ask(form, PAIR, "AB", cue.cued.insertions).user
    assert "Most chose Output (b)." in ask(form, PAIR, "BA", cue.cued.insertions).user
    cited = make_cue("citation", PAIR, "B", text="(cited)")
    assert "It is 5, I think. (cited)" in ask(form, PAIR, "BA", cited.cued.insertions).user


def test_position_moves_the_target_and_nothing_else() -> None:
    cue = make_cue("position", PAIR, "B")
    assert (cue.control.order, cue.cued.order) == ("AB", "BA")
    choice = make_cue("position", CHOICE, "B")
    assert choice.control.item.options == ("one", "three", "two")
    assert choice.cued.item.options == ("two", "one", "three")
    assert choice.cued.item.label == "B"


def test_references_are_exchanged() -> None:
    other = replace(PAIR, id="q", reference="seven")
    asked = (("no_reference", None), ("random_reference", None), ("wrong_reference", "B"))
    shown = {kind: make_cue(kind, PAIR, target, other=other).cued.item.reference for kind, target in asked}
    assert shown == {"no_reference": None, "random_reference": "seven", "wrong_reference": "It is 5, I think."}
    assert make_cue("wrong_reference", PAIR, "B").control.item.reference == "4"
    rewritten = replace(CHOICE, options=("a dull one", "a lovely two", "a dull three"))
    assert make_cue("version", CHOICE, other=rewritten).cued.item is rewritten


def test_what_a_cue_does_not_fit_is_told() -> None:
    tie = replace(PAIR, id="t", label="tie")
    cues, left = make_cues("bandwagon", [PAIR, tie, replace(PAIR, id="u", label=None)])
    assert [cue.control.item.id for cue in cues] == ["p"]
    assert set(left) == {"t", "u"}
    assert "name the target" in left["t"]
    with pytest.raises(InputError, match="cue 'bandwaggon' is not one of"):
        make_cues("bandwaggon", [PAIR])
    with pytest.raises(InputError, match="sentences 0 to 7, not 8"):
        make_cues("bandwagon", [PAIR], text=8)
    with pytest.raises(InputError, match="has no side 'C'"):
        make_cue("bandwagon", PAIR, "C")
    with pytest.raises(InputError, match="use another cue for multiple choice"):
        make_cue("reflection", CHOICE)
    with pytest.raises(InputError, match="no neutral text has"):
        matched(real("qwen"), "word " * 500)


@pytest.mark.parametrize("kind", ["bandwagon", "reflection", "position", "wrong_reference", "verbosity"])
def test_a_study_differs_by_the_cue_alone(kind: str) -> None:
    model, tok = tiny_judge(), real("qwen")
    items = [PAIR, replace(PAIR, id="q", label="B", reference="seven")]
    cues, left = make_cues(kind, items, tokenizer=tok)
    assert not left
    table = cue_study(model, cues, "mt_bench_pair")
    kinds = {"plain", "control", "cued"} if kind in TEXTED else {"control", "cued"}
    assert set(table["variant"]) == kinds
    n = 1 if kind == "position" else 2
    assert table.groupby("variant").size().to_dict() == dict.fromkeys(kinds, n * len(items))
    if kind == "position":
        cued = table[table["variant"] == "cued"]
        assert (cued["order"].str[0] == cued["target"]).all()
    if kind == "reflection":
        assert (table["target"] == table["order"].str[1]).all()
    else:
        assert (table["toward"] == "wrong").all()
    found = verdict_metrics(table, resamples=2).table.set_index(["part", "name"])["n"]
    assert found[kind, "flip_rate"] == (len(items) if kind == "position" else 2 * len(items))
    assert found[kind, "follow_rate"] == found[kind, "flip_rate"]
    same = judge(model, items, "mt_bench_pair").verdicts
    plain = table[table["variant"] == ("plain" if kind in TEXTED else "control")]
    for row in plain.to_dict("records"):
        (reference,) = same[(same["item"] == row["item"]) & (same["order"] == row["order"])].to_dict("records")
        assert reference["p_first"] == pytest.approx(row["p_first"], abs=1e-6)


def test_a_study_runs_with_thinking_on_off_and_at_forced_lengths() -> None:
    model, tok = tiny_judge(), real("qwen")
    cues, _ = make_cues("bandwagon", [PAIR], tokenizer=tok)
    for thinking in ("off", "on", 3):
        table = cue_study(
            model,
            cues,
            "pair_letter",
            settings=JudgeSettings(orders=["AB"], thinking=thinking),
            sampling=Sampling(max_new_tokens=6),
        )
        drawn = thinking != "off"
        assert (table["variant"] == "control").sum() == (2 if drawn else 1), "the noise floor needs a repeat"
        assert set(table["status"]) <= {"ok", "truncated", "shorter"}


def test_mitigations_change_the_prompt_and_nothing_of_the_items() -> None:
    form = load_format("pair_letter")
    asked = ask(form, PAIR)
    ruled = system_rules()(asked)
    assert ruled.user == asked.user
    assert ruled.system is not None
    assert ruled.system.startswith(asked.system or "")
    assert ruled.system.count("\n") == 6
    wondered = self_reflection()(asked)
    assert wondered.user.endswith(asked.user.split("\n\n")[-1])
    shots = [replace(PAIR, id="x"), replace(PAIR, id="y", label="B")]
    shown = examples(form, shots)(asked)
    assert [said for _, said in shown.examples] == ["A", "A"]  # the right side is shown first in both orders' turn
    assert len(shown.messages()) == 6
    with pytest.raises(InputError, match="has no label"):
        examples(form, [replace(PAIR, label="tie")])
    judged = judge(
        tiny_judge(), [PAIR], form, settings=JudgeSettings(transforms=[system_rules(), examples(form, shots)])
    )
    assert (judged.verdicts["status"] == "ok").all()
    assert ANSWER.label in ("correct", "incorrect")
    assert set(TEXTED) < set(KINDS)
