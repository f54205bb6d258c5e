"""Fixtures of the room; the models themselves are in ``tiny_models.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_models import CONFIGS, rollout, wrapped

from verdictscope.activations import Model
from verdictscope.rollouts.rollout import Rollout


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two busy cores: on models this small threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def rollouts() -> list[Rollout]:
    return [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((14, 23, 17, 30, 12))]


@pytest.fixture(params=list(CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> Model:
    return wrapped(family)


@pytest.fixture(scope="session")
def qwen3() -> Model:
    return wrapped("qwen3")
