"""Commands that depend on one another, run a few at once; what is done stays done.

A finished step leaves ``OUT/steps/NAME.json`` with its command and time, and its output in
``OUT/logs/NAME.log``. An interrupted scoring goes on where its command left off, and so does a
training that keeps its optimizer's state.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Console scripts need not be on the PATH, nor the project be installed.
MODULES = {
    "fairseq-train": "fairseq_cli.train",
    "vt-score": "vt_fairseq.cli.score",
    "vt-prepare": "vt_fairseq.cli.prepare",
}
POLL_SECONDS = 0.1
SHOWN_LINES = 5  # of the log of a step that failed


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: of its log and of the steps that need it.
        command: as one would type it; a script's name ends in .py and is relative to ROOT.
        needs: names of the steps that must be done before.
        fresh: a folder that an interrupted call may have left and that the next must not go on
            with.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    fresh: Path | None = None

    def arguments(self) -> list[str]:
        """The command with this Python."""
        program, *options = self.command
        if program.endswith(".py"):
            return [sys.executable, str(ROOT / program), *options]
        return [sys.executable, "-m", MODULES[program], *options]


@dataclass
class Runner:
    """Runs steps in their order, as far as those they need allow.

    Attributes:
        out: folder of logs, records, and of what the commands write.
        at_once: processes.
        seconds: after so many no step starts; those that run end.
        on_change: called after each step.
        failed: names of the steps that ended badly.
    """

    out: Path
    at_once: int
    seconds: float = float("inf")
    on_change: Callable[[], None] = lambda: None
    failed: list[str] = field(default_factory=list)

    def record_path(self, name: str) -> Path:
        return self.out / "steps" / f"{name}.json"

    def log_path(self, name: str) -> Path:
        return self.out / "logs" / f"{name}.log"

    def portable(self, step: Step) -> str:
        """The command without the names of this machine's folders."""
        text = shlex.join(step.command)
        return text.replace(str(self.out), "OUT").replace(f"{ROOT}/", "")

    def record(self, step: Step) -> dict | None:
        """What a finished step left; None where it is not done."""
        path = self.record_path(step.name)
        return json.loads(path.read_text()) if path.exists() else None

    def check(self, steps: Sequence[Step]) -> None:
        """Stop where the folder holds results of other commands."""
        for step in steps:
            record = self.record(step)
            if record and record["command"] != self.portable(step):
                raise SystemExit(
                    f"{self.out} holds {step.name} made by another command:\n{record['command']}\n"
                    f"expected:\n{self.portable(step)}\ngive another folder, or the same options"
                )

    def run(self, steps: Sequence[Step]) -> bool:
        """Run what is not done; return whether all is. Failed steps do not stop the others."""
        self.check(steps)
        began = time.monotonic()
        done = {step.name for step in steps if self.record(step)}
        waiting = [step for step in steps if step.name not in done]
        running: dict[str, tuple[Step, subprocess.Popen, float]] = {}
        try:
            while True:
                ready = [s for s in waiting if done.issuperset(s.needs)]
                open_to_start = time.monotonic() - began < self.seconds
                for step in ready[: self.at_once - len(running)] if open_to_start else ():
                    waiting.remove(step)
                    running[step.name] = (step, self._start(step), time.monotonic())
                if not running:
                    return len(done) == len(steps)
                time.sleep(POLL_SECONDS)
                for step, process, start in list(running.values()):
                    if process.poll() is not None:
                        del running[step.name]
                        if self._finish(step, process.returncode, time.monotonic() - start):
                            done.add(step.name)
                        self.on_change()
        finally:
            for _, process, _ in running.values():
                process.terminate()
            for _, process, _ in running.values():
                process.wait()

    def _start(self, step: Step) -> subprocess.Popen:
        if step.fresh:
            shutil.rmtree(step.fresh, ignore_errors=True)
        log = self.log_path(step.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        # Several processes share the cores: threads that spin while they wait would take the time
        # of those that work.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"$ {self.portable(step)}\n")
            file.flush()
            return subprocess.Popen(
                step.arguments(), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
            )

    def _finish(self, step: Step, code: int, seconds: float) -> bool:
        if code:
            self.failed.append(step.name)
            lines = self.log_path(step.name).read_text(errors="replace").splitlines()
            print(f"{step.name} failed with exit code {code}; the end of its log:", flush=True)
            print("\n".join(lines[-SHOWN_LINES:]), flush=True)
            return False
        path = self.record_path(step.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"command": self.portable(step), "seconds": round(seconds, 1)}
        path.write_text(json.dumps(record) + "\n")
        print(f"{step.name}: {seconds:.0f} s", flush=True)
        return True
