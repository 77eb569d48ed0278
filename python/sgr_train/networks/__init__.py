"""The zoo of networks: ``networks.resnet32(num_classes=10, modules=3, head="conv")`` gives a :class:`Network`.

An entry is a function that makes the blocks for images (C, H, W), in one list, or in a list for each stage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import heads
from ..errors import UsageError
from ..registry import Registry
from . import cuts as _cuts
from .cuts import Cuts
from .network import Features, LocalModule, Network

Blocks = Sequence[nn.Module] | Sequence[Sequence[nn.Module]]


def _of_torchvision(name: str) -> Callable[..., Blocks] | None:
    """An entry for a classifier of torchvision that has no file here."""
    from . import traced

    if not traced.is_classifier(name):
        return None
    _facts.setdefault(name, Facts(head="linear", image_shape=(3, 224, 224)))
    return functools.partial(traced.blocks_of, name)


REGISTRY = Registry("model", __name__, _of_torchvision)
names = REGISTRY.names


class Facts(NamedTuple):
    """What is known of a network beside its blocks.

    Attributes:
        head: the name of its head, where no other is asked for.
        image_shape: (C, H, W) of the images it was made for.
        cuts: its own cuts for some numbers of modules.
        tokens: outputs of its blocks with two dimensions of positions are (B, H, W, C) and not (B, C, H, W).
    """

    head: str = "conv"
    image_shape: tuple[int, int, int] = (3, 32, 32)
    cuts: dict[int, Cuts] = {}
    tokens: bool = False


DEFAULTS = Facts()
_facts: dict[str, Facts] = {}


def register(name: str, **facts) -> Callable[[Callable[..., Blocks]], Callable[..., Blocks]]:
    """Decorator for a function ``(image_shape, *, options) -> blocks``.

    Args:
        name: by which it is found.
        facts: fields of :class:`Facts` that differ from their defaults.
    """
    _facts[name] = Facts(**facts)
    return REGISTRY.register(name)


def facts(name: str) -> Facts:
    REGISTRY.find(name)
    return _facts[name]


def create(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int] | None = None,
    modules: int | None = None,
    cuts: tuple[int | str, ...] | str = (),
    head: str | None = None,
    head_options: dict[str, object] | None = None,
    **options: object,
) -> Network:
    """A network with new weights, drawn from torch's generator: first the blocks, then the heads.

    Args:
        name: of the entry.
        num_classes: of the labels.
        image_shape: (C, H, W). None: that of the data set it was made for.
        modules: K. None: every block is a module.
        cuts: in the place of ``modules``: the blocks that begin a module, or, of a traced network, the names of the
            values that end one; "stages": between stages.
        head: of every module. None: the network's own.
        head_options, options: keywords of the head and of the entry.

    Raises:
        UsageError: no such entry, cuts that do not fit, or a head that misses something.
    """
    known = facts(name)
    shape = image_shape or known.image_shape
    return from_blocks(
        REGISTRY.make(name, shape, **options),
        num_classes=num_classes,
        image_shape=shape,
        modules=modules,
        cuts=cuts,
        head=head or known.head,
        head_options=head_options,
        facts=known,
        name=name,
    )


def from_blocks(
    blocks: Blocks,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    modules: int | None = None,
    cuts: tuple[int | str, ...] | str = (),
    head: str = "conv",
    head_options: dict[str, object] | None = None,
    facts: Facts = DEFAULTS,
    name: str = "network",
) -> Network:
    """A network of blocks of your own: a list, an nn.Sequential, or a list for each stage.

    Args:
        facts: what is known beside the blocks.
        name: what messages call it.
        num_classes, image_shape, modules, cuts, head, head_options: as for :func:`create`.

    Raises:
        UsageError: cuts that do not fit, blocks that do not follow each other, or a head that misses something.
    """
    stages = _by_stage(blocks)
    layers = [block for stage in stages for block in stage]
    chosen = _cuts.choose(name, [len(stage) for stage in stages], facts.cuts, modules, _by_number(name, blocks, cuts))
    edges = (0, *chosen, len(layers))
    bodies = [nn.Sequential(*layers[i:j]) for i, j in zip(edges, edges[1:], strict=False)]
    make_head = functools.partial(heads.create, head, num_classes=num_classes, **(head_options or {}))
    return from_bodies(bodies, make_head, image_shape, num_classes, tokens=facts.tokens)


def from_bodies(
    bodies: Sequence[nn.Module],
    make_head: Callable[[Features], nn.Module],
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    tokens: bool = False,
) -> Network:
    """A network of modules of your own.

    Args:
        bodies: nn.Sequential each, in the order of the forward pass.
        make_head: makes a head from the :class:`Features` of a body's output.
        image_shape: (C, H, W).
        tokens: see :class:`Facts`.
    """
    x = torch.empty(2, *image_shape, device="meta")
    parts = []
    for body in bodies:
        x = _output_of(body, x)
        has_tokens = getattr(body[-1], "tokens", tokens or x.dim() == 3)
        features = Features(tuple(x.shape[1:]), has_tokens)
        parts.append(LocalModule(body, make_head(features), features))
    return Network(parts, image_shape, num_classes)


def _by_number(name: str, blocks: Blocks, cuts: tuple[int | str, ...] | str) -> Cuts | str:
    """Cuts given by names of values, after which a traced network is cut, as numbers of blocks."""
    if isinstance(cuts, str) or not any(isinstance(cut, str) for cut in cuts):
        return cuts
    labels = list(getattr(blocks, "labels", ()))
    for cut in cuts:
        if isinstance(cut, str) and cut not in labels:
            crossed = getattr(blocks, "crossed", {}).get(cut)
            why = f"{name} cannot be cut there: {crossed}" if crossed else f"it can be cut after {', '.join(labels)}"
            raise UsageError(f"--cuts {cut}: {why if labels else 'only traced networks have names; give numbers'}")
    return tuple(labels.index(cut) + 1 if isinstance(cut, str) else cut for cut in cuts)


def _by_stage(blocks: Blocks) -> list[list[nn.Module]]:
    if all(isinstance(block, nn.Module) for block in blocks):
        return [list(blocks)]
    return [list(stage) for stage in blocks]


@torch.no_grad()
def _output_of(body: nn.Module, x: Tensor) -> Tensor:
    """The output for a tensor without numbers; it has the shape of one."""
    state = {name: tensor.to("meta") for name, tensor in body.state_dict(keep_vars=True).items()}
    training = body.training
    try:
        return torch.func.functional_call(body.eval(), state, (x,))
    except RuntimeError as error:
        raise UsageError(f"these blocks do not take inputs of shape {tuple(x.shape[1:])}: {error}") from error
    finally:
        body.train(training)


def __getattr__(name: str) -> Callable[..., Network]:
    if name.startswith("_") or name not in names():
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return functools.partial(create, name)


REGISTRY.load()
