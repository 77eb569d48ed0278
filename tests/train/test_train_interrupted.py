"""Runs that are ended from outside: by an interrupt, or because nobody reads their output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import sgr_train
from sgr_train import checkpoint, cli, interrupts, train
from sgr_train.errors import UsageError
from train_helpers import TINY_FLAGS


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint(tmp_path, number, status):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "sgr_train", "run", *TINY_FLAGS, "--epochs", "100000", "--out", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # even if we run in the background
    )
    try:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert errors == (f"sgr-train: interrupted; what was saved is kept; continue with: sgr-train run --resume {out}\n")
    history = checkpoint.load_state(out / "checkpoint.pt")["history"]
    assert len(history) >= 2 and not list(out.glob("*.part"))
    assert [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()][-1] >= len(
        history
    ) - 1


def test_ctrl_c_while_python_imports(tmp_path):
    catches_all = (
        "import os, signal, time\ntry:\n  os.kill(os.getpid(), signal.SIGINT)\n  time.sleep(60)\nexcept: 1 / 0\n"
    )
    (tmp_path / "tqdm.py").write_text(catches_all)
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from sgr_train.cli import main; "
    paths = os.pathsep.join([str(tmp_path), str(Path(sgr_train.__file__).parents[1])])
    process = subprocess.run(
        [sys.executable, "-c", code + "raise SystemExit(main())", "run"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
    )
    assert (process.returncode, process.stdout) == (130, "")
    assert process.stderr == "sgr-train: interrupted before it began; nothing was changed\n"


def lose_an_interrupt() -> None:
    """As in the callbacks of Python's import locks: an exception in them is shown and forgotten."""
    thing = type("Thing", (), {})()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    assert watch() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("where", ["setup", "measure", "test"])
def test_an_interrupt_that_python_loses(sgr_train, tmp_path, monkeypatch, where):
    original, out = getattr(train, where), tmp_path / "a run"

    def losing(*args):
        lose_an_interrupt()
        return original(*args)

    monkeypatch.setattr(train, where, losing)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status, text, errors = sgr_train("run", *TINY_FLAGS, "--out", out)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130 and text.count("/3") == {"setup": 0, "measure": 1, "test": 3}[where]
    kept = f"what was saved is kept; continue with: sgr-train run --resume '{out}'"
    assert errors == f"sgr-train: interrupted; {kept}\n"
    monkeypatch.undo()
    assert sgr_train("run", "--resume", out)[0] == 0


def test_what_fails_after_an_interrupt_failed_by_it():
    """A signal to a process group ends those that decode images too, and is lost where Python forks."""
    with pytest.raises(KeyboardInterrupt), interrupts.remembered():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        raise UsageError("a process that decodes images was killed")


def test_a_fork_that_is_interrupted_early_ends_in_silence(capfd):
    with interrupts.remembered():
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_early_in_a_resumed_run(sgr_train, finished, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "read_config", interrupt)
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 130 and f"what was saved is kept; continue with: sgr-train run --resume {finished}" in errors


@pytest.mark.parametrize("closed", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_closed_outputs_are_not_missed(tmp_path, monkeypatch, closed):
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    assert cli.main(["run", *TINY_FLAGS, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_help_without_an_output():
    code = "import sys; from sgr_train.cli import main; sys.exit(main(['--help']))"
    close = lambda: os.close(1)  # noqa: E731
    process = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, preexec_fn=close)
    assert (process.returncode, process.stderr) == (0, "")


class Closed(io.StringIO):
    """An output that cannot be written to from the second epoch on."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        if "epoch 2" in text:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")])
def test_an_output_that_is_lost_ends_the_run_in_one_line(tmp_path, monkeypatch, capsys, error):
    out, closed = tmp_path / "run", Closed(error)
    monkeypatch.setattr(sys, "stdout", closed)
    assert cli.main(["run", *TINY_FLAGS, "--out", str(out)]) == 141
    assert "\nepoch 1/3" in closed.getvalue()
    kept = f"what was saved is kept; continue with: sgr-train run --resume {out}"
    assert capsys.readouterr().err == f"sgr-train: the output cannot be written: {error.strerror}; {kept}\n"
    monkeypatch.undo()
    assert cli.main(["run", "--resume", str(out)]) == 0


def test_a_name_that_the_locale_cannot_write_is_shown(tmp_path, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert cli.main(["run", *TINY_FLAGS, "--epochs", "1", "--out", str(tmp_path / "r\udcff\u00e9")]) == 0
    assert b"r\\udcff\\xe9" in output.buffer.getvalue()


def test_help_into_a_closed_pipe_says_nothing_of_python():
    code = "import sys; from sgr_train.cli import main; sys.exit(main(['--help']))"
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert process.returncode == 141 and "nothing was written" in process.stderr
    assert process.stderr.count("\n") == 1
