"""Shared by all tests: the seed, and the backends they run on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from alone import Server
from sgr_train import recipes
from sgr_train.config import REGISTRIES

import sgr_kernels as sk


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _entries():
    """Those that plug-ins brought for the tests of a file are gone after it: others go through all that are there."""
    registries = [*REGISTRIES.values(), recipes.REGISTRY]
    before, modules = [dict(registry._entries) for registry in registries], {*sys.modules}
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry._entries = entries
    for name in {*sys.modules} - modules:
        if name.startswith("sgr_train_plugin_"):  # is executed again where it is asked for
            del sys.modules[name]


@pytest.fixture(scope="module", autouse=True)
def _precision():
    """No file leaves convolutions on GPUs with less precision or more for those after it."""
    before = torch.backends.cudnn.allow_tf32
    yield
    assert torch.backends.cudnn.allow_tf32 == before  # raises where settings of both styles were mixed


@pytest.fixture(scope="session")
def alone() -> Iterator[Callable[..., None]]:
    """Calls a function in a process of its own."""
    server = Server()
    yield server.call
    server.close()


def available_backends() -> list[str]:
    """Backends that can run here on CPU tensors or, where there is a GPU, on CUDA tensors."""
    return [name for name, status in sk.backends().items() if not status.startswith("missing")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take ``backend`` run on every backend that is available."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", available_backends())
