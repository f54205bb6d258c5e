"""Rollouts to a table and back: nothing lost, the file whole or absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rollouts.makers import byte_tokenizer
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout, Sampling, Span, read_parquet, render_prompt, write_parquet
from verdictscope.rollouts.segments import Segmenter
from verdictscope.rollouts.tables import from_frame, to_frame

SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@st.composite
def rollout(draw: st.DrawFn) -> Rollout:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    names = draw(st.lists(st.sampled_from(["template", "user", "thinking", "answer"]), min_size=5, max_size=5))
    stops = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    total = stops[-1]
    drawn = draw(st.booleans())
    return Rollout(
        id="x",
        group=draw(st.text(max_size=4)),
        ids=tuple(draw(st.lists(st.integers(0, 200_000), min_size=total, max_size=total))),
        spans=tuple(Span(n, stop - size, stop) for n, size, stop in zip(names, sizes, stops, strict=False)),
        n_prompt=draw(st.integers(1, total)),
        finish=draw(st.sampled_from(["stop", "length"])) if drawn else "given",
        sampling=Sampling(draw(st.floats(0, 2)), draw(st.floats(0.1, 1)), 7, draw(st.integers(0, 2**62)))
        if drawn
        else None,
        engine="huggingface" if drawn else "given",
        tags=draw(st.dictionaries(st.text(max_size=4), SCALAR, max_size=3)),
    )


@settings(max_examples=40, deadline=None)
@given(rollouts=st.lists(rollout(), max_size=4))
def test_nothing_is_lost(rollouts: list[Rollout], tmp_path_factory: pytest.TempPathFactory) -> None:
    rollouts = [replace(r, id=f"p/{k}") for k, r in enumerate(rollouts)]
    assert from_frame(to_frame(rollouts)) == rollouts
    path = write_parquet(rollouts, tmp_path_factory.getbasetemp() / "lossless.parquet")
    assert read_parquet(path) == rollouts
    assert from_frame(pd.read_parquet(path)) == rollouts
    pd.testing.assert_frame_equal(to_frame(read_parquet(path)), to_frame(rollouts))


def made(text: str = "<think>\nSo.\n</think>\n\nNo") -> Rollout:
    tok = byte_tokenizer()
    prompt = render_prompt(tok, "Is it?")
    written = tok(text, add_special_tokens=False)["input_ids"]
    spans = Segmenter(tok)(prompt, written, "stop")
    return Rollout(
        "a/0", "a", (*prompt.ids, *written), spans, len(prompt.ids), "stop", Sampling(), "huggingface", {"harm": True}
    )


def test_text_for_people() -> None:
    frame = to_frame([made(), replace(made("<think>\nSo"), id="a/1")], byte_tokenizer())
    assert frame["prompt"].tolist() == ["a", "a"]
    assert frame["prompt_text"][0] == "<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant\n"
    assert frame["thinking_text"].tolist() == ["So.\n", "So"]
    assert frame["answer_text"][0] == "No"
    assert pd.isna(frame["answer_text"][1])


def test_the_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet([made()], tmp_path / "new" / "r.parquet", byte_tokenizer())

    def dies(table: Any, part: Path) -> None:
        part.write_bytes(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        write_parquet([made(), replace(made(), id="b")], path)
    assert read_parquet(path) == [made()]
    assert [p.name for p in path.parent.iterdir()] == ["r.parquet"]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="occurs twice"):
        to_frame([made(), made()])
    with pytest.raises(InputError, match="a tag"):
        to_frame([replace(made(), tags={"x": object()})])
    with pytest.raises(InputError, match="would change"):
        to_frame([replace(made(), tags={"x": (1, 2)})])
    with pytest.raises(InputError, match="does not exist"):
        read_parquet(tmp_path / "no.parquet")
    (tmp_path / "junk.parquet").write_text("junk")
    with pytest.raises(InputError, match="no Parquet file"):
        read_parquet(tmp_path / "junk.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="holds no rollouts"):
        read_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="column 'ids' is missing"):
        from_frame(to_frame([made()]).drop(columns="ids"))
