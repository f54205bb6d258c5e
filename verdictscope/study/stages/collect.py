"""Stage ``collect``: hidden states of the model under study at the study's positions, on disk."""

from __future__ import annotations

from verdictscope.activations import Site, collect
from verdictscope.study.folder import RunFolder
from verdictscope.study.parsed import need_answers
from verdictscope.study.tasks import task_of


def run_collect(run: RunFolder) -> None:
    """Write ``activations.h5``; a stopped collection goes on where it stopped."""
    need_answers(run.labels(), task_of(run.study).wording)
    rollouts = list(run.rollouts().values())
    section = run.study.collect
    reads = [Site("resid_post") @ section.resid_post, Site("z") @ section.z]
    with run.ticking("collect: hidden states") as tick:
        store = collect(run.model(), rollouts, reads, path=run.out / "activations.h5", progress=tick)
    run.record("plans", "collect", store.plan.to_dict())
    store.close()
    run.made("activations.h5")
