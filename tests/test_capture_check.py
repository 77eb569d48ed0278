"""The capture check notices what a capture refuses, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from capture_check import CaptureCheck, NotCapturable, on_meta
from torch._subclasses.fake_tensor import FakeTensorMode


def unseen_by_function_modes(call: Callable):
    with torch._C.DisableTorchFunction():
        return call()


REFUSED = {
    "as_tensor": lambda x: x + torch.as_tensor(0.5, device=x.device),
    "as_tensor of a list": lambda x: x + torch.as_tensor([0.5] * 4, device=x.device),
    "as_tensor of an array": lambda x: x + torch.as_tensor(np.ones(4, np.float32), device=x.device),
    "as_tensor, unseen": lambda x: x + unseen_by_function_modes(lambda: torch.as_tensor(0.5, device=x.device)),
    "tensor": lambda x: x + torch.tensor(0.5, device=x.device),
    "asarray": lambda x: x + torch.asarray(0.5, device=x.device),
    "new_tensor": lambda x: x + x.new_tensor(0.5),
    "new": lambda x: x + x.new([0.5] * 4),
    "list as index": lambda x: x[[0, 1]],
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "condition": lambda x: x if x.sum() > 0 else -x,
    "equal": lambda x: torch.equal(x, x + 1),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: torch.ones(4, device="cpu").to(x.device),
    "copy": lambda x: x.copy_(torch.ones(4, device="cpu")),
    "copy of a number": lambda x: x.copy_(torch.tensor(1.0, device="cpu")),
    "number in where": lambda x: torch.where(x > 0, x, torch.tensor(1.0, device="cpu")),
    "mask": lambda x: x[x > 0],
    "mask that is written": lambda x: x.index_put_((x > 0,), torch.zeros_like(x)),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "fill by a tensor": lambda x: x.masked_fill(x > 0, x.sum()),
}
ALLOWED = {
    "numbers of Python": lambda x: (2 * x - 1).clamp(min=0.5) / 3,
    "filled": lambda x: x + torch.full((4,), 0.5, device=x.device) + x.new_full((), 2.0) + x.new_zeros(4),
    "number of Python in where": lambda x: torch.where(x > 0, 0.0, x).masked_fill(x == 0, 1.0),
    "number on the host": lambda x: x * torch.tensor(2.0, device="cpu"),
    "indices": lambda x: x[torch.arange(2, device=x.device)],
    "other dtype": lambda x: x.double().to(torch.bfloat16),
    "random": lambda x: torch.rand_like(x).bernoulli_(0.5),
}


# Fake tensors are on the CPU, where there is nothing to copy.
NOTHING_ON_FAKES = ("new", "cpu", "to", "copy", "copy of a number", "number in where", "number on the host")


def cases(names) -> list:
    return [(on_meta, name) for name in names] + [
        (FakeTensorMode, name) for name in names if name not in NOTHING_ON_FAKES
    ]


@pytest.mark.parametrize(("where", "name"), cases(sorted(REFUSED)))
def test_what_a_capture_refuses_is_noticed(where, name):
    with where():
        x = torch.ones(4)
        with pytest.raises(NotCapturable), CaptureCheck(x):
            REFUSED[name](x)


@pytest.mark.parametrize(("where", "name"), cases(sorted(ALLOWED)))
def test_nothing_else_is(where, name):
    with where():
        x = torch.ones(4)
        with CaptureCheck(x) as check:
            result = ALLOWED[name](x)
        check.require(result)


def test_a_result_that_no_operator_made_is_noticed():
    with on_meta():
        x = torch.ones(4)
        with CaptureCheck(x) as check:
            result = x.new_tensor(0.5)
        with pytest.raises(NotCapturable):
            check.require([x, result])
