"""Kill a study's run at random moments, resume it by the same command, and hold every file against an unkilled run's.

Every start is a fork of this process, in which the libraries are imported and nothing has run: what it does from there
on is what ``verdictscope run STUDY --out RUN`` does. A moment is a stage (each equally likely) and a share of the time
that stage took without kills. SIGKILL can be answered by nothing; SIGINT is Ctrl-C and must end in one line.

    python -m tests.study.killing FOLDER --kills 50 --chains 10 [--set KEY=VALUE …]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from tests.study.whole import compare, leftovers
from verdictscope.commands.main import main as command_line
from verdictscope.study.tasks.refusal import Refusal

STAGES = Refusal.stages

STOPPED = "verdictscope: stopped; the same command resumes from here"
POLL = 0.002


@dataclass(frozen=True)
class Kill:
    """One kill: where it was aimed, where the run stood, and how long that start had lived."""

    chain: int
    by: str
    aimed: str
    fell: str
    seconds: float


@dataclass
class Campaign:
    """One study, killed in several chains of starts.

    Attributes:
        folder: where runs and logs go.
        study: what is run, with ``--set`` texts.
        sets: the ``--set`` texts.
        last: the stage at which every run ends.
        seconds: what each stage took without kills.
    """

    folder: Path
    study: str
    sets: Sequence[str]
    last: str
    seconds: dict[str, float]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are run."""
        return STAGES[: STAGES.index(self.last) + 1]

    def command(self, out: Path, stage: str | None = None) -> list[str]:
        """The command line that starts and continues a run."""
        texts = [part for text in self.sets for part in ("--set", text)]
        ending = stage or self.last
        return ["verdictscope", "run" if ending == STAGES[-1] else ending, self.study, "--out", str(out), *texts]

    @property
    def reference(self) -> Path:
        """The run that nobody killed."""
        return self.folder / "reference"

    def make_reference(self) -> None:
        """Run the study unkilled."""
        log = self.folder / "reference.log"
        code, said = finish(start(self.command(self.reference), log), log)
        if code != 0:
            raise SystemExit(f"the run without kills failed: {said}")
        self.seconds = json.loads((self.reference / "provenance.json").read_text())["seconds"]

    def chain(self, number: int, kills: int, rng: np.random.Generator) -> list[Kill]:
        """One run, killed so many times, then run to its end and compared."""
        out, log = self.folder / f"chain_{number}", self.folder / f"chain_{number}.log"
        shutil.rmtree(out, ignore_errors=True)
        done: list[Kill] = []
        aims = sorted(zip(rng.integers(len(self.stages), size=kills), rng.random(kills), strict=True))
        for aim, share in aims:
            stage, by = self.stages[aim], signal.SIGKILL if rng.random() < 0.8 else signal.SIGINT
            begin, child = time.monotonic(), start(self.command(out), log)
            if self.wait(child, out, stage, share * self.seconds[stage]):
                os.kill(child, by)
            code, said = finish(child, log)
            fell = next((name for name in self.stages if name not in state(out)), "after the last")
            if code == 0:
                break  # it came to its end before the moment did: the rest of the kills goes to another chain
            check(code, by, said)
            self.look(out, finished=False)
            done.append(Kill(number, by.name, stage, fell, round(time.monotonic() - begin, 2)))
            print(f"chain {number}: {by.name} aimed at {stage}, fell in {done[-1].fell}", file=sys.stderr, flush=True)
        code, said = finish(start(self.command(out), log), log)
        if code != 0:
            raise SystemExit(f"chain {number} did not come to its end: {said}")
        self.look(out, finished=True)
        assert not leftovers(out), leftovers(out)
        shutil.rmtree(out)
        return done

    def look(self, out: Path, *, finished: bool) -> None:
        """Hold the files against the reference's, in a fork: what is forked again and again must start no threads."""
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a file differs; see above"
            return
        try:
            compare(out, self.reference, self.stages if finished else None)
            os._exit(0)
        except BaseException as error:  # the child must never go on as if it were the parent
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    def wait(self, child: int, out: Path, stage: str, seconds: float) -> bool:
        """Wait for the moment; false if the process came to its end before."""
        before = STAGES[: STAGES.index(stage)]
        until = None
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            now = time.monotonic()
            if until is None and set(before) <= set(state(out)):
                until = now + seconds
            if until is not None and now >= until:
                return True
            time.sleep(POLL)
        return False


def start(arguments: list[str], log: Path) -> int:
    """A fork that does what the command does, its output in a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = arguments
        command_line()
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except BaseException as error:  # the child must never go on as if it were the parent
        os.write(2, repr(error).encode())
    finally:
        os._exit(code)


def finish(child: int, log: Path) -> tuple[int, str]:
    """Wait for a start's end: its exit code (negative: the signal) and the last line it wrote."""
    _, status = os.waitpid(child, 0)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return os.waitstatus_to_exitcode(status), lines[-1] if lines else ""


def check(code: int, by: signal.Signals, said: str) -> None:
    """A killed process says nothing; Ctrl-C ends in one line and 130."""
    if by == signal.SIGKILL:
        assert code == -signal.SIGKILL, (code, said)
    else:
        # a signal before the command line is ready for one ends the process as it ends any other
        assert (code, said) == (128 + by, STOPPED) or code == -by, (code, said)


def state(out: Path) -> dict[str, float]:
    """Seconds of the stages that are done."""
    try:
        return json.loads((out / "provenance.json").read_text())["seconds"]
    except FileNotFoundError:
        return {}


def warm() -> None:
    """Import what a run imports."""
    for name in STAGES:
        Refusal().stage(name)
    for name in ("transformers.models.qwen3.modeling_qwen3", "verdictscope.activations", "sklearn.linear_model"):
        import_module(name)


def campaign(
    folder: Path,
    kills: int,
    chains: int,
    study: str = "refusal_cliff",
    sets: Sequence[str] = (),
    last: str = STAGES[-1],
    seed: int = 0,
) -> dict[str, object]:
    """Kill until so many kills have fallen; returns what fell where. Anything that differs is an error."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    warm()
    made, rng, begin = Campaign(folder, study, sets, last, {}), np.random.default_rng(seed), time.monotonic()
    made.make_reference()
    fallen: list[Kill] = []
    number = 0
    while len(fallen) < kills:
        each = min(-(-kills // chains), kills - len(fallen))
        fallen += made.chain(number, each, rng)
        number += 1
        (folder / "so_far.json").write_text(json.dumps([asdict(k) for k in fallen]))
    return {
        "study": study,
        "set": list(sets),
        "last_stage": last,
        "seed": seed,
        "kills": len(fallen),
        "runs": number,
        "by_signal": count([k.by for k in fallen]),
        "by_stage": count([k.fell for k in fallen]),
        "unequal_files": 0,
        "seconds_without_kills": made.seconds,
        "seconds": round(time.monotonic() - begin, 1),
        "kill_list": [asdict(k) for k in fallen],
    }


def count(names: Sequence[str]) -> dict[str, int]:
    """How often each occurs, in the order of the stages."""
    order = [*STAGES, "after the last", "SIGKILL", "SIGINT"]
    return {name: names.count(name) for name in order if name in names}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--chains", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--last", choices=STAGES, default=STAGES[-1])
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    sets, last, seed = given.set, given.last, given.seed
    print(json.dumps(campaign(given.folder, given.kills, given.chains, sets=sets, last=last, seed=seed), indent=2))


if __name__ == "__main__":
    main()
