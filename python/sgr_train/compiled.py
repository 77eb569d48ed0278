"""Blocks compiled by torch.compile, where a method calls them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from . import methods
from .config import RunConfig
from .errors import UsageError, one_line
from .networks.network import Network

BACKEND = "inductor"
VARIANTS = 16  # of the code of one block: passes of an engine, with and without gradients


def compile_blocks(config: RunConfig, network: Network, method: methods.Method) -> None:
    """Have the blocks of a network compiled at their first calls, one by one: those that are alike share their code.

    Raises:
        UsageError: the method would gain nothing or can take no compiled blocks, or nothing can be compiled here.
    """
    if config.checkpoint_blocks:
        raise UsageError("--compile: compiled blocks decide themselves what to keep; drop --checkpoint-blocks")
    why_not = getattr(method, "why_not_compiled", None)
    reason = why_not(network) if why_not is not None else None
    if reason:
        raise UsageError(f"--compile: {reason}; drop it")
    blocks = list(network.blocks())
    _require_compiler(network.mean.device)
    limits = torch._dynamo.config  # all blocks count as one function, which would be left as it is beyond them
    limits.recompile_limit = limits.accumulated_recompile_limit = VARIANTS * len(blocks)
    limits.fail_on_recompile_limit_hit = True
    for block in blocks:
        # As nn.Module.compile does, but with a frame of ours: of containers torch 2.11 traces no other.
        block._compiled_call_impl = torch.compile(partial(_call, block), backend=BACKEND, dynamic=False)


def _call(block: nn.Module, x: Tensor) -> Tensor:
    return block._call_impl(x)


def not_compiled(config: RunConfig) -> AbstractContextManager:
    """In here blocks run as they are: batches of other sizes, in other modes, are worth no code of their own."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


def _require_compiler(device: torch.device) -> None:
    try:
        torch.compile(torch.sin, backend=BACKEND)(torch.zeros(2, device=device))
    except Exception as error:  # every part of the compiler has its own
        raise UsageError(f"--compile: torch.compile does not work here ({one_line(error)[:300]}); drop it") from error
