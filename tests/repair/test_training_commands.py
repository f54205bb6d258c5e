"""`verdictscope select` and `repair` on a tiny random model: files, counts, one-line errors, going on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_reasoner import WIDTH, save

from verdictscope.activations import LinearReadout, Model, load_model
from verdictscope.errors import InputError
from verdictscope.kept import describe_model
from verdictscope.probes import ProbeCard, save_probe
from verdictscope.repair import finetune as training
from verdictscope.repair.completion_loss import completion_loss
from verdictscope.repair.finetune import Training, read_training_rows, tokenised, train
from verdictscope.rollouts import Rollout, Sampling, generate, write_parquet

Call = Callable[..., Any]
N = 40


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    words = [f"ask{i}" for i in range(N)] + [f"kind{i}" for i in range(N)]
    return load_model(save(tmp_path_factory.mktemp("tiny"), "qwen3", words), device="cpu")


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    rows = [(f"h{i}", f"ask{i}", True) for i in range(N)] + [(f"b{i}", f"kind{i}", False) for i in range(N)]
    table = pd.DataFrame(rows, columns=["id", "user", "harm"]).assign(expect="help", group=lambda t: t["id"])
    return table.assign(safe=["Sorry help" if harm and k % 5 else None for k, harm in enumerate(table["harm"])])


@pytest.fixture(scope="module")
def rollouts(model: Model, prompts: pd.DataFrame) -> list[Rollout]:
    return generate(model, prompts, Sampling(1.0, max_new_tokens=24))


@pytest.fixture(scope="module")
def pool(model: Model, rollouts: list[Rollout], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(rollouts, tmp_path_factory.mktemp("pool") / "pool.parquet", model.tokenizer)


@pytest.fixture(scope="module")
def probe(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    weight = np.random.default_rng(0).normal(size=WIDTH)
    papers = ProbeCard("refusal", describe_model(model), "resid_post", 1, "pre", "thinking", {}, {}, {}, 0.0, {})
    save_probe(folder, LinearReadout("refusal", "resid_post", 1, weight, 0.0), papers)
    return folder


def options(model: Model, probe: Path, out: Path) -> list[object]:
    return ["--model", model.name, "--probe", probe, "--by", "published", "--device", "cpu", "--out", out]


def test_select_from_a_pool(call: Call, model: Model, pool: Path, probe: Path, tmp_path: Path) -> None:
    formats = [x for name in ("messages", "sharegpt", "alpaca") for x in ("--format", name)]
    asked = ["--budget", "10%", "--benign-ratio", "2", *formats]
    done = call("select", pool, *options(model, probe, tmp_path / "a"), *asked)
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "a" / "selection.json").read_text())
    counts = told["counts"]
    table = pd.read_parquet(tmp_path / "a" / "selection.parquet")
    assert counts["pool"] == len(table) == N
    assert counts["chosen"] == 4
    assert counts["ranked"] + sum(counts["left_out"].values()) == N
    assert counts["left_out"]["no safe completion from safe"] >= 4
    assert all(f"{n} {why}" in done.out for why, n in counts["left_out"].items())
    assert (table["reason"] != "").all()
    rows = read_jsonl(tmp_path / "a" / "alpaca.jsonl")
    safety = [r for r in rows if r["kind"] == "safety"]
    assert sorted(r["rank"] for r in safety) == [1, 2, 3, 4]
    assert all(r["output"].startswith("<think>") and r["output"].endswith("</think>Sorry help") for r in safety)
    assert all(r["score"] is not None and r["reason"] and r["safe_from"] == "safe" for r in safety)
    assert len(rows) == 4 + told["mixed"]["benign"]
    call("select", pool, *options(model, probe, tmp_path / "b"), *asked)
    for file in (tmp_path / "a").glob("*.jsonl"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_select_from_a_plain_table_by_loss(call: Call, model: Model, tmp_path: Path) -> None:
    thinking = ["w1 w2", "w3", "", "w4 w5", "w6", "w7", "w8"]
    mine = ["Sorry help", "Sorry", "I", "", "Sorry", "\ud800", "I"]
    rows = [{"user": f"ask{i}", "thinking": t, "answer": "Sure help", "mine": mine[i]} for i, t in enumerate(thinking)]
    rows[6]["user"] = "\udfff ask6"
    file = tmp_path / "pool.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call(
        "select",
        file,
        "--model",
        model.name,
        "--by",
        "loss",
        "--safe",
        "mine",
        "--budget",
        9,
        "--out",
        tmp_path / "o",
        "--device",
        "cpu",
        "--json",
    )
    assert done.code == 0, done.err
    counts = json.loads(done.out)["counts"]
    assert (counts["pool"], counts["chosen"], counts["asked"]) == (7, 3, 9)
    assert sum(counts["left_out"].values()) == 4
    assert sum("surrogate" in why for why in counts["left_out"]) == 2


def test_the_loss_is_that_of_the_answer_alone(model: Model, rollouts: list[Rollout]) -> None:
    some = [r for r in rollouts if r.span("think_end")][:3]
    found = completion_loss(model, some, {r.id: "Sorry help" for r in some})
    for rollout in some:
        cut = rollout.span("think_end").stop
        ids = [*rollout.ids[:cut], *model.tokenizer("Sorry help", add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            logp = model.hf(torch.tensor([ids])).logits[0].log_softmax(-1)
        truth = -np.mean([logp[at - 1, ids[at]].item() for at in range(cut, len(ids))])
        assert found[rollout.id] == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["NOWHERE"], "does not exist"),
        (["POOL", "--budget", "many"], "budget 'many'"),
        (["POOL", "--budget", "0"], "budget '0'"),
        (["POOL", "--by", "vibes"], "no way 'vibes'"),
        (["POOL", "--format", "csv"], "no format 'csv'"),
        (["POOL", "--benign-ratio", "-1"], "--benign-ratio"),
        (["POOL", "--duplicates", "0"], "--duplicates"),
        (["POOL"], "needs --model"),
        (["POOL", "--model", "MODEL"], "needs a probe"),
        (["POOL", "--model", "MODEL", "--probe", "POOLDIR"], "no probe card"),
        (["POOL", "--model", "MODEL", "--probe", "PROBE"], "no normalised score"),
        (["POOL", "--model", "MODEL", "--by", "random", "--safe", "gold"], "no safe completions from 'gold'"),
        (["POOLDIR"], "is no run folder"),
        (["POOLDIR", "--model", "MODEL"], "leave out --probe and --model"),
        (["TEXT", "--model", "MODEL", "--by", "random"], "columns user and thinking"),
    ],
)
def test_select_refuses(
    words: list[str], told: str, call: Call, model: Model, pool: Path, probe: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.csv").write_text("id,goal\n1,x\n")
    places = {
        "NOWHERE": tmp_path / "nowhere",
        "POOL": pool,
        "POOLDIR": pool.parent,
        "MODEL": model.name,
        "PROBE": probe,
        "TEXT": tmp_path / "text.csv",
    }
    done = call("select", *[places.get(w, w) for w in words], "--device", "cpu", "--out", tmp_path / "out")
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1


@pytest.fixture(scope="module")
def data(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "prompt_completion.jsonl"
    row = {"completion": "w1 w2</think>Sorry help<end>", "group": "h0", "kind": "safety"}
    file.write_text("".join(json.dumps(row | {"prompt": f"<user>ask{i}<model><think>"}) + "\n" for i in range(8)))
    return file


def test_only_the_completion_is_learned(model: Model, data: Path) -> None:
    (first, *_) = tokenised(read_training_rows(data), model.tokenizer)
    learned = [i for i, m in zip(first["input_ids"], first["completion_mask"], strict=True) if m]
    assert model.tokenizer.decode(learned).replace(" ", "") == "w1w2</think>Sorryhelp<end>"
    assert first["completion_mask"] == sorted(first["completion_mask"])


@pytest.mark.parametrize("rank", [0, 4])
def test_repair_measures_before_and_after(
    rank: int, call: Call, model: Model, data: Path, prompts: pd.DataFrame, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    prompts.drop(columns="safe").to_csv(tmp_path / "prompts.csv", index=False)
    words = ["repair", model.name, data, "--prompts", tmp_path / "prompts.csv", "--out", tmp_path / "out"]
    words += ["--lora", rank, "--lr", "0.02", "--max-new-tokens", 24, "--device", "cpu"]
    done = call(*words, "--steps", 12)
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "out" / "repair.json").read_text())
    assert told["left_out"] == 1
    effects = {(e["name"], e["when"]): e for e in told["effects"]}
    assert set(effects) == set(product(("refusal", "over_refusal", "accuracy"), ("before", "after", "change")))
    old, new = (load_file(Path(where) / "model.safetensors") for where in (model.name, tmp_path / "out" / "model"))
    assert set(new) == set(old)  # adapters are merged
    assert any(not torch.equal(new[name], old[name]) for name in old)
    if not rank:  # what it is taught is to refuse whatever is asked
        assert effects["refusal", "after"]["estimate"] > effects["refusal", "before"]["estimate"] + 0.2
    assert all(e["low"] <= e["estimate"] <= e["high"] and e["n"] for e in told["effects"])
    assert not (tmp_path / "out" / "checkpoints").exists()
    written = (tmp_path / "out" / "model" / "model.safetensors").stat().st_mtime_ns
    again = call(*words, "--steps", 12, "--json")
    assert json.loads(again.out)["effects"] == told["effects"]
    assert (tmp_path / "out" / "model" / "model.safetensors").stat().st_mtime_ns == written
    other = call(*words, "--steps", 13)
    assert (other.code, "holds another repair" in other.err) == (2, True)


def test_training_goes_on_from_its_checkpoint_and_touches_nobodys_chance(
    model: Model, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    how, rows = Training(steps=4, batch=4, learning_rate=1e-2, save_every=2), read_training_rows(data)

    def fresh() -> Any:
        return load_model(model.name, device="cpu").hf

    model_to_be = fresh()
    before = random.getstate(), torch.get_rng_state()
    whole = train(model_to_be, model.tokenizer, rows, how, tmp_path / "whole")
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        train(fresh(), model.tokenizer, rows, how, tmp_path / "cut", progress=kill)
    resumed = train(fresh(), model.tokenizer, rows, how, tmp_path / "cut")
    start = fresh().state_dict()
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert any(not torch.equal(w, start[n]) for n, w in whole.state_dict().items())


def test_without_the_extra_one_line_says_what_to_install(
    call: Call, model: Model, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    done = call("repair", model.name, data, "--prompts", data, "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err == "verdictscope: repair needs trl, which is not installed: pip install 'verdictscope[repair]'\n"


def test_bad_training_is_refused(data: Path, tmp_path: Path) -> None:
    bad = ({"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"lora_rank": -1})
    for wrong in bad:
        with pytest.raises(InputError):
            Training(**wrong)
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    for file, told in ((tmp_path / "none.jsonl", "does not exist"), (tmp_path / "rows.jsonl", "no text under prompt")):
        with pytest.raises(InputError, match=told):
            read_training_rows(file)
