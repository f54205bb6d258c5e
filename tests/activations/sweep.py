"""Every family in a process of its own: site map, identities and doctor on a tiny random model, within a time limit.

A family's process is a fork of this warmed one, so that libraries are imported once. Nothing that a family does, a
crash of the interpreter included, reaches the next one.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from families import build, build_scaled, listed
from metamorphic import METAMORPHIC
from references import REFERENCES

from verdictscope.activations import Site
from verdictscope.activations.doctor import Diagnosis, check_model
from verdictscope.activations.doctor.examine import run_groups
from verdictscope.activations.doctor.report import SITE_MAP
from verdictscope.activations.loading import unchecked
from verdictscope.activations.sites import SITES
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.rope import switch_lengths
from verdictscope.weights_digest import weights_digest

SECONDS = 180
"""Wall-clock a family may take; its model has a few thousand parameters."""
ORDER = ("error", "silently wrong", "degraded", "supported")


def examine(name: str, references: bool = True) -> dict[str, Any]:
    """Builds a family's tiny model and examines it.

    Returns:
        ``status`` (``supported``, ``degraded``, ``unsupported``, ``silently wrong``, ``error``, or ``not built``),
        ``reason``, and where it was examined ``sites`` (site to layers), ``worst_identity`` (relative) and ``checks``
        (check to status, with the reason where it is not *supported*) and ``beyond_a_switch`` (kind of rope scaling to
        status).
    """
    try:
        hf = build(name)
    except Exception as error:  # a config that cannot be shrunk is a fault of this table, named as such
        return {"status": "not built", "reason": _one_line(error)}
    about = {"model_type": hf.config.model_type, "layers": None, "sites": {}, "worst_identity": None, "checks": {}}
    try:
        found = check_model(hf)
    except InputError as error:
        return {"status": "unsupported", "reason": str(error)} | about
    about |= {"checks": {f.check: _told(f) for f in found.findings}}
    first = next((f for f in found.findings if f.check == SITE_MAP), None)
    if first is not None:
        return {"status": first.status, "reason": first.detail} | about
    model = unchecked(hf)
    more = METAMORPHIC | (REFERENCES if references else {})
    before = weights_digest(hf)
    found = replace(found, findings=(*found.findings, *run_groups(model, more)))
    assert weights_digest(hf) == before
    about |= {"checks": {f.check: _told(f) for f in found.findings}}
    about |= {"layers": model.n_layers, "sites": _sites(model)}
    worst = found.worst_identity
    about["worst_identity"] = float(f"{worst:.2e}") if math.isfinite(worst) else None
    about |= {"beyond_a_switch": {kind: beyond_a_switch(name, kind) for kind in ("longrope", "dynamic")}}
    return {"status": overall(found), "reason": _reason(found)} | about


def beyond_a_switch(name: str, kind: str) -> str:
    """The worst status of the checks of lengths on the family's model with a rope scaling that depends on the length;
    ``none`` where the family has no such scaling, ``not run`` where transformers does not run it. Decoding from a cache
    is the model's own and counts apart."""
    try:
        scaled = build_scaled(name, kind)
    except Exception as error:  # a scaling that the family's class takes and does not run with, or refuses
        return f"not run: {_one_line(error)}"
    if scaled is None or not switch_lengths(scaled):
        return "none"
    found = check_model(scaled, only=["lengths"])
    wrong = [f for f in found.findings if f.status != "supported" and not f.check.startswith("cached")]
    return "; ".join(f"{f.status}: {f.check}: {f.detail} ({f.measured})" for f in wrong) or "supported"


def overall(found: Diagnosis) -> str:
    """The worst status of all checks; what a model merely does not have does not count."""
    said = {f.status for f in found.findings}
    return next((status for status in ORDER if status in said), "unsupported")


def _told(finding: Any) -> str:
    return finding.status if finding.status == "supported" else f"{finding.status}: {finding.detail}"


def _reason(found: Diagnosis) -> str:
    worst = overall(found)
    if worst == "supported":
        return ""
    return "; ".join(f"{f.check}: {f.detail} ({f.measured})" for f in found.findings if f.status == worst)


def _sites(model: Any) -> dict[str, list[int]]:
    found = {}
    for site in SITES:
        layers = []
        for layer in Site(site).at(model.n_layers):
            try:
                model.sites.hook_point(site, layer)
            except InputError:
                continue
            layers.append(layer)
        found[site] = layers
    return found


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def in_fork(work: Callable[[], dict[str, Any]], seconds: float = SECONDS) -> dict[str, Any]:
    """What ``work`` gives in a fork of this process; ``error`` with its last line if it dies or takes too long."""
    read, write = os.pipe()
    begin = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(read)
        code = 1
        try:
            with os.fdopen(write, "w") as out:
                json.dump(work(), out, allow_nan=False)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    said = b""
    while time.perf_counter() - begin < seconds:
        if select.select([read], [], [], 0.2)[0]:
            part = os.read(read, 1 << 16)
            if not part:
                break
            said += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(read)
    _, status = os.waitpid(child, 0)
    took = {"seconds": round(time.perf_counter() - begin, 1)}
    if status == 0:
        return json.loads(said) | took
    reason = f"took over {seconds:.0f} s" if os.WIFSIGNALED(status) else "a raw traceback"
    return {"status": "error", "reason": reason} | took


def sweep(names: Iterable[str], references: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """Family after family."""
    torch.set_num_threads(1)
    for name in names:
        yield name, in_fork(lambda name=name: examine(name, references))


if __name__ == "__main__":  # python tests/activations/sweep.py [FAMILY ...] [--references]
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")] or listed()
    for family, told in sweep(wanted, "--references" in sys.argv):
        print(family, told["status"], told.get("worst_identity"), told["reason"], flush=True)
