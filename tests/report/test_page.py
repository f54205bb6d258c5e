"""The page: self-contained, complete or saying what is missing, the same whatever the data holds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hostile import ATTACKS, hostile, plain
from report_runs import png, write_run

from verdictscope.commands.main import main
from verdictscope.errors import InputError
from verdictscope.report import write_comparison, write_report
from verdictscope.report.provenance import command, differences
from verdictscope.study.folder import open_run
from verdictscope.study.load import read_study
from verdictscope.study.tasks.refusal import Refusal


class Skeleton(HTMLParser):
    """The elements of a page with the attributes that mean something to a browser, and its text apart."""

    TEXTS = ("alt", "aria-label", "title")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text: list[str] = []
        self.raw: dict[str, str] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append((tag, tuple(a for a in attrs if a[0] not in self.TEXTS)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", ()))
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._inside in ("script", "style"):
            self.raw[self._inside] = self.raw.get(self._inside, "") + data


def page_of(folder: Path) -> str:
    write_report(open_run(folder), folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(write_run(tmp_path_factory.mktemp("page") / "run"))


def test_it_loads_nothing(page: str) -> None:
    for tag, attributes in Skeleton(page).tags:
        for name, value in attributes:
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert (value or "").startswith(("data:image/png;base64,", "data:,", "#")), (tag, value)
    css = Skeleton(page).raw["style"]
    assert "url(" not in css
    assert "@import" not in css
    assert not re.search(r"https?://", page)


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(page: str) -> None:
    skeleton = Skeleton(page)
    (policy,) = [dict(a)["content"] for tag, a in skeleton.tags if ("http-equiv", "Content-Security-Policy") in a]
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("img-src") == "data:"
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(skeleton.raw[tag].encode()).digest()).decode()
        assert rules.pop(directive) == f"'sha256-{digest}'"
    assert not rules
    assert page.index("Content-Security-Policy") < page.index("<style>")


@pytest.mark.parametrize("name", list(ATTACKS))
def test_hostile_data_changes_nothing_but_text(tmp_path: Path, name: str) -> None:
    harmless = page_of(write_run(tmp_path / "plain", plain))
    attacked = page_of(write_run(tmp_path / "attacked", hostile(ATTACKS[name])))
    assert Skeleton(attacked).tags == Skeleton(harmless).tags
    assert Skeleton(attacked).text != Skeleton(harmless).text
    assert "\u202e" not in attacked
    assert len(attacked) < 1_000_000  # a megabyte of text in dozens of places is clipped in each


def test_hostile_data_changes_nothing_but_text_side_by_side(tmp_path: Path) -> None:
    pages = []
    for name, change in (("plain", plain), ("attacked", hostile("".join(list(ATTACKS.values())[:-1])))):
        runs = [open_run(write_run(tmp_path / name / which, change)) for which in ("a", "b")]
        write_comparison(runs, tmp_path / f"{name}.html")
        pages.append(Skeleton((tmp_path / f"{name}.html").read_text(encoding="utf-8")))
    assert pages[0].tags == pages[1].tags


def test_a_caption_cannot_fetch_a_file_from_elsewhere(tmp_path: Path) -> None:
    def outside(made: dict[str, Any]) -> None:
        made["captions"] = {"../secret": "x", "/etc/passwd": "y", "trace": "z"}

    folder = write_run(tmp_path / "run", outside)
    (folder / "secret.png").write_bytes(b"secret")
    assert list(open_run(folder).figure_files()) == ["trace"]


def test_figures_come_with_titles_and_captions_known_ones_first(page: str) -> None:
    titles = re.findall(r'<figure id="[^"]*">\s*<h3>(.*?)</h3>', page)
    assert titles == ["The score around the end of thinking", "novel"]
    assert page.index("More figures") > page.index(titles[0])
    assert "A figure nobody foresaw." in page
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(image) for image in images] == [png(), png()]


@pytest.mark.parametrize("stage", [s for s in Refusal.stages if s != "report"])
def test_an_unfinished_run_says_what_is_missing(tmp_path: Path, stage: str) -> None:
    files = {
        "generate": ["rollouts", "labels"],
        "probe": ["probe"],
        "trace": ["cliff"],
        "heads": ["heads", "attribution"],
        "ablate": ["ablation", "generation", "labels_ablated"],
        "results": [],
        "figures": ["captions"],
    }
    order = [s for s in Refusal.stages if s != "report"]
    missing = order[order.index(stage) :]

    def stopped(made: dict[str, Any]) -> None:
        made["done"] = [s for s in order if s not in missing]
        for name in (f for s in missing for f in files.get(s, [])):
            made[name] = None

    text = page_of(write_run(tmp_path / "run", stopped))
    assert f"Missing stages: {', '.join(missing)}" in text
    assert not re.search(r"\bnan\b|None", " ".join(Skeleton(text).text))


def test_a_finished_run_does_not_say_it_is_not(page: str) -> None:
    assert "not finished" not in page


@pytest.mark.parametrize("damage", [b"", b"PAR1 no table"])
def test_a_damaged_table_is_named(tmp_path: Path, damage: bytes) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "cliff.parquet").write_bytes(damage)
    with pytest.raises(InputError, match=r"cliff\.parquet cannot be read"):
        page_of(folder)


def test_unparsed_and_cut_off_rollouts_are_counted(page: str) -> None:
    assert re.search(r'<th scope="row">not parsed</th><td>1</td><td>0</td>', page)
    assert re.search(r'<th scope="row">cut off</th><td>1</td><td>0</td>', page)
    assert re.search(r"refused 10 and complied with 29; 1 could not", page)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=7"],
        ["model=/some/where with space/it's", "prompts.target={harm=true}", "heads.k=5"],
        ['question="what\'s $(touch pwned) `x`; \\"y\\" é"', "probe.C=[1, 2.5]", "reference=organism:cliff"],
    ],
)
def test_the_command_leads_back_to_the_study(overrides: list[str]) -> None:
    study = read_study("refusal_cliff", overrides)
    line = command(study)
    assert line is not None
    words = shlex.split(line)
    assert words[:3] == ["verdictscope", "run", "refusal_cliff"]
    assert read_study("refusal_cliff", [w for w in words[3:] if w != "--set"]) == study
    assert len(differences(read_study("refusal_cliff"), study)) == len(overrides)


@pytest.mark.parametrize("changes", [{"name": "mine"}, {"question": "a\u202eb"}, {"reference": None}])
def test_where_no_command_leads_the_study_itself_is_given(tmp_path: Path, changes: dict[str, Any]) -> None:
    study = read_study("refusal_cliff").model_copy(update=changes)
    assert command(study) is None
    text = page_of(write_run(tmp_path / "run", lambda made: made.update(study=study)))
    assert "verdictscope run study.toml" in text


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["verdictscope", "report", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_the_command_line(tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    first, second = (write_run(tmp_path / name) for name in ("first", "second"))
    code, out, err = call(first, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["missing"] == []
    assert [a["status"] for a in told["ladder"]][:2] == ["met", "partly met"]
    assert Path(told["report"]).stat().st_size == told["bytes"] < 5e6
    code, out, _ = call(first, second, "--out", tmp_path / "both.html")
    assert code == 0
    assert "both.html" in out
    assert (tmp_path / "both.html").is_file()


def test_wrong_input_is_one_line_and_exit_2(tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    first = write_run(tmp_path / "first")
    for wrong, says in (
        ((tmp_path,), "no run folder"),
        ((first, tmp_path), "no run folder"),
        ((first, first), "twice"),
        ((first, "--out", tmp_path), "is a folder"),
    ):
        code, out, err = call(*wrong)
        assert (code, out) == (2, "")
        assert says in err
        assert len(err.strip().splitlines()) == 1
