from __future__ import annotations

import numpy as np
import pytest
from tiny_models import rollout

from verdictscope.activations import Read, Site
from verdictscope.activations.positions import over_continuation, resolve
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout, Span

R = rollout("p/0", 20)  # system 0-1, user 2-4, template 5, thinking 6-14, think_end 15-16, answer 17-19


@pytest.mark.parametrize(
    ("positions", "wanted"),
    [
        ("all", list(range(20))),
        ("last", [19]),
        ("prompt_end", [5]),
        ("before_answer", [16]),
        ("thinking", list(range(6, 15))),
        ("thinking[0]", [6]),
        ("thinking[-1]", [14]),
        ("thinking[40]", []),
        ("thinking[::4]", [6, 10, 14]),
        ("think_end[-4:]", [15, 16]),
        ("answer[:2]", [17, 18]),
        ("thinking:3", [7, 10, 13]),
        ("thinking:1", [10]),
        ("thinking:99", list(range(6, 15))),
        ("think_end, last", [15, 16, 19]),
        ("think_end,thinking[-1],think_end", [14, 15, 16]),
        ("all[::10]", [0, 10]),
        ("verdict", []),
        ({"p/0": [3, -1, 3]}, [3, 19]),
        ({"other": [3]}, []),
    ],
)
def test_grammar(positions, wanted):
    assert resolve(positions, R).tolist() == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "thought",
        "thinking[",
        "thinking[a]",
        "thinking:",
        "thinking:0",
        "last[0]",
        "all,,last",
        "thinking[::0]",
        "thinking[1:2:3:4]",
    ],
)
def test_wrong_text_is_an_input_error(wrong):
    with pytest.raises(InputError):
        resolve(wrong, R)
    with pytest.raises(InputError):
        Site("resid_post") @ wrong


def test_explicit_position_outside_is_an_error():
    with pytest.raises(InputError, match="20 tokens"):
        resolve({"p/0": [20]}, R)


def test_spread_is_even_and_has_the_count():
    long = rollout("p/0", 200)
    for n in (1, 2, 7, 50):
        where = resolve(f"thinking:{n}", long)
        assert len(where) == n
        assert np.ptp(np.diff(where)) <= 1 if n > 2 else True


def test_before_answer_without_an_answer():
    spans = (Span("user", 0, 3), Span("thinking", 3, 9))
    cut = Rollout("a", "a", tuple(range(9)), spans, 3, "length")
    assert resolve("before_answer", cut).size == 0  # truncated while thinking: there is no decision to read
    given = Rollout("a", "a", tuple(range(9)), spans, 3, "given")
    assert resolve("before_answer", given).tolist() == [8]


def test_a_verdict_inside_the_answer_does_not_move_before_answer():
    spans = (Span("user", 0, 3), Span("answer", 3, 5), Span("verdict", 5, 6), Span("answer", 6, 8))
    r = Rollout("a", "a", tuple(range(8)), spans, 3)
    assert resolve("before_answer", r).tolist() == [2]
    assert resolve("answer", r).tolist() == [3, 4, 6, 7]
    assert resolve("verdict", r).tolist() == [5]


def test_a_later_turn_is_the_one_read():
    spans = (Span("user", 0, 2), Span("answer", 2, 4), Span("user", 4, 6), Span("answer", 6, 8))
    r = Rollout("a", "a", tuple(range(8)), spans, 6)
    assert resolve("answer", r).tolist() == [6, 7]
    assert resolve("user", r).tolist() == [4, 5]
    assert resolve("before_answer", r).tolist() == [5]


def test_points_do_not_reach_into_an_appended_label():
    assert over_continuation("all", R).tolist() == list(range(20))
    assert over_continuation("answer,last", R).tolist() == [17, 18, 19]
    assert over_continuation("last", R).size == 0
    assert over_continuation({"p/0": [19]}, R).size == 0


def test_reads_are_keys_and_sites_know_their_layers():
    a, b = Site("z", [1, 2]) @ {"p": [1]}, Site("z", (1, 2)) @ {"p": (1,)}
    assert a == b
    assert len({a, b}) == 1
    assert Site("z", (-1, 0)).at(4) == (0, 3)
    assert Site("resid_post").at(3) == (0, 1, 2)
    assert Site("final_norm").at(3) == (2,)
    assert isinstance(Site("z") @ "all", Read)
    with pytest.raises(InputError, match="layers 0 to 3"):
        Site("z", 4).at(4)
    with pytest.raises(InputError, match="no site"):
        Site("residual")
