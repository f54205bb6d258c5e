"""Recorded conversations: exact where ids were kept, degraded with a reason where not, never dropped in silence."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.rollouts.makers import CHATML, byte_tokenizer
from verdictscope.errors import InputError
from verdictscope.rollouts import answer_text, import_transcripts
from verdictscope.rollouts.segments import thinking_text
from verdictscope.rollouts.tables import from_frame, to_frame

ASK = [{"role": "system", "content": "Be."}, {"role": "user", "content": "How?"}]


def jsonl(folder: Path, *rows: Any) -> Path:
    file = folder / "t.jsonl"
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows))
    return file


def said(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [*ASK, {"role": "assistant", "content": content, **more}]}


def test_recorded_ids_are_kept_as_they_are(tmp_path: Path) -> None:
    tok = byte_tokenizer()
    text = "<think>\nhe. the\n</think>\n\nSure."
    # spelled byte by byte: no encoder would write these
    ids = [
        i
        for c in text.replace("<think>", "\0").replace("</think>", "\1")
        for i in (
            [tok.convert_tokens_to_ids({"\0": "<think>", "\1": "</think>"}[c])]
            if c in "\0\1"
            else tok(c, add_special_tokens=False)["input_ids"]
        )
    ]
    assert ids != tok(text, add_special_tokens=False)["input_ids"]
    file = jsonl(tmp_path, said(text) | {"id": "a/0", "token_ids": ids, "finish_reason": "stop", "mode": "x"})
    (made,) = import_transcripts(file, tok).exact
    assert list(made.ids[made.n_prompt :]) == ids
    assert thinking_text(made, tok) == "he. the\n"
    assert answer_text(made, tok) == "Sure."
    assert (made.group, made.finish, made.engine) == ("a", "stop", "transcript")
    assert made.tags == {"mode": "x", "degraded": None}
    assert from_frame(to_frame([made], tok)) == [made]


def test_text_that_encodes_faithfully_is_exact_and_the_rest_says_why_not(tmp_path: Path) -> None:
    tok = byte_tokenizer()
    inside = "<think>\nhm\n</think>\n\nSure."
    rows = [
        said(inside) | {"id": "inside"},
        said("Sure.", reasoning_content="hm") | {"id": "apart"},
        said([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Sure."}]) | {"id": "parts"},
        said("Sure<|im_start|>.") | {"id": "special"},
        said("", reasoning="still going") | {"id": "cut", "finish_reason": "max_tokens"},
        said("Sure.") | {"id": "ids", "token_ids": tok("Nope")["input_ids"]},
    ]
    found = import_transcripts(jsonl(tmp_path, *rows), tok)
    reasons = dict(zip(found.report["rollout"], found.report["reason"], strict=True))
    assert reasons["inside"] is None
    assert "recorded apart" in reasons["apart"]
    assert "recorded apart" in reasons["parts"]
    assert "special tokens" in reasons["special"]
    assert "do not spell the recorded text" in reasons["ids"]
    by = {r.id: r for r in found.rollouts}
    # what the template prints around reasoning is what was recorded inside the text
    assert by["apart"].ids == by["parts"].ids == by["inside"].ids
    assert by["apart"].spans == by["inside"].spans
    assert by["cut"].finish == "length"
    assert answer_text(by["cut"], tok) is None
    assert thinking_text(by["cut"], tok) == "still going"
    assert [r.id for r in found.exact] == ["inside"]
    assert "6 transcripts" in found._repr_html_()


def test_an_opener_in_the_generation_prompt_stands_once(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    tok = byte_tokenizer(template=template)
    rows = [
        said("hm\n</think>\n\nSure.") | {"id": "bare"},
        said("<think>\nhm\n</think>\n\nSure.") | {"id": "twice"},
        said("Sure.", reasoning="hm") | {"id": "apart"},
    ]
    found = import_transcripts(jsonl(tmp_path, *rows), tok)
    assert len({r.ids for r in found.rollouts}) == 1
    assert found.report["status"].tolist() == ["exact", "degraded", "degraded"]


OPENS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CLOSES = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking", "thought", "part"])
@pytest.mark.parametrize("template", [CHATML, OPENS])
def test_reasoning_recorded_apart_is_written_as_the_template_writes_it(
    tmp_path: Path, field: str, template: str
) -> None:
    tok = byte_tokenizer(template=template)
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Use </think>."}]
    apart = said(parts) if field == "part" else said("Use </think>.", **{field: "hm"})
    inside = said("<think>\nhm\n</think>\n\nUse </think>.")
    both = said("<think>\nhm\n</think>\n\nUse </think>.", reasoning_content="hm")
    rows = [apart | {"id": "apart"}, inside | {"id": "inside"}, both | {"id": "both"}]
    made = import_transcripts(jsonl(tmp_path, *rows), tok).rollouts
    assert len({r.ids for r in made}) == len({r.spans for r in made}) == 1
    assert (thinking_text(made[0], tok), answer_text(made[0], tok)) == ("hm\n", "Use </think>.")


def test_an_answer_is_never_read_as_thinking(tmp_path: Path) -> None:
    """A prompt that opens thinking, and a log that kept only the answer."""
    tok = byte_tokenizer(template=OPENS)
    rows = [
        said("Sure.") | {"id": "lost"},
        said("Sure.", reasoning_content="") | {"id": "empty"},
        said("so far") | {"id": "cut", "finish_reason": "length"},
    ]
    found = import_transcripts(jsonl(tmp_path, *rows), tok)
    assert found.report["status"].tolist() == ["left out", "degraded", "exact"]
    assert "not recorded" in found.report["reason"][0]
    empty, cut = found.rollouts
    assert (thinking_text(empty, tok), answer_text(empty, tok)) == (None, "Sure.")
    assert (thinking_text(cut, tok), answer_text(cut, tok)) == ("so far", None)


def test_thinking_that_the_prompt_switches_off_is_no_thinking_of_this_run(tmp_path: Path) -> None:
    tok = byte_tokenizer(template=CLOSES)
    rows = [said("Sure.", reasoning="hm") | {"id": "on"}, said("Sure.", reasoning="") | {"id": "off"}]
    found = import_transcripts(jsonl(tmp_path, *rows), tok)
    assert found.report["status"].tolist() == ["left out", "exact"]
    assert "template_kwargs" in found.report["reason"][0]


def test_thinking_of_earlier_turns_stands_where_the_template_prints_it(tmp_path: Path) -> None:
    tok = byte_tokenizer()
    before = {"role": "assistant", "content": "So.", "reasoning": "earlier"}
    row = {"messages": [*ASK, before, ASK[1], {"role": "assistant", "content": "No."}], "id": "a"}
    (made,) = import_transcripts(jsonl(tmp_path, row), tok).rollouts
    shown = [tok.decode(list(made.ids[s.start : s.stop])) for s in made.spans if s.segment == "thinking"]
    assert [text.strip() for text in shown] == ["earlier"]
    assert thinking_text(made, tok) is None


def test_what_cannot_be_read_is_reported_and_left_out(tmp_path: Path) -> None:
    rows = [
        "{not json",
        "[1]",
        {"id": "none"},
        {"messages": ASK},
        said("x", tool_calls=[{}]),
        said([{"type": "image"}]),
        said([{"type": "reasoning", "reasoning": "", "redacted": True}]),
        said("x") | {"id": "a"},
        said("y") | {"id": "a"},
        said("x") | {"id": "far", "token_ids": [10**6]},
        {"messages": [{"role": "wizard", "content": "hi"}, {"role": "assistant", "content": "x"}]},
        {"conversations": [{"from": "human", "value": "How?"}, {"from": "gpt", "value": "So."}], "id": "shared"},
    ]
    found = import_transcripts(jsonl(tmp_path, *rows), byte_tokenizer())
    assert len(found.report) == len(rows)
    assert [r.id for r in found.rollouts] == ["a", "shared"]
    left = found.report[found.report["status"] == "left out"]["reason"].tolist()
    for word in (
        "no JSON",
        "no JSON object",
        "no list of messages",
        "nothing the model wrote",
        "tool calls",
        "'image'",
        "redacted",
        "occurs twice",
        "another model's",
        "'wizard'",
    ):
        assert any(word in reason for reason in left), word


def sample(k: int, epoch: int) -> dict[str, Any]:
    return {
        "id": k,
        "epoch": epoch,
        "input": "How?",
        "target": "x",
        "metadata": {"harm": True, "nested": {}},
        "messages": [
            {"role": "user", "content": "How?", "source": "input"},
            {
                "role": "assistant",
                "source": "generate",
                "content": [
                    {"type": "reasoning", "reasoning": "hm", "redacted": False},
                    {"type": "text", "text": "Sure."},
                ],
            },
        ],
        "output": {"model": "m", "choices": [{"stop_reason": "stop"}]},
        "scores": {"refuses": {"value": "C"}},
    }


@pytest.mark.parametrize("form", ["eval", "json"])
def test_inspect_logs(tmp_path: Path, form: str) -> None:
    tok = byte_tokenizer()
    samples = [sample(1, 1), sample(1, 2), sample(2, 1)]
    file = tmp_path / f"log.{form}"
    head = {"version": 2, "eval": {"model": "hf/some"}}
    if form == "eval":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("header.json", json.dumps(head))
            for s in samples:
                archive.writestr(f"samples/{s['id']}_epoch_{s['epoch']}.json", json.dumps(s))
    else:
        file.write_text(json.dumps(head | {"samples": samples}))
    found = import_transcripts(file, tok)
    assert [r.id for r in found.rollouts] == ["1/0", "1/1", "2/0"]
    first = found.rollouts[0]
    assert (first.group, first.finish) == ("1", "stop")
    assert first.tags | {"degraded": ""} == {"harm": True, "model": "hf/some", "score_refuses": "C", "degraded": ""}
    assert answer_text(first, tok) == "Sure."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.jsonl", None, "does not exist"),
        ("empty.jsonl", b"", "holds no rows"),
        ("bad.eval", b"PK nonsense", "no inspect_ai log"),
        ("bad.json", b"[1]", "no list of samples"),
        ("bad.txt", b"x", "use .jsonl, .eval or .json"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        import_transcripts(file, byte_tokenizer())


GOOD = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "ok"}]


@pytest.mark.parametrize(
    "bad",
    [
        {"messages": [{"role": "user", "content": 12}, GOOD[1]]},
        {"messages": [{"role": "user", "content": {"text": "How?"}}, GOOD[1]]},
        {"messages": [{"role": "user", "content": None}, GOOD[1]]},
        {"messages": [{"role": "user", "content": True}, GOOD[1]]},
        {"messages": [{"role": "user", "content": ["How?"]}, GOOD[1]]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}, GOOD[1]]},
        {"messages": [{"role": ["user"], "content": "How?"}, GOOD[1]]},
        {"messages": [{"content": "How?"}, GOOD[1]]},
        {"messages": [GOOD[0], {"role": "assistant", "content": "ok", "reasoning": ["hm"]}]},
        {"messages": [GOOD[0], {"role": "assistant", "content": 0.5}]},
        {"messages": ["How?", "ok"]},
        {"messages": {"role": "user"}},
        {"messages": 3},
        {"conversations": ["How?"]},
        {"conversations": [{"from": ["human"], "value": "How?"}, {"from": "gpt", "value": "ok"}]},
        {"conversations": [{"from": "human", "value": 3}, {"from": "gpt", "value": "ok"}]},
        {"messages": GOOD, "id": ["a"]},
        {"messages": GOOD, "id": 1.5},
        {"messages": GOOD, "id": True},
        {"messages": GOOD, "group": {"a": 1}},
        {"messages": GOOD, "token_ids": "abc"},
        {"messages": GOOD, "token_ids": [1.0]},
        {"messages": GOOD, "note": float("nan")},
        {"messages": [{"role": "user", "content": "cut \ud83d"}, GOOD[1]]},
    ],
    ids=repr,
)
def test_one_bad_record_is_left_out_and_the_others_read(tmp_path: Path, bad: dict[str, Any]) -> None:
    file = tmp_path / "t.jsonl"
    rows = [{"id": 0, "messages": GOOD}, {"id": "bad", **bad}, {"id": "1", "messages": GOOD, "group": 7}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = import_transcripts(file, byte_tokenizer())
    assert [(r.id, r.group) for r in found.rollouts] == [("0", "0"), ("1", "7")]
    (left,) = found.report[found.report["status"] == "left out"].to_dict("records")
    assert left["rollout"] == "line 2"
    assert len(left["reason"]) > 5


@pytest.mark.parametrize(
    "bad",
    [
        b'{"id": "bad", "messages": [{"role": "user", "content": "caf\xe9"}]}',
        b'{"id": "bad", "id": "worse", "messages": []}',
        b'{"id": "bad"\x00}',
        b'{"id": "bad", "messages": [',
    ],
)
def test_a_line_that_is_damaged_is_left_out(tmp_path: Path, bad: bytes) -> None:
    file = tmp_path / "t.jsonl"
    good = [json.dumps({"id": k, "messages": GOOD}).encode() for k in range(2)]
    file.write_bytes(b"\n".join([good[0], bad, b"", good[1]]))
    found = import_transcripts(file, byte_tokenizer())
    assert [r.id for r in found.rollouts] == ["0", "1"]
    assert found.report["rollout"].tolist() == ["0", "line 2", "1"]


@pytest.mark.parametrize(
    "change",
    [
        {"output": []},
        {"output": {"choices": "stop"}},
        {"epoch": "first"},
        {"epoch": 0},
        {"metadata": [1]},
        {"scores": ["C"]},
        {"messages": [{"role": "user", "content": 1}]},
        {"id": {"a": 1}},
    ],
    ids=repr,
)
def test_one_bad_sample_of_a_log_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    samples = [sample(1, 1), sample(2, 1) | change, sample(3, 1)]
    plain, packed = tmp_path / "log.json", tmp_path / "log.eval"
    plain.write_text(json.dumps({"eval": {"model": "m"}, "samples": samples}))
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("header.json", json.dumps({"eval": {"model": "m"}}))
        for k, one in enumerate(samples):
            archive.writestr(f"samples/{k}.json", json.dumps(one))
        archive.writestr("samples/9.json", '{"id": 9, "messages": [')
    for file, left in ((plain, 1), (packed, 2)):
        found = import_transcripts(file, byte_tokenizer())
        assert [r.group for r in found.rollouts] == ["1", "3"]
        assert (found.report["status"] == "left out").sum() == left
