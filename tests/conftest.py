"""Shared by all tests: the seed, and the backends they run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from alone import Server

import sgr_kernels as sk


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
