"""Every public name of the room has a runnable example."""

from __future__ import annotations

import doctest
import sys

import pytest

from verdictscope import activations

NAMES = [name for name in activations.__all__ if name not in ("Readout", "Pass")]  # an alias; the result of forward


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name):
    public = getattr(activations, name)
    assert "Example:" in public.__doc__
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    (test,) = finder.find(public, name, module=sys.modules[public.__module__])
    assert test.examples
    assert runner.run(test).failed == 0


def test_the_face_is_small():
    assert len(activations.__all__) <= 22
