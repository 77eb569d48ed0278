"""The networks of the paper as lists of blocks, with local heads: what a benchmark cuts into modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from sgr_train import heads as zoo_heads
from sgr_train.networks import REGISTRY as ZOO
from sgr_train.networks.network import Features
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torchvision import models
from torchvision.models.vision_transformer import EncoderBlock

import sgr_kernels as sk


class Network(NamedTuple):
    """A network and where to cut it.

    Attributes:
        blocks: makes its blocks, the first of which takes an image.
        head: makes a local head from the number of channels and of classes.
        image_size, classes: of its data set.
        cuts: for some numbers of modules, the blocks that begin the second module and those after; for
            ImageNet where the search of the part ``cuts`` found a step of the directional engine small, for ResNet-32
            where the paper cuts (Table 6).
        channels: dimension of the features that counts channels.
    """

    blocks: Callable[[int], list[nn.Module]]  # of the image size
    head: Callable[[int, int], nn.Module]
    image_size: int
    classes: int
    cuts: dict[int, tuple[int, ...]]
    channels: int = 1

    def make_blocks(self, images: Tensor) -> list[nn.Module]:
        """For images (B, 3, H, W), on their device; fake parameters for a fake tensor."""
        if not isinstance(images, FakeTensor):
            with images.device:
                return self.blocks(images.shape[-1])
        with unset_fake_temporarily():  # some initialisations look at the numbers they drew
            blocks = self.blocks(images.shape[-1])
        for module in nn.ModuleList(blocks).modules():
            _take_numbers_away(module)
        return blocks

    def inputs(self, batch: int, device: str = "cpu", image_size: int | None = None) -> tuple[Tensor, Tensor]:
        """Random images (B, 3, H, W), of the data set's size if no other is given, and labels."""
        size = image_size or self.image_size
        images = torch.randn(batch, 3, size, size, device=device)
        return images, torch.randint(self.classes, (batch,), device=device)

    def make_head(self, features: Tensor) -> nn.Module:
        return self.head(features.shape[self.channels], self.classes)

    def cut(self, count: int, blocks: int) -> tuple[int, ...]:
        """The stored cuts, else modules of about equal numbers of blocks."""
        return self.cuts.get(count, tuple(round(k * blocks / count) for k in range(1, count)))


class LocalModule(NamedTuple):
    body: nn.Module
    head: nn.Module


def modules(network: Network, cuts: Sequence[int] | int, sample: Tensor) -> list[LocalModule]:
    """Modules, each with a head, cut at blocks or into a number of them; ``sample`` is an input (B, 3, H, W)."""
    blocks = network.make_blocks(sample)
    if isinstance(cuts, int):
        cuts = network.cut(cuts, len(blocks))
    with sample.device:
        edges = [0, *cuts, len(blocks)]
        bodies = [nn.Sequential(*blocks[i:j]) for i, j in itertools.pairwise(edges)]
        heads, x = [], sample
        for body in bodies:
            x = output_of(body, x)
            heads.append(network.make_head(x))
    return [LocalModule(*pair) for pair in zip(bodies, heads, strict=True)]


def cuts_of(parts: Sequence[LocalModule]) -> tuple[int, ...]:
    """The blocks that begin a new module."""
    return tuple(itertools.accumulate(len(module.body) for module in parts[:-1]))


def _take_numbers_away(module: nn.Module) -> None:
    """Under a fake tensor mode: tensors of the same sizes in the place of real ones."""
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


@torch.no_grad()
def output_of(body: nn.Module, x: Tensor) -> Tensor:
    training = body.training
    output = body.eval()(x)
    body.train(training)
    return output


def conv_head(channels: int, classes: int) -> nn.Module:
    """The local classifier of InfoPro (Wang et al. 2021) for ImageNet, which the paper adopts."""
    sizes = [(channels, 128, 1, 1), (128, 256, 3, 2), (256, 512, 3, 2), (512, 2048, 1, 1)]
    layers = [layer for size in sizes for layer in _conv_norm_relu(*size)]
    return sk.CrossEntropyHead(nn.Linear(2048, classes), nn.Sequential(*layers))


def _conv_norm_relu(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class MeanToken(nn.Module):
    """Mean over all but the first and the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).mean(1)


def token_head(width: int, classes: int) -> nn.Module:
    return sk.CrossEntropyHead(nn.Linear(width, classes), nn.Sequential(nn.LayerNorm(width), MeanToken()))


def resnet(make: Callable[..., models.ResNet], _image_size: int) -> list[nn.Module]:
    """Stem, then one entry a residual block."""
    net = make(weights=None)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return [stem, *net.layer1, *net.layer2, *net.layer3, *net.layer4]


class _Patches(nn.Module):
    """Patch embedding with positions (Dosovitskiy et al. 2021), without a class token."""

    def __init__(self, patch: int, width: int, image_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch) ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2) + self.positions


def vit_small(image_size: int) -> list[nn.Module]:
    """ViT-S/16: 12 blocks of width 384 with 6 heads."""
    block = partial(EncoderBlock, 6, 384, 1536, 0.1, 0.0, partial(nn.LayerNorm, eps=1e-6))
    return [_Patches(16, 384, image_size), *(block() for _ in range(12))]


def swin(make: Callable[..., models.SwinTransformer], _image_size: int) -> list[nn.Module]:
    """Patch embedding, then one entry a block or patch merging."""
    blocks: list[nn.Module] = []
    for part in make(weights=None).features:
        merging_or_embedding = (
            not isinstance(part[0], models.swin_transformer.SwinTransformerBlock)
            if isinstance(part, nn.Sequential)
            else True
        )
        blocks.extend([part] if merging_or_embedding else part)
    return blocks


def plainnet(depth: int, _image_size: int) -> list[nn.Module]:
    """Convolutions and ReLU without normalisation, as the paper's BP-free networks."""
    return _blocks_of("plainnet", depth=depth, width=32, norm="none")


def _blocks_of(name: str, **options: Any) -> list[nn.Module]:
    return [block for stage in ZOO.make(name, (3, 32, 32), **options) for block in stage]


def _head_of(name: str, channels: int, classes: int) -> nn.Module:
    return zoo_heads.create(name, Features((channels, 1, 1), tokens=False), num_classes=classes)


def _bp_free(depth: int) -> Network:
    """One layer a module, heads with nothing to learn."""
    return Network(partial(plainnet, depth), partial(_head_of, "etf"), 32, 10, {})


_imagenet = partial(Network, image_size=224, classes=1000)
NETWORKS = {
    "resnet32": Network(lambda _: _blocks_of("resnet32"), partial(_head_of, "conv"), 32, 10, {2: (11,), 3: (6, 11)}),
    "plainnet4": _bp_free(4),
    "plainnet8": _bp_free(8),
    "plainnet16": _bp_free(16),
    "resnet50": _imagenet(partial(resnet, models.resnet50), conv_head, cuts={2: (5,), 3: (3, 6)}),
    "resnet101": _imagenet(partial(resnet, models.resnet101), conv_head, cuts={2: (8,), 3: (4, 13)}),
    "vit_small": _imagenet(vit_small, token_head, cuts={2: (7,), 3: (5, 9)}, channels=-1),
    "swin_tiny": _imagenet(partial(swin, models.swin_t), token_head, cuts={3: (3, 7)}, channels=-1),
    "swin_small": _imagenet(partial(swin, models.swin_s), token_head, cuts={2: (10,), 3: (5, 15)}, channels=-1),
}
