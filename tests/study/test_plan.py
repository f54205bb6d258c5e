"""``verdictscope plan``: its arithmetic against what a run of the bundled model really makes."""

from __future__ import annotations

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
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from verdictscope.activations.plan import TOKEN_BUDGET
from verdictscope.rollouts import Rollout
from verdictscope.rollouts.tables import from_frame
from verdictscope.sources import models_folder
from verdictscope.study.folder import RunFolder
from verdictscope.study.load import Study, read_study
from verdictscope.study.plan import (
    JUDGE,
    OUTCOMES,
    Counting,
    Text,
    Work,
    hours,
    plan_study,
    read_shape,
    size,
    stage_work,
    stored_bytes,
)
from verdictscope.study.run import run_study
from verdictscope.study.tasks import stages_of
from verdictscope.traces.landmarks import landmarks

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
    facts = run.table("labels").query("variant == 'base'").set_index("rollout")
    texts = {}
    for variant, rows in pd.concat([run.table("rollouts"), run.table("rollouts_ablated")]).groupby("variant"):
        texts[variant] = [counts(r, facts.loc[r.id]) for r in from_frame(rows)]
    sizes = {"dtype": study.dtype, "revision": None, "trust_remote_code": False, "device": "cpu"}
    shapes = {"base": read_shape(study.model, **sizes), "reference": read_shape(study.reference or "", **sizes)}
    return Counting(study, shapes, texts, TOKEN_BUDGET["cpu"])


def counts(rollout: Rollout, facts: pd.Series) -> Text:
    found = landmarks(rollout)
    closing = found.answer - found.think_end if found.answer is not None and found.think_end is not None else 0
    own = facts["part"], facts["cell"], bool(facts["target"]), bool(facts["control"])
    size = len(rollout)
    return Text(rollout.n_prompt, size, found.thinking, found.n_thinking, closing, found.answer, *own)


def total(works: list[Work], name: str) -> int:
    return sum(getattr(work, name) for work in works)


@pytest.mark.parametrize("stage", ["collect", "probe", "transfer", "trace", "erase", "tokens"])
def test_passes_are_those_the_run_made(after: Counting, counted: tuple[Path, Counter[str]], stage: str) -> None:
    assert total(stage_work(after, stage), "passes") == counted[1][stage]


def test_passes_of_sweeps_and_generation_are_bounded(
    study: Study, after: Counting, counted: tuple[Path, Counter[str]]
) -> None:
    assert total(stage_work(after, "heads"), "passes") == pytest.approx(counted[1]["heads"], rel=0.1)
    planned = {row.stage: row for row in plan_study(study).rows}
    assert 0 < counted[1]["generate"] <= planned["generate"].passes
    assert 0 < counted[1]["ablate"] <= planned["ablate"].passes
    assert total([w for w in stage_work(after, "ablate") if not w.generations], "passes") < counted[1]["ablate"]


def test_generations_and_tokens_are_those_of_the_tables(
    study: Study, after: Counting, counted: tuple[Path, Counter[str]]
) -> None:
    planned = {row.stage: row for row in plan_study(study).rows}
    for stage, table in (("generate", "rollouts"), ("ablate", "rollouts_ablated")):
        rows = RunFolder(study, counted[0]).table(table)
        work = stage_work(after, stage)
        assert total(work, "generations") == len(rows)
        assert total(work, "written") == (rows["ids"].map(len) - rows["n_prompt"]).sum()
        # before the run the tokens are a bound
        assert planned[stage].written >= total(work, "written")
    assert planned["generate"].generations == len(RunFolder(study, counted[0]).table("rollouts"))


def test_stored_bytes_are_those_of_the_file(after: Counting, counted: tuple[Path, Counter[str]]) -> None:
    file = counted[0] / "activations.h5"
    sizes: dict[str, int] = {}
    with h5py.File(file, "r") as opened:
        opened.visititems(
            lambda name, item: (
                sizes.update({name: item.id.get_storage_size()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    exact = stored_bytes(after)
    values = sum(n for name, n in sizes.items() if name.split("/")[0] in ("resid_post", "z"))
    assert exact == pytest.approx(values, rel=0.01)  # the index of the rows apart
    assert 0 <= file.stat().st_size - exact <= 0.02 * exact + 200_000, "the structure and the plan of the batches"


def test_parameters_cache_and_operations_are_those_of_the_model(study: Study) -> None:
    shape = read_shape("organism:cliff", dtype="auto", revision=None, trust_remote_code=False, device="cpu")
    model = AutoModelForCausalLM.from_pretrained(CLIFF, attn_implementation="eager")
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    ids, cache = torch.zeros(3, 20, dtype=torch.long), DynamicCache(config=model.config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    assert counter.get_total_flops() == shape.flops(60, 20, 3)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == 60 * shape.kv_per_token
    planned = plan_study(study)
    assert shape.weights < planned.rows[0].memory
    more = plan_study(study.model_copy(update={"batch_tokens": 16384})).total.memory
    assert more > planned.total.memory


def test_a_folder_with_a_config_and_no_weights_is_enough(tmp_path: Path, study: Study) -> None:
    (tmp_path / "config.json").write_text((CLIFF / "config.json").read_text())
    bare = plan_study(study.model_copy(update={"model": str(tmp_path), "reference": None}))
    assert bare.shape.parameters == 1_239_360
    assert any("characters a token" in note for note in bare.notes)
    assert bare.rows[0].generations == len(pd.read_csv(study.data.prompts.file))


def test_labels_of_several_tokens_take_passes_of_their_own(study: Study) -> None:
    def heads(words: list[str]) -> int:
        labels = study.data.labels.model_copy(update={"refuse": words})
        data = study.data.model_copy(update={"labels": labels})
        return {row.stage: row.passes for row in plan_study(study.model_copy(update={"data": data})).rows}["heads"]

    assert heads(["sorry cannot", "i"]) > heads(["sorry", "i"])


@pytest.mark.parametrize("name", ["refusal_cliff", "judge_bias"])
def test_every_stage_is_planned_and_nothing_is_wider_than_a_terminal(name: str) -> None:
    study = read_study(name)
    slow, fast = plan_study(study, device="rtx4090"), plan_study(study, device="h100")
    assert [row.stage for row in slow.rows] == list(stages_of(study))
    assert all(row.passes for row in slow.rows if row.stage in (OUTCOMES if name == "refusal_cliff" else JUDGE))
    assert slow.total.hours >= fast.total.hours > 0
    lines = str(slow).splitlines()
    assert max(map(len, lines)) <= 80
    for number in (hours(slow.total.hours), size(slow.total.memory), size(slow.total.disk)):
        assert number in " ".join(lines[:2])
    for row in (*slow.rows, slow.total):
        cells = [hours(row.hours)] * bool(row.passes) + [size(n) for n in (row.memory, row.disk) if n]
        (line,) = (line for line in lines if line.split()[:1] == [row.stage])
        assert line.split(maxsplit=1)[1:] == [] or [*line.split()[1:]] == " ".join(cells).split()


# -- the command
# ------------------------------------------------------------------------------------------------------------------


def test_the_plan_as_json(call: Callable[..., Any]) -> None:
    done = call("plan", "refusal_cliff", "--json", "--written", "80", "--device", "a100")
    plan = json.loads(done.out)
    assert plan["total"]["generations"] == sum(row["generations"] for row in plan["stages"])
    assert plan["stages"][0]["written"] == 80 * plan["stages"][0]["generations"]
    assert plan["device"]["name"].startswith("A100")


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
        (["--device", "cpu", "--tflops", "0"], "--tflops is 0"),
        (["--written", "9999"], "--written is 9999"),
    ],
)
def test_wrong_plans_are_one_line(call: Callable[..., Any], arguments: list[str], says: str) -> None:
    done = call("plan", "refusal_cliff", *arguments)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""
