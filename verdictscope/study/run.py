"""From a study to a run folder: the stages in order, each done once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verdictscope.errors import InputError
from verdictscope.study.folder import RunFolder
from verdictscope.study.load import Study
from verdictscope.study.tasks import stages_of, task_of


def run_study(
    study: Study, out: Path, *, until: str | None = None, progress: Callable[[str], Any] | None = None
) -> dict[str, Any]:
    """Do what is still to do of a study.

    Args:
        study: what to do.
        out: the run folder; an existing run of the same study goes on.
        until: stop after this stage.
        progress: ``progress(what)`` is a context manager that gives a function of (done, in all).

    Returns:
        the contents of ``summary.json``; when stopped before, the seconds of the stages done and their results.

    Raises:
        InputError: the study asks for something that is not there, or what it reads changed since the run began.
    """
    stages, task = stages_of(study), task_of(study)
    if until is not None and until not in stages:
        raise InputError(f"a {task.name} study has no stage {until!r}: there are {', '.join(stages)}")
    quiet()
    run = RunFolder(study, out, progress)
    with run.claimed():
        run.check_inputs()
        run.forget_from(stages)
        for name in stages:
            with run.stage(name) as todo:
                if todo:
                    task.stage(name)(run)
            if name == until:
                break
        seconds = run.state()["seconds"]
        if (out / "summary.json").exists():
            # The stages after the summary are timed too, so the seconds are added last.
            summary = run.read_json("summary") | {"seconds": seconds}
            run.write_json("summary", summary)
            return summary
        return {"seconds": seconds, "results": run.results().nested()}


def quiet() -> None:
    """Keep libraries from writing over our bars and one-line errors; what the user set stays."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import huggingface_hub.utils.logging as hub
    import transformers.utils.logging as transformers

    transformers.disable_progress_bar()
    # What they warn of on their way to an error is said by the error, in one line.
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers.set_verbosity_error()
    if "HF_HUB_VERBOSITY" not in os.environ:
        hub.set_verbosity_error()
