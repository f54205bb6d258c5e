"""The public names: few, documented, each with an example that runs, and rooms without circles of files."""

from __future__ import annotations

import doctest
import functools
import importlib
import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import verdictscope

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("rollouts", "activations", "judgments", "probes", "traces", "interventions", "repair", "figures", "organisms")
MOST_NAMES, MOST_IN_ALL, MOST_PARAMETERS = 22, 160, 10
LONG = {"probes.bias_detector", "probes.check_leakage", "interventions.head_card"}
"""Functions with more parameters: each is to lose some, and none may join them."""
BARE = {"activations.Pass", "verdictscope.open_run", "verdictscope.run_study"}
"""Names still without an example."""


def face(room: str) -> Any:
    return importlib.import_module(f"verdictscope.{room}")


def public() -> Iterator[tuple[str, Any]]:
    """Every name of every face that can be called, and the front door's."""
    seen = set()
    for module in (*map(face, ROOMS), verdictscope):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and hasattr(value, "__doc__") and id(value) not in seen:
                seen.add(id(value))
                yield f"{module.__name__.removeprefix('verdictscope.')}.{name}", value


PUBLIC = dict(public())


def lack(problems: dict[str, Any]) -> str:
    """What is wrong, room by room."""
    rooms: dict[str, list[str]] = {}
    for name, what in problems.items():
        rooms.setdefault(name.partition(".")[0], []).append(name.partition(".")[2] + (f" {what}" if what else ""))
    return "\n" + "\n".join(f"{room} ({len(names)}): {', '.join(names)}" for room, names in rooms.items())


def test_faces_are_small() -> None:
    sizes = {room: len(face(room).__all__) for room in ROOMS}
    assert all(n <= MOST_NAMES for n in sizes.values()), sizes
    assert sum(sizes.values()) <= MOST_IN_ALL, sizes


@pytest.mark.parametrize("room", ROOMS)
def test_faces_list_what_they_have(room: str) -> None:
    names = face(room).__all__
    assert len(set(names)) == len(names)
    assert not [name for name in names if not hasattr(face(room), name)]


def test_the_front_door_gives_the_rooms_own_names() -> None:
    assert set(verdictscope.__all__) <= set(dir(verdictscope))
    for name, home in verdictscope._HOME.items():
        assert getattr(verdictscope, name) is getattr(importlib.import_module(f"verdictscope.{home}"), name)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = verdictscope.no_such_name


def test_public_functions_take_few_parameters() -> None:
    many = {name: n for name, value in PUBLIC.items() for n in [parameters(value)] if n > MOST_PARAMETERS}
    assert set(many) == LONG, lack(many)


def parameters(value: Any) -> int:
    """How many a function takes, or the constructor of a class that is no dataclass."""
    if inspect.isclass(value) and (hasattr(value, "__dataclass_fields__") or hasattr(value, "model_fields")):
        return 0
    try:
        return len(inspect.signature(value).parameters)
    except ValueError:
        return 0


def test_public_names_have_examples() -> None:
    without = {name: "" for name, value in PUBLIC.items() if needs_example(value) and not examples(name)}
    assert set(without) == BARE, lack(without)


def needs_example(value: Any) -> bool:
    """Functions and classes, but no errors and no type aliases."""
    return inspect.isroutine(value) or (inspect.isclass(value) and not issubclass(value, BaseException))


def examples(name: str) -> list[doctest.DocTest]:
    """The examples of a function, or of a class and its methods."""
    value = PUBLIC[name]
    named = {name: value}
    if inspect.isclass(value):
        named |= {f"{name}.{key}": method for key, method in vars(value).items() if inspect.isroutine(method)}
    module = inspect.getmodule(value)
    scope = dict(vars(module)) if module is not None else {}
    made = [doctest.DocTestParser().get_doctest(v.__doc__ or "", scope, key, None, None) for key, v in named.items()]
    return [test for test in made if test.examples]


@pytest.fixture(scope="module", autouse=True)
def _loaded_once() -> Iterator[None]:
    """Examples share their models: each loads the model it speaks of, here the same one."""
    from verdictscope.activations import load_model

    cached: Callable[..., Any] = functools.cache(load_model)
    holders = {"verdictscope", "verdictscope.activations", load_model.__module__}
    with pytest.MonkeyPatch.context() as patch:
        for holder in holders:
            patch.setattr(importlib.import_module(holder), "load_model", cached)
        yield


SPENT: dict[str, float] = {}


@pytest.mark.parametrize("name", [name for name in PUBLIC if examples(name)])
def test_examples_run(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    begin = time.perf_counter()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for test in examples(name):
            runner.run(test)
    SPENT[name] = time.perf_counter() - begin
    assert not runner.summarize(verbose=False).failed, capsys.readouterr().out


def test_the_front_doors_own_example_runs() -> None:
    assert doctest.testmod(verdictscope).failed == 0


def test_what_examples_cost() -> None:
    """Printed, not asserted: seconds depend on the machine. A minute in all is the budget."""
    slowest = sorted(SPENT, key=SPENT.__getitem__, reverse=True)[:10]
    print(f"{sum(SPENT.values()):.0f} s;", ", ".join(f"{name} {SPENT[name]:.1f} s" for name in slowest))
