"""Run folders, repairs and probes are those of the files and weights as they are now."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from tests.rollouts.makers import byte_tokenizer
from tests.study.test_kept import GREEDY, build, one_weight, world
from verdictscope.errors import InputError
from verdictscope.kept import describe_model
from verdictscope.probes import ProbeCard
from verdictscope.study.folder import RunFolder
from verdictscope.study.load import Study, read_study
from verdictscope.study.run import run_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    build().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.csv").write_text("id,user,harm\na,hello,true\n")
    shipped = read_study("refusal_cliff")
    section = shipped.data.prompts.model_copy(update={"file": str(tmp_path / "prompts.csv")})
    data = shipped.data.model_copy(update={"prompts": section})
    changed = {"model": str(tmp_path / "model"), "reference": None, "data": data}
    return shipped.model_copy(update=changed)


def begun(study: Study, out: Path, *, earlier: bool = False) -> None:
    run = RunFolder(study, out)
    with run.claimed():
        if not earlier:
            run.check_inputs()
        with run.stage("generate"):
            run.write("labels", pd.DataFrame({"variant": [], "cut_off": [], "refused": []}))


def touched(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # as long as it was
    file.write_bytes(data)


FILES = ["model/model.safetensors", "model/tokenizer.json", "model/config.json", "prompts.csv"]


@pytest.mark.parametrize("changed", FILES)
def test_a_run_goes_on_only_with_the_files_it_began_with(changed: str, study: Study, tmp_path: Path) -> None:
    out = tmp_path / "run"
    begun(study, out)
    assert run_study(study, out, until="generate")["results"] == {}
    (tmp_path / "model" / "README.md").write_text("a note beside the weights changes nothing")
    run_study(study, out, until="generate")
    touched(tmp_path / changed)
    with pytest.raises(InputError, match=changed.partition("/")[0]):
        run_study(study, out, until="generate")
    touched(tmp_path / changed)
    run_study(study, out, until="generate")
    (tmp_path / changed).unlink()
    with pytest.raises(InputError, match="changed|gone"):
        run_study(study, out, until="generate")


def test_a_run_of_an_earlier_version_is_refused(study: Study, tmp_path: Path) -> None:
    begun(study, tmp_path / "run", earlier=True)
    with pytest.raises(InputError, match="earlier version"):
        run_study(study, tmp_path / "run", until="generate")


def test_a_run_that_has_done_nothing_takes_new_files(study: Study, tmp_path: Path) -> None:
    run = RunFolder(study, tmp_path / "run")
    with run.claimed():
        run.check_inputs()
        touched(tmp_path / "prompts.csv")
        run.check_inputs()


def test_a_repair_is_of_the_weights_that_the_folder_holds_now(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    repair = importlib.import_module("verdictscope.repair.repair")

    monkeypatch.setattr(repair, "need_trainer", lambda rank: None)
    monkeypatch.setattr(repair, "train", lambda net, *_, **__: net)
    row = {"prompt": "a", "completion": "b", "group": "g"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    asked = pd.DataFrame({"id": ["a", "b"], "user": ["hello", "there"], "harm": [True, False]})
    args = (tmp_path / "model", tmp_path / "data.jsonl", asked, tmp_path / "out")
    call = partial(repair.repair_model, *args, sampling=GREEDY, device="cpu")
    first = call()
    assert call().to_dict() == first.to_dict()
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    build(2).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="weights"):
        call()
    (tmp_path / "out" / "settings.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "source"}))
    with pytest.raises(InputError, match="earlier version"):
        call()


def test_a_probe_of_an_earlier_version_is_not_read_for_a_model(tmp_path: Path) -> None:
    w = world()
    about = describe_model(w.model)
    card = ProbeCard("refusal", about, "resid_post", 1, "pre", "last", {}, {}, {}, 0.0, {})
    card.check(w.model)
    with pytest.raises(InputError, match="earlier version"):
        replace(card, format=1).check(w.model)
    one_weight(w)
    with pytest.raises(InputError, match="another weights"):
        card.check(w.model)
