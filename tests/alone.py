"""A function in a process of its own: what it does to torch, to registries and to the working folder ends with it.

The process is forked from a server that has imported what takes long and computed nothing. One with threads, as that of
the tests is, cannot be forked safely, and one that is started anew takes seconds to import torch.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

SECONDS = 300  # that a process may take
TOLD = 40  # lines of what it said that are shown when it fails


class Server:
    """Starts processes, one at a time."""

    def __init__(self) -> None:
        self._server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, function: Callable[..., object], *arguments: Any, folder: pathlib.Path) -> None:
        """The call in a process of its own, in a folder.

        Args:
            function: is found by its name, and so are the arguments where they are functions or classes.

        Raises:
            AssertionError: it failed; with the last lines of what it said, those of the traceback.
        """
        with tempfile.TemporaryDirectory() as place:
            said = pathlib.Path(place) / "said"
            call = pickle.dumps((function, arguments))
            pickle.dump((sys.path, str(folder), str(said), call), self._server.stdin)
            self._server.stdin.flush()
            status = int(self._server.stdout.readline())
            lines = said.read_text().splitlines()
        assert status == 0, "\n".join([f"status {status} of a process that said:", *lines[-TOLD:]])

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()


def serve() -> None:
    """Forks for every call that comes, until none comes."""
    fork = multiprocessing.get_context("fork")
    while True:
        try:
            order = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        process = fork.Process(target=_called, args=order)
        process.start()
        process.join(SECONDS)
        process.kill()
        process.join()
        print(process.exitcode, flush=True)


def _called(path: list[str], folder: str, said: str, call: bytes) -> None:
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.path[:] = path
    os.chdir(folder)
    function, arguments = pickle.loads(call)
    function(*arguments)


if __name__ == "__main__":
    import matplotlib.figure  # noqa: F401
    import sgr_bench.cli  # noqa: F401
    import sgr_train.commands  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch._dynamo  # noqa: F401  which the first optimizer imports

    serve()
