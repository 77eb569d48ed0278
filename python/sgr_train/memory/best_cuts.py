"""Where to cut a network so that a training step needs least memory: for one method, batch and precision.

The modules of a local method step one after the other, so its peak is that of the module that needs most: every stretch
of blocks that can be part of an optimum is measured. Of other methods whole steps are. No shape of the peak is assumed.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import methods
from ..errors import UsageError, one_line
from ..networks.cuts import Cuts
from ..networks.network import LocalModule, Network
from .live import peak_live_bytes_below
from .step import Sizes, peak_below

MOST_STEPS = 500  # that are measured, of a method that is measured by whole steps

Found = tuple[float, Cuts]  # a peak, infinite where it reaches the bound, and the cuts that it takes
NOTHING: Found = math.inf, ()


class TooManyCuts(UsageError):
    """More than are tried."""


def best_cuts(
    blocks: Network, method: methods.Method, x: Tensor, y: Tensor, start: Cuts, sizes: Sizes | None = None
) -> tuple[Cuts, int]:
    """The best of all cuts into ``len(start) + 1`` modules, and the peak in bytes that was measured for them.

    Args:
        blocks: the network with every block as a module: their heads are those of the modules that end there.
        method: new; it is not changed.
        x, y, sizes: as of :func:`sgr_train.memory.step.step_peak_bytes`.
        start: cuts to begin with; the better they are, the sooner it ends.

    Raises:
        UsageError: the method has no modules that step on their own, and there are too many cuts to try; or its step
            looks at numbers.
    """
    sizes = sizes or Sizes()
    try:
        if hasattr(method, "module_step"):
            peak, cuts = search(Stretches(blocks, method, x, y, sizes).found, len(blocks), start)
        else:
            peak, cuts = _search_steps(blocks, method, x, y, len(start) + 1, sizes)
    except RuntimeError as error:  # of torch, for what needs the numbers
        raise UsageError(f"--cuts auto cannot measure this --method ({one_line(error)}); give numbers") from error
    return cuts, int(peak)


class Bounded:
    """Remembers what is computed up to a bound: from there on it is infinite, and not known."""

    def __init__(self, compute: Callable[..., Found]) -> None:
        self.compute = compute
        self.known: dict[tuple[int, ...], Found] = {}
        self.at_least: dict[tuple[int, ...], float] = {}

    def __call__(self, *key: int, bound: float) -> Found:
        if key not in self.known and bound > self.at_least.get(key, 0.0):
            found = self.compute(*key, bound)
            if found[0] < bound:
                self.known[key] = found
            else:
                self.at_least[key] = bound
        found = self.known.get(key, NOTHING)
        return found if found[0] < bound else NOTHING


class Stretches:
    """Peaks of the steps of all stretches of blocks as modules. See :func:`best_cuts`."""

    def __init__(self, blocks: Network, method: methods.Method, x: Tensor, y: Tensor, sizes: Sizes) -> None:
        modules, self.method = _prepared(blocks, method, x, sizes)
        self.sizes, self.y = sizes, sizes.tensor(y)
        self.blocks = [module.body[0] for module in modules]
        self.heads = [module.head for module in modules]
        self.features = [sizes.tensor(x)]  # input of every block, and the output of the last
        with sizes.only(), torch.no_grad():
            for block in self.blocks:
                self.features.append(block(self.features[-1]))
        self.found = Bounded(self._measure)
        # Whether the method hands over a gradient with an output.
        self.reconciles = len(self.blocks) > 1 and self._step(0, 1) is not None

    def peak(self, first: int, last: int) -> int:
        """Bytes at the peak of the step of the module of blocks ``first`` to ``last - 1``.

        With what the module before it handed over: its output and, of some methods, the gradient for that.
        """
        return int(self.found(first, last, bound=math.inf)[0])

    def _measure(self, first: int, last: int, bound: float) -> Found:
        return peak_live_bytes_below(bound, lambda: self._step(first, last)), ()

    def _step(self, first: int, last: int) -> Tensor | None:
        module = LocalModule(nn.Sequential(*self.blocks[first:last]), self.heads[last - 1])
        module.zero_grad()
        with self.sizes.only():
            x = torch.empty_like(self.features[first]) if first else self.features[0]
            delta_pre = torch.empty_like(x) if first and self.reconciles else None
            return self.method.module_step(module, x, self.y, delta_pre, last=last == len(self.blocks)).delta_out


def search(peak: Callable[..., Found], total: int, start: Cuts) -> Found:
    """The least peak of ``total`` blocks in as many modules as ``start`` makes, and its cuts.

    Args:
        peak: of the blocks from the first to before the last, up to a ``bound``.
    """

    def compute(begin: int, count: int, bound: float) -> Found:
        """The best of the blocks from ``begin`` on in ``count`` modules."""
        if count == 1:
            return peak(begin, total, bound=bound)
        best: Found = bound, ()
        for cut in range(begin + 1, total - count + 2):
            limit = best[0]
            if count == 2:  # the last module first: it rules out most of those before it
                after, cuts = rest(cut, 1, bound=limit)
                own = math.inf if after == math.inf else peak(begin, cut, bound=limit)[0]
            else:
                own = peak(begin, cut, bound=limit)[0]
                after, cuts = NOTHING if own == math.inf else rest(cut, count - 1, bound=limit)
            if max(own, after) < limit:
                best = max(own, after), (cut, *cuts)
        return best if best[1] else NOTHING

    rest = Bounded(compute)
    edges = itertools.pairwise((0, *start, total))
    worst = max(peak(first, last, bound=math.inf)[0] for first, last in edges)
    return min(rest(0, len(start) + 1, bound=worst), (worst, start))


def _search_steps(blocks: Network, method: methods.Method, x: Tensor, y: Tensor, count: int, sizes: Sizes) -> Found:
    candidates = math.comb(len(blocks) - 1, count - 1)
    if candidates > MOST_STEPS:
        raise TooManyCuts(f"--cuts auto: {candidates} cuts are more than {MOST_STEPS}; lower --modules or give numbers")
    best = NOTHING
    for cuts in itertools.combinations(range(1, len(blocks)), count - 1):
        network, own = _prepared(_cut(blocks, cuts), method, x, sizes)
        best = min(best, (peak_below(best[0], network, own, sizes.tensor(x), sizes.tensor(y), sizes), cuts))
    return best


def _prepared(network: Network, method: methods.Method, x: Tensor, sizes: Sizes) -> tuple[Network, methods.Method]:
    """Copies without numbers, after the hook. What it draws leaves torch's generator as it was."""
    network, method = copy.deepcopy((network, method))
    sample = torch.empty_like(x[:2], device=next(network.parameters()).device)
    with torch.random.fork_rng(devices=[]):
        methods.prepare(method, network, sample)
    return sizes.copy((network, method), [network])


def _cut(blocks: Network, cuts: Cuts) -> Network:
    parts = []
    for first, last in itertools.pairwise((0, *cuts, len(blocks))):
        body = nn.Sequential(*(module.body[0] for module in list(blocks)[first:last]))
        parts.append(LocalModule(body, blocks[last - 1].head, blocks[last - 1].features))
    return Network(parts, blocks.image_shape, blocks.num_classes)
