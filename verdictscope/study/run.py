"""From a study to a run folder: the stages in order, each done once."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from verdictscope.errors import InputError
from verdictscope.study.folder import RunFolder
from verdictscope.study.load import Study
from verdictscope.study.tasks import stages_of, task_of

_SHOWN = ("effect", "low", "high", "n", "p", "p_adjusted", "q", "selected", "rank", "found")
_LINES = 12


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
        the contents of ``summary.json``, or, when stopped before, the stages done with their seconds and, where
        there are any, the counts of the rollouts.

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
        return {"seconds": seconds} | so_far(run, seconds)


def so_far(run: RunFolder, done: Collection[str]) -> dict[str, Any]:
    """What an unfinished run has to tell: its rollouts, and its heads with their tests."""
    told: dict[str, Any] = {}
    if run.has("labels.parquet"):
        from verdictscope.study.stages.generate import outcome_counts

        told["rollouts"] = outcome_counts(run.table("labels"))
    if "heads" in done:
        parts = run.table("heads")[["component", "layer", "head", *_SHOWN]]
        told["heads"] = run.read_json("heads") | {"parts": parts.to_dict("records")}
    return told


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


def tell(summary: dict[str, Any], folder: Path) -> str:
    """The run's numbers as a few lines for a terminal."""
    if summary.get("kind") == "judge":
        from verdictscope.report.terminal_judge import tell_judge

        return tell_judge(summary, folder)
    if "ablation" not in summary:
        done = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary["seconds"].items())
        return "\n".join([f"done: {done}", *_outcomes(summary), *_parts(summary), f"run folder: {folder}"])
    probe, cliff, heads, ablation = (summary[k] for k in ("probe", "cliff", "heads", "ablation"))
    top, above = (" ".join(f"L{layer}H{head}" for layer, head in heads[key]) for key in ("top", "selected"))
    lines = [
        *_outcomes(summary),
        f"probe      {probe['site']} layer {probe['layer']}: "
        f"test AUROC {_between(probe, 'auroc_test', 'auroc_low', 'auroc_high')}, n = {probe['n']} prompt groups; "
        f"labels permuted: {_num(probe['control_auroc'])} "
        f"({_num(probe['control_low'])} to {_num(probe['control_high'])}, {probe['control_refits']} refits)",
        f"cliff      normalised {_num(cliff['normalised_plateau'])} -> {_num(cliff['normalised_final'])}, "
        f"drop {_between(cliff, 'normalised_drop', 'low', 'high')}, n = {cliff['n']}; "
        f"heads zeroed {_between(cliff, 'ablated_normalised_drop', 'ablated_low', 'ablated_high')}; "
        f"reference {_between(cliff, 'aligned_normalised_drop', 'aligned_low', 'aligned_high')}",
        f"heads      {top}"
        + (f" (recall of the planted heads {heads['recall']})" if "recall" in heads else "")
        + f"; above delta = {_num(heads['delta'])} nats: {above or 'none'}",
        f"ablation   refusal {_between(ablation, 'refusal_base', 'refusal_base_low', 'refusal_base_high')} -> "
        f"{_between(ablation, 'refusal_ablated', 'refusal_ablated_low', 'refusal_ablated_high')}, "
        f"random sets {_num(ablation['refusal_random'])}, p = {ablation['p_value']:.3g}, n = {ablation['n']}",
        *_moved(ablation),
        f"run folder {folder}",
    ]
    if (folder / "report.html").is_file():
        lines.append(f"report     {folder / 'report.html'}")
    return "\n".join(lines)


def _outcomes(summary: dict[str, Any]) -> list[str]:
    """A line on what could not be read, where there are rollouts: cut off thinking is no answer."""
    variants = [
        f"{variant} {n['rollouts']} ({n['cut_off_thinking']} cut off in thinking, {n['cut_off_answer']} in the answer, "
        f"{n['unread']} unread{_why(n)})"
        for variant, n in summary.get("rollouts", {}).items()
    ]
    return [f"rollouts   {'; '.join(variants)}"] if variants else []


def _why(counts: dict[str, int]) -> str:
    """Why rollouts could not be read, where any could not."""
    named = {k.removeprefix("unread_").replace("_", " "): n for k, n in counts.items() if k.startswith("unread_") and n}
    found = [f"{n} {why}" for why, n in named.items()]
    return f": {', '.join(found)}" if found else ""


def _parts(summary: dict[str, Any]) -> list[str]:
    """The strongest parts of a sweep, beside the smallest effect that counts."""
    if "heads" not in summary:
        return []
    heads = summary["heads"]
    rows = sorted(heads["parts"], key=lambda row: -row["effect"])[:_LINES]
    lines = [f"heads      {heads['told']}", f"           delta is {heads['delta_is']} ({_num(heads['gap'])} nats)"]
    lines.append(f"{'part':<10} {'effect':>8} {'low':>8} {'high':>8} {'n':>4} {'p adjusted':>10} {'q':>8}")
    for row in rows:
        part = f"L{row['layer']}H{row['head']}" if row["component"] == "head" else f"{row['component']} {row['layer']}"
        numbers = f"{row['effect']:>8.3f} {row['low']:>8.3f} {row['high']:>8.3f} {row['n']:>4}"
        lines.append(f"{part:<10} {numbers} {row['p_adjusted']:>10.4f} {row['q']:>8.4f}{' *' * row['selected']}")
    return [*lines, f"(the strongest {len(rows)} of {len(heads['parts'])}; * exceeds delta)"]


def _moved(ablation: dict[str, Any]) -> list[str]:
    """A line on the heads put into the reference model, where there is one."""
    if "transplant_effect" not in ablation:
        return []
    return [
        "in reference model    refusal "
        f"{_between(ablation, 'refusal_reference', 'refusal_reference_low', 'refusal_reference_high')} -> "
        f"{_between(ablation, 'refusal_transplanted', 'refusal_transplanted_low', 'refusal_transplanted_high')} "
        f"with these heads in it; log-odds {_num(ablation['transplant_effect'])} nats"
    ]


def _num(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _between(section: dict[str, Any], name: str, low: str, high: str) -> str:
    from verdictscope.report.words import estimate

    unit = "rate" if name.startswith("refusal") else "AUROC" if name.startswith("auroc") else ""
    return estimate(section.get(name), section.get(low), section.get(high), unit, n=section.get("n"))
