"""Training steps in CUDA graphs: a GPU that waits for Python gets a whole step at once. See docs/cuda-graphs.md."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from . import methods
from .config import RunConfig
from .errors import UsageError, one_line

WARM_UP = 3  # steps, as they are, which make the state of optimizers, check the modules and compile kernels

Step = Callable[[Tensor, Tensor], Tensor]
NOT_WITH = {
    "accumulate": "gradients would have to outlive a step",
    "checkpoint_blocks": "checkpointed blocks read the random stream, which a capture does not allow",
    "compile": "one of the two is enough",
}


def require_capturable(
    config: RunConfig, method: methods.Method, optimizers: list[torch.optim.Optimizer], device: torch.device
) -> None:
    """Raises UsageError where steps cannot be captured, as far as that is known before."""
    if device.type != "cuda":
        raise UsageError("--cuda-graph needs a GPU, and this run is on the CPU; drop it")
    if config.amp == "fp16":
        raise UsageError("--cuda-graph: the loss scale of --amp fp16 is a number that changes; take --amp bf16")
    for name, reason in NOT_WITH.items():
        if getattr(config, name) != getattr(RunConfig, name):  # its default
            raise UsageError(f"--cuda-graph: {reason}; drop it or --{name.replace('_', '-')}")
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if not group.keys() & {"capturable", "fused"}:
            raise UsageError(f"--cuda-graph: --optimizer {config.optimizer} reads its learning rate; take sgd or adamw")
    why_not = getattr(method, "why_not_captured", None)
    reason = why_not() if why_not is not None else None
    if reason:
        raise UsageError(f"--cuda-graph: {reason}")


def prepare_optimizers(optimizers: list[torch.optim.Optimizer], device: torch.device) -> None:
    """Their learning rates become tensors on the device: a number would be that of the capture in every replay.

    SGD takes them from there where it is fused, and Adam where it is told of the capture; else they are read.
    """
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32).to(device)
        if "capturable" in group:
            group["capturable"] = device.type == "cuda"
        elif "fused" in group:
            group["fused"] = True


class CapturedSteps:
    """``step(x, labels) -> losses``, replayed from a graph for batches of the first one's shape, after a warm-up.

    What a step does in Python is done in the warm-up and the capture alone. The losses are valid until the next step.

    Args:
        step: waits for nothing and takes all that changes from tensors that stay where they are.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.taken = 0
        self.x: Tensor | None = None  # what every replay reads
        self.labels: Tensor | None = None
        self.losses: Tensor | None = None  # what it writes
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        if self.x is None:
            self.x, self.labels = torch.empty_like(x), torch.empty_like(labels)
        if x.shape != self.x.shape:
            return self.step(x, labels)
        self.x.copy_(x)
        self.labels.copy_(labels)
        self.taken += 1
        if self.taken <= WARM_UP:
            return warmed_up(lambda: self.step(self.x, self.labels), x.device)
        if self.replay is None:
            self.replay, self.losses = capture(lambda: self.step(self.x, self.labels), x.device)
        self.replay()
        return self.losses


_streams: dict[torch.device, torch.cuda.Stream] = {}  # nodes of an autograd graph run on the stream that made them


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]


def warmed_up(run: Callable[[], Tensor], device: torch.device) -> Tensor:
    """What ``run`` gives, on the stream that captures."""
    side, current = _side_stream(device), torch.cuda.current_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        result = run()
    current.wait_stream(side)
    return result


def capture(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """A function that does again what ``run`` does, which is not done yet, and the tensor that its result will be in.

    Raises:
        torch.OutOfMemoryError
        UsageError: ``run`` copies from the host, waits for the device or draws numbers that a graph does not know of.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=_side_stream(device)):
            result = run()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UsageError(f"--cuda-graph: the step cannot be captured ({one_line(error)[:300]}); drop it") from error
    return graph.replay, result
