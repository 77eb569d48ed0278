"""The errors of the library and the driver: each has a message, which holds what was given, or the flag that was."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

FILE = pathlib.Path(__file__).parent.parent / "docs" / "site" / "error_messages.py"
WITHOUT_A_MESSAGE = {
    "KeyboardInterrupt": "Ctrl-C, which commands.py puts into words",
    "_TooMuch": "never leaves the file that raises it",
}
NOTHING_GIVEN = {
    "head must return a loss with a gradient": "what the loss was made from is not known",
    "a first step outside of the capture": "a step is missing, and nothing was given",
    "torch's random stream did not move": "it is of another thread, of which nothing is known",
    "torch.jit.script cannot compile sgr_kernels": "torch.jit.script does not say what it compiles",
    "a process that decodes images was killed": "the system does not say which, and the flag is named",
    "recipe needs a NAME": "nothing was given",
}


@pytest.fixture(scope="module")
def error_messages():
    spec = importlib.util.spec_from_file_location("error_messages", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_a_message(messages) -> list[str]:
    return [str(each) for each in messages if not each.text and each.kind not in WITHOUT_A_MESSAGE]


def without_what_was_given(messages) -> list[str]:
    """A text that begins with a flag says what was given, as that flag was."""
    with_text = [each for each in messages if each.text and "..." not in each.text and not each.text.startswith("--")]
    return [str(each) for each in with_text if not any(map(each.text.startswith, NOTHING_GIVEN))]


def test_every_error_says_what_was_given(error_messages):
    found = error_messages.messages()
    assert len(found) > 200
    assert without_a_message(found) == [] and without_what_was_given(found) == []
    for start in NOTHING_GIVEN:
        assert sum(each.text.startswith(start) for each in found) == 1, start
    assert {*WITHOUT_A_MESSAGE} <= {each.kind for each in found}


CODE = """
import torch
LONG = "must not {}"
class Mine(Base): ...
class Base(UsageError): ...
class UsageError(Exception): ...
class Other: ...
def refusal(what):
    return ValueError(f"no {what}")
def check(x, error):
    if x: raise ValueError
    if x: raise ValueError()
    if x: raise Mine("fixed")
    if x: raise (Mine if x else KeyError)(f"one of {x}")
    if x: raise torch.OutOfMemoryError(LONG.format(x))
    raise TypeError(LONG) from error
Other("is none"), print("Error")
"""


def test_errors_are_found_in_code(error_messages, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text(CODE)
    found = error_messages.messages([tmp_path / "package"])
    assert [(each.line, each.kind, each.text) for each in found] == [
        (9, "ValueError", "no ..."),
        (11, "ValueError", ""),
        (12, "ValueError", ""),
        (13, "Mine", "fixed"),
        (14, "Mine", "one of ..."),
        (15, "OutOfMemoryError", "must not ..."),
        (16, "TypeError", "must not {}"),
    ]
    assert [text.split(":")[1] for text in without_a_message(found)] == ["11", "12"]
    assert [text.split(":")[1] for text in without_what_was_given(found)] == ["13", "16"]
    assert str(found[0]) == "package/code.py:9: ValueError: no ..."
