"""A pytest plugin: failing tests in a file as they happen, with their reasons, whatever ends the run.

``-p sgr_bench.failures_now --failures-now=FILE``. A summary at the end of a run is lost where its time is up. Besides
the failures, FILE.running names the tests under way: those are what a run was at when it was ended. With xdist, a
worker that crashes is a failure of its test, and the processes of the workers write nothing.
"""

from __future__ import annotations

import pathlib

import pytest

LINES = 3  # of a reason


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failures-now", type=pathlib.Path, metavar="FILE", help="write failures there as they happen")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--failures-now")
    if path is not None and not hasattr(config, "workerinput"):  # the controller hears of all
        config.pluginmanager.register(_Failures(path.absolute()))


class _Failures:
    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.running = path, path.with_name(f"{path.name}.running")
        self.path.write_text("")
        self.under_way: dict[str, None] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.under_way[nodeid] = None
        self._write_running()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._end(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._end(report.nodeid)  # nobody says that a test has finished that crashed
            self._add(report.nodeid, report.when, report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._add(report.nodeid, "collect", report.longreprtext)

    def _add(self, name: str, when: str | None, text: str) -> None:
        lines = text.splitlines()
        reasons = [line for line in lines if line.startswith("E  ")][:LINES] or lines[-LINES:]
        with self.path.open("a") as file:
            file.write("".join([f"{name} [{when}]\n", *(f"    {line[:300]}\n" for line in reasons)]))

    def _end(self, nodeid: str) -> None:
        self.under_way.pop(nodeid, None)
        self._write_running()

    def _write_running(self) -> None:
        self.running.write_text("".join(f"{name}\n" for name in self.under_way))
