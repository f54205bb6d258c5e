"""``verdictscope plan``: its arithmetic against what a run of the bundled model really makes."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from verdictscope.errors import InputError
from verdictscope.rollouts.tables import from_frame
from verdictscope.sources import models_folder
from verdictscope.study.folder import RunFolder
from verdictscope.study.load import Study, read_study
from verdictscope.study.planning import ASSUMED, WORK, Counting, Outlook, Plan, plan_study, print_plan, read_shape
from verdictscope.study.planning.shape import stored_parameters
from verdictscope.study.planning.show import hours, size
from verdictscope.study.run import run_study
from verdictscope.study.tasks.refusal import Refusal

CLIFF = models_folder() / "cliff"
UNTIL = "tokens"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    table = pd.read_csv(CLIFF / "prompts.csv")
    groups = table.drop_duplicates("group").groupby(["verb_category", "object_category"])["group"]
    keep = groups.apply(lambda names: names.sample(3, random_state=0))
    file = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    table[table["group"].isin(keep)].to_csv(file, index=False)
    sets = [
        f"prompts.file={file}",
        "heads.rollouts=6",
        "ablation.generated_sets=1",
        "batch_tokens=4096",
        "probe.C=[0.1]",
    ]
    made = read_study("refusal_cliff", sets)
    # fewer than a study may ask for: what is counted here is no evidence
    few = {"ablation": made.ablation.model_copy(update={"random_sets": 4})}
    return made.model_copy(update=few | {"probe": made.probe.model_copy(update={"permutations": 20})})


@pytest.fixture(scope="module")
def counted(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    """A run, and how often each of its stages called a model; the checks of a model that is loaded apart."""
    folder, calls, now = tmp_path_factory.mktemp("plan") / "run", Counter(), [""]
    stage, model = RunFolder.stage, RunFolder.model

    @contextmanager
    def noted(run: RunFolder, name: str) -> Iterator[bool]:
        with stage(run, name) as todo:
            now[0] = name
            yield todo

    def loaded(run: RunFolder, variant: str = "base") -> Any:
        before, now[0] = now[0], ""
        found = model(run, variant)
        now[0] = before
        return found

    call = Qwen3Model.__call__  # not forward: a run keeps no result of a model whose forward somebody changed

    def called(*args: Any, **kwargs: Any) -> Any:
        calls[now[0]] += 1
        return call(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "stage", noted)
        patch.setattr(RunFolder, "model", loaded)
        patch.setattr(Qwen3Model, "__call__", called)
        run_study(study, folder, until=UNTIL)
    return folder, calls


@pytest.fixture(scope="module")
def after(study: Study, counted: tuple[Path, Counter[str]]) -> Counting:
    """The same arithmetic with the run's own rollouts in place of assumed ones."""
    run = RunFolder(study, counted[0])
    tables = pd.concat([run.table("rollouts"), run.table("rollouts_ablated")])
    rollouts = {variant: from_frame(of_variant) for variant, of_variant in tables.groupby("variant")}
    labels = run.table("labels")
    strings = run.readout().strings
    outlook = Outlook(rollouts, labels[labels["variant"] == "base"].reset_index(drop=True), strings)
    return Counting(study, read_shape(study.model), outlook, "cpu", read_shape(study.reference or ""))


def test_every_stage_is_planned() -> None:
    assert tuple(WORK) == Refusal.stages


@pytest.mark.parametrize("stage", ["collect", "probe", "transfer", "trace", "erase", "heads", "tokens"])
def test_passes_are_those_the_run_made(after: Counting, counted: tuple[Path, Counter[str]], stage: str) -> None:
    assert WORK[stage](after).total("passes") == counted[1][stage]


def test_passes_of_generation_are_bounded(study: Study, after: Counting, counted: tuple[Path, Counter[str]]) -> None:
    planned = {row.stage: row for row in plan_study(study).rows}
    assert 0 < counted[1]["rollouts"] <= planned["generate"].passes
    assert 0 < counted[1]["ablate"] <= planned["ablate"].passes
    reads = sum(job.passes for job in WORK["ablate"](after).jobs if not job.generations)
    assert reads < counted[1]["ablate"]


def test_generations_and_tokens_are_those_of_the_tables(
    study: Study, after: Counting, counted: tuple[Path, Counter[str]]
) -> None:
    for stage, table in (("generate", "rollouts"), ("ablate", "rollouts_ablated")):
        rows = RunFolder(study, counted[0]).table(table)
        work = WORK[stage](after)
        assert work.total("generations") == len(rows)
        assert work.total("written") == (rows["ids"].map(len) - rows["n_prompt"]).sum()
    # before the run the number is known as well, the tokens are a bound
    planned = {row.stage: row for row in plan_study(study).rows}
    assert planned["generate"].generations == len(RunFolder(study, counted[0]).table("rollouts"))
    assert planned["generate"].written >= WORK["rollouts"](after).total("written")


def test_the_trace_reads_every_token(study: Study, after: Counting, counted: tuple[Path, Counter[str]]) -> None:
    trace = RunFolder(study, counted[0]).table("trace")
    read = sum(job.read for job in WORK["trace"](after).jobs if job.what.endswith("is scored"))
    assert read == int(trace["variant"].isin(["base", "reference"]).sum())


def test_stored_bytes_are_those_of_the_file(after: Counting, counted: tuple[Path, Counter[str]]) -> None:
    file = counted[0] / "activations.h5"
    sizes: dict[str, int] = {}
    with h5py.File(file, "r") as opened:
        opened.visititems(
            lambda name, item: (
                sizes.update({name: item.id.get_storage_size()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    exact = WORK["collect"](after).exact
    assert exact == sum(n for name, n in sizes.items() if name.split("/")[0] in ("resid_post", "z"))
    assert 0 <= file.stat().st_size - exact <= 0.02 * exact + 200_000, "the structure and the plan of the batches"


def test_parameters_cache_and_operations_are_those_of_the_model() -> None:
    shape = read_shape("organism:cliff")
    model = AutoModelForCausalLM.from_pretrained(CLIFF, attn_implementation="eager")
    assert shape.parameters == sum(p.numel() for p in model.parameters()) == stored_parameters(CLIFF)
    assert shape.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    assert shape.dtype == "float32"
    ids, cache = torch.zeros(3, 20, dtype=torch.long), DynamicCache(config=model.config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    assert counter.get_total_flops() == shape.flops(3, 20, logits=3)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == 60 * shape.kv_per_token
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids[:, :1], past_key_values=cache, use_cache=True)
    assert counter.get_total_flops() == shape.flops(3, 1, logits=3, context=21)


def test_memory_is_the_batch_with_most_in_it(study: Study) -> None:
    planned = {row.stage: row for row in plan_study(study).rows}
    shape = read_shape(study.model)
    # a batch holds at most batch_tokens tokens of prompt and answer
    assert shape.weights < planned["generate"].memory
    cache = study.batch_tokens * shape.kv_per_token
    assert planned["generate"].memory <= shape.weights + cache + study.batch_tokens * shape.live_per_token
    more = plan_study(study.model_copy(update={"batch_tokens": 16384})).total.memory
    assert more > plan_study(study).total.memory


def test_a_folder_with_a_config_and_no_weights_is_enough(tmp_path: Path, study: Study) -> None:
    (tmp_path / "config.json").write_text((CLIFF / "config.json").read_text())
    bare = plan_study(study.model_copy(update={"model": str(tmp_path), "reference": None}))
    assert bare.shape.parameters == read_shape("organism:cliff").parameters
    assert bare.shape.checkpoint is None
    assert any("no tokenizer here" in note for note in bare.notes)
    assert bare.rows[0].generations == len(pd.read_csv(study.data.prompts.file))


def test_labels_of_several_tokens_take_passes_of_their_own(study: Study) -> None:
    def heads(words: list[str]) -> int:
        labels = study.data.labels.model_copy(update={"refuse": words})
        changed = study.model_copy(update={"data": study.data.model_copy(update={"labels": labels})})
        return {row.stage: row.passes for row in plan_study(changed).rows}["heads"]

    assert heads(["sorry cannot", "i"]) > heads(["sorry", "i"])


def test_rates_are_stated_or_measured(study: Study) -> None:
    slow, fast = plan_study(study, device="rtx4090"), plan_study(study, device="h100")
    assert slow.total.hours >= fast.total.hours
    assert plan_study(study, device="cpu", tflops=1e-3).total.hours > plan_study(study, device="cpu").total.hours
    measured = plan_study(study, measured=True)
    assert measured.rates.source.startswith("measured here")
    assert 0 < measured.total.hours < 1
    for key in ASSUMED:
        assert key in str(plan_study(study, device="cpu"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "abacus"}, "no device 'abacus': known are h100"),
        ({"device": "cpu", "tflops": 0.0}, "--tflops is 0"),
        ({"written": 9999}, "--written is 9999"),
        ({"prompts": 2}, "--prompts is 2"),
    ],
)
def test_options_that_make_no_sense(study: Study, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan_study(study, **options)


# -- the command
# ------------------------------------------------------------------------------------------------------------------


def test_the_table_explains_itself_and_says_that_hours_are_an_estimate(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = call("plan", "refusal_cliff")
    assert done.code == 0, done.err
    for word in (*Refusal.stages, "together", "3,072 bytes a token", "1,239,360", "ESTIMATE", "--measure", "assumed"):
        assert word in done.out, word


@pytest.fixture(scope="module")
def small() -> Plan:
    return plan_study(read_study("refusal_cliff"), device="h100", prompts=6)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_nothing_of_the_table_is_cut(small: Plan, columns: int, wide: bool) -> None:
    out = io.StringIO()  # no terminal: as in a pipe
    print_plan(small, Console(file=out, width=columns), wide=wide)
    told = out.getvalue().splitlines()
    for number in (hours(small.total.hours), size(small.total.memory), size(small.total.disk)):
        assert number in told[0]
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told if "│" in line]
    for line, row in zip(lines, [*small.rows, small.total], strict=True):
        sizes = [size(n) if n else "" for n in (row.memory, row.disk)]
        assert line[:4] == [row.stage, hours(row.hours) if row.passes else "", *sizes]
        assert len(line) == (8 if wide else 4)
    if not wide:
        assert max(len(line) for line in told if "│" in line) <= 80


def test_nothing_is_wider_than_a_terminal(small: Plan) -> None:
    out = io.StringIO()
    print_plan(small, Console(file=out, width=80, force_terminal=True, color_system=None))
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_the_plan_as_json(call: Callable[..., Any]) -> None:
    done = call("plan", "refusal_cliff", "--json", "--written", "80", "--device", "a100")
    plan = json.loads(done.out)
    assert [row["stage"] for row in plan["stages"]] == list(Refusal.stages)
    assert plan["together"]["generations"] == sum(row["generations"] for row in plan["stages"])
    assert plan["stages"][0]["written"] == 80 * plan["stages"][0]["generations"]
    assert plan["rates"]["name"].startswith("A100")


def test_a_plan_touches_no_weights(call: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in CLIFF.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])  # its header is there, its numbers are not
    done = call("plan", "refusal_cliff", "--set", f"model={folder}", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["model"]["parameters"] == 1_239_360


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "model=/no/such/model"], "no such folder"),
        (["--set", "sampling.max_new_tokens=9000"], "lower sampling.max_new_tokens to"),
        (["--set", "prompts.file=/no/such.csv"], "/no/such.csv"),
        (["--device", "abacus"], "no device 'abacus'"),
    ],
)
def test_wrong_plans_are_one_line(call: Callable[..., Any], arguments: list[str], says: str) -> None:
    done = call("plan", "refusal_cliff", *arguments)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""
