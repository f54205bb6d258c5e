"""The command line. It imports nothing heavy until a command needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from verdictscope.commands.judge import judge_app
from verdictscope.commands.repair import register
from verdictscope.errors import InputError, disk_error
from verdictscope.progress import progress

STAGES = {
    "generate": "Sample what the model writes on the study's prompts.",
    "collect": "Store hidden states at the study's positions.",
    "probe": "Fit and select the probe, and test it against nulls.",
    "transfer": "Test the probe at positions and on groups it was not fitted on.",
    "trace": "Score every token and measure the drop at the end of thinking.",
    "erase": "Read refusal from states from which harm was erased.",
    "heads": "Measure the exact effect of every head.",
    "ablate": "Ablate the selected heads, with matched random sets.",
}
"""Stages of a refusal study that are commands too."""
LISTED = ("demo", "run", "plan", "report", "doctor", "judge", "select", "repair", "organisms")


class Commands(TyperGroup):
    """Commands in the order in which one needs them, stages in a list of their own."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in order; those that are not listed go last."""
        order = [*LISTED, *STAGES]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Two lists, one line a command."""
        known = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = {name: command.get_short_help_str(limit=66) for name, command in known if command is not None}
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, text in rows.items() if name not in STAGES])
        with formatter.section("Stages of a refusal study (each first runs those before it)"):
            formatter.write_dl([(name, text) for name, text in rows.items() if name in STAGES])


app = typer.Typer(
    cls=Commands,
    help="Why language models refuse, comply and judge as they do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
organisms_app = typer.Typer(
    help="Bundled models whose mechanism is known.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(organisms_app, name="organisms")
app.add_typer(judge_app, name="judge")
register(app)

StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="A study file (TOML), or the name of a shipped one.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder (default: runs/NAME); an existing run is resumed.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the study; can be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")]


def _version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        print(f"verdictscope {version('verdictscope')}")
        raise typer.Exit
    return asked


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Why language models refuse, comply and judge as they do."""


class _Stopped(BaseException):
    """A signal to stop. No ``Exception``, so that no library's handler takes it for an error of its own."""


def main() -> None:
    """Entry point, and the one place that sets the exit code.

    0: done. 1: a check failed (``doctor``), or the program itself did. 2: the input is wrong, in one line.
    128 + n: stopped by signal n, in one line; a reader that closed the pipe counts as SIGPIPE, without a line.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        code = _code()
        sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is still to be written goes nowhere
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _code() -> int:
    """Run the command; what stopped it is printed on standard error."""
    try:
        return app(standalone_mode=False) or 0  # which returns the code of a typer.Exit
    except SystemExit as leave:
        if isinstance(leave.__context__, BrokenPipeError):  # typer would leave with 1, the code of a failed check
            raise leave.__context__ from None
        raise
    except _Stopped as stopped:
        return _say("stopped; the same command resumes from here", 128 + stopped.args[0])
    except InputError as error:
        return _say(str(error), 2)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            return 2
        # Unknown options and missing arguments: click's own message as one line, without its usage box.
        if hasattr(error, "format_message"):
            # What is wrong with the words typed, with the nearest option that there is
            text = error.format_message()  # type: ignore[attr-defined]
            near = getattr(error, "possibilities", None)
            return _say((f"{text.partition(' (')[0]}. Did you mean {near[0]!r}?" if near else text), 2)
        if isinstance(error, OSError) and (full := disk_error(error)) is not None:
            return _say(str(full), 2)
        if type(error).__name__ == "OutOfMemoryError":  # torch's; torch is not imported for a look at its class
            return _say("the device is out of memory: lower batch_tokens, or take a smaller model or dtype", 2)
        raise


def _stop(number: int, _: FrameType | None) -> None:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_DFL)  # a second signal ends the process at once
    raise _Stopped(number)


def _say(message: str, code: int) -> int:
    print("verdictscope: " + " ".join(message.split()), file=sys.stderr)
    return code


DEMOS = {"cliff": ("refusal_cliff", "runs/demo"), "judge": ("judge_bias", "runs/demo_judge")}
"""What can be shown on bundled models: name to study and run folder."""


@app.command()
def demo(
    which: Annotated[str, typer.Argument(metavar="[cliff|judge]", help="Which bundled mechanism to study.")] = "cliff",
    out: Out = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Run a study on a bundled model: refusal cliff or judge bias.

    Needs no model hub, no GPU and no access token.
    """
    if which not in DEMOS:
        raise InputError(f"no demo {which!r}: there are {', '.join(DEMOS)}")
    study, folder = DEMOS[which]
    _run(study, out or Path(folder), sets, as_json)


@app.command()
def run(
    study: StudyFile,
    out: Out = None,
    sets: Sets = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    as_json: Json = False,
) -> None:
    """Run all stages of a study, or resume a run that was stopped."""
    _run(study, out, sets, as_json, until)


def _stage_command(stage: str, text: str) -> None:
    @app.command(stage, help=text)
    def command(study: StudyFile, out: Out = None, sets: Sets = None, as_json: Json = False) -> None:
        _run(study, out, sets, as_json, until=stage)


for _name, _text in STAGES.items():
    _stage_command(_name, _text)


def _run(study_file: str, out: Path | None, sets: list[str] | None, as_json: bool, until: str | None = None) -> None:
    from verdictscope.study.load import read_study

    study = read_study(study_file, sets or ())
    folder = out or Path("runs") / study.name
    from verdictscope.study.run import run_study

    summary = run_study(study, folder, until=until, progress=progress)
    if as_json:
        print(json.dumps(summary))
    else:
        from verdictscope.report import format_summary

        print(format_summary(folder))


@app.command()
def plan(
    study: StudyFile,
    sets: Sets = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Device whose rates to assume: h100, a100, cpu …")
    ] = None,
    tflops: Annotated[float | None, typer.Option("--tflops", help="Throughput of the device, 10^12 flop/s.")] = None,
    written: Annotated[
        int | None, typer.Option("--written", metavar="N", help="Tokens written per rollout (default: max_new_tokens).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate hours, memory and disk of a study. No weights are loaded."""
    from verdictscope.study.load import read_study
    from verdictscope.study.plan import plan_study

    made = plan_study(read_study(study, sets or ()), device=device, tflops=tflops, written=written)
    print(json.dumps(made.to_dict()) if as_json else made)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN…]", help="Run folders, finished or not.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page (default: RUN/report.html or comparison.html).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run, or compare several runs of one kind."""
    from verdictscope.report import write_comparison, write_report
    from verdictscope.study.folder import open_run

    page = out or runs[0] / ("report.html" if len(runs) == 1 else "comparison.html")
    if page.is_dir():
        raise InputError(f"--out {page} is a folder: give the name of the page")
    opened = [open_run(folder) for folder in runs]
    made = write_report(opened[0], page) if len(opened) == 1 else write_comparison(opened, page)
    if as_json:
        from verdictscope.provenance import finite

        print(json.dumps(finite(made)))
        return
    for run in made.get("runs", [made]):
        if run["missing"]:
            print(f"not finished: {run.get('folder', runs[0])} lacks {', '.join(run['missing'])}")
    print(f"report: {made['report']} ({made['bytes'] / 1e6:.1f} MB)")


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder, a hub name or organism:NAME.")],
    override: Annotated[
        list[str] | None,
        typer.Option("--override", metavar="ROLE=PATH", help="A module path where the adapter's is wrong or missing."),
    ] = None,
    padding: Annotated[
        str | None, typer.Option("--padding", help="Also check your own batches: padded on the left or right.")
    ] = None,
    position_ids: Annotated[
        bool, typer.Option("--position-ids/--no-position-ids", help="Whether your own batches give position ids.")
    ] = True,
    dtype: Annotated[str, typer.Option("--dtype", help="Or auto: as stored, float32 on a slow CPU.")] = "auto",
    device: Annotated[str | None, typer.Option("--device", help="Where to run; CUDA if there is any.")] = None,
    as_json: Json = False,
) -> None:
    """Check whether a model is read correctly.

    Prints every check with its number; the exit code is 1 if one fails.
    """
    from verdictscope.activations.doctor import Layout, check_model, parse_overrides
    from verdictscope.study.run import quiet

    quiet()
    if padding not in (None, "left", "right"):
        raise InputError(f"--padding is left or right, not {padding!r}")
    layout = Layout("left" if padding == "left" else "right", position_ids) if padding else None
    overrides = parse_overrides(override or ())
    with progress("checks") as tick:
        found = check_model(model, overrides=overrides, layout=layout, dtype=dtype, device=device, progress=tick)
    print(json.dumps(found.to_dict()) if as_json else found)
    if not found.ok:
        raise typer.Exit(1)


@organisms_app.command("list")
def organisms_list(as_json: Json = False) -> None:
    """List the bundled models."""
    from verdictscope.sources import PREFIX, models_folder

    found = [folder for folder in sorted(models_folder().glob("*/")) if (folder / "config.json").is_file()]
    rows = [
        {"name": PREFIX + f.name, "megabytes": round(sum(p.stat().st_size for p in f.iterdir()) / 1e6, 2)}
        for f in found
    ]
    if as_json:
        print(json.dumps({"organisms": rows}))
    else:
        for row in rows:
            print(f"{row['name']:<24} {row['megabytes']:>6} MB")


@organisms_app.command("score")
def organisms_score(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")], as_json: Json = False
) -> None:
    """Compare the heads a run selected with the planted ones."""
    from verdictscope.study.folder import open_run

    rows = open_run(run_folder).results().select(stage="truth")
    if not rows:
        raise InputError(
            f"{run_folder} has no selected heads yet, or its model has no truth.json to score them against"
        )
    card = {row.name: row.estimate for row in rows}
    print(json.dumps(card) if as_json else "\n".join(f"{name:<10} {value:g}" for name, value in card.items()))


if __name__ == "__main__":
    main()
