"""How well one more pass along v gives the gradient of Algorithm 1, at the start and at the end of training.

    python -m sgr_bench.gradients [--data data/cifar10.npz] [--images 512] [--floor 0.3] [--out FILE.json]

Two-module networks of four kinds are trained on CIFAR-10 images with SGR (autograd engine) until they know more than
90% of them, so that the norms of the gradients spread as they do in practice. Then the SGR gradient of the second
module, all parameters together, is compared with that of the autograd engine in the same precision, and, in float32,
with float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import pathlib
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock

import sgr_kernels as sk

from .networks import LocalModule, MeanToken
from .timing import parse, report

WEIGHT, EPOCHS, KNOWN, PROBE = 0.1, 150, 0.93, 64
# Of the SGR loss in the comparison: the autograd engine rounds its gradient together with that of the local loss.
LARGE_WEIGHT = 100.0


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))) + self.shortcut(x))


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _conv_module(body: nn.Sequential, width: int) -> LocalModule:
    return LocalModule(body, sk.CrossEntropyHead(nn.Linear(width, 10), nn.Sequential(*_conv(width, width))))


def residual() -> list[LocalModule]:
    first = nn.Sequential(*_conv(3, 16), _Residual(16, 16, 1))
    return [_conv_module(first, 16), _conv_module(nn.Sequential(_Residual(16, 32, 2), _Residual(32, 32, 1)), 32)]


def vgg() -> list[LocalModule]:
    def block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(*_conv(inputs, outputs), *_conv(outputs, outputs), nn.MaxPool2d(2))

    return [_conv_module(block(3, 16), 16), _conv_module(nn.Sequential(block(16, 32), block(32, 32)), 32)]


class _Patches(nn.Module):
    """4x4 patches, (B, 8, 8, width), flattened to (B, 64, width) for a ViT."""

    def __init__(self, width: int, flatten: bool) -> None:
        super().__init__()
        self.proj, self.flatten = nn.Conv2d(3, width, 4, 4), flatten

    def forward(self, x: Tensor) -> Tensor:
        patches = self.proj(x).permute(0, 2, 3, 1)
        return patches.flatten(1, 2) if self.flatten else patches


def _token_module(width: int, *blocks: nn.Module) -> LocalModule:
    return LocalModule(nn.Sequential(*blocks), sk.CrossEntropyHead(nn.Linear(width, 10), MeanToken()))


def vit() -> list[LocalModule]:
    block = partial(EncoderBlock, 4, 64, 128, 0.1, 0.1, partial(nn.LayerNorm, eps=1e-6))
    return [_token_module(64, _Patches(64, flatten=True), block()), _token_module(64, block(), block())]


def swin() -> list[LocalModule]:
    rates = {"dropout": 0.1, "attention_dropout": 0.1, "stochastic_depth_prob": 0.2}
    block = partial(SwinTransformerBlock, num_heads=4, window_size=[4, 4], **rates)
    return [
        _token_module(32, _Patches(32, flatten=False), block(32, shift_size=[0, 0])),
        _token_module(64, block(32, shift_size=[2, 2]), PatchMerging(32), block(64, shift_size=[0, 0])),
    ]


KINDS = {"residual": residual, "vgg": vgg, "vit": vit, "swin": swin}


def cifar10(path: pathlib.Path, count: int) -> tuple[Tensor, Tensor]:
    with np.load(path) as file:
        images, labels = (torch.as_tensor(file[f"train_{name}"][:count]) for name in ("images", "labels"))
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), labels.long().flatten()


def train(network: list[LocalModule], x: Tensor, y: Tensor, floor: float) -> float:
    """Until more than 90% of the images are known; their share."""
    parameters = [p for module in network for part in module for p in part.parameters()]
    optimizer = torch.optim.Adam(parameters, 2e-3)
    known = 0.0
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(PROBE):
            optimizer.zero_grad()
            features, delta = x[batch], None
            for module in network:
                step = _step(module, features, y[batch], delta, "autograd", floor, WEIGHT)
                features, delta = step.output, step.delta_out
            optimizer.step()
        known = _accuracy(network, x, y)
        if known > KNOWN:
            break
    return known


@torch.no_grad()
def _accuracy(network: list[LocalModule], x: Tensor, y: Tensor) -> float:
    for module in network:
        x = copy.deepcopy(module.body).eval()(x)
    logits = copy.deepcopy(network[-1].head).eval().logits(x)
    return float((logits.argmax(1) == y).float().mean())


def _step(
    module: LocalModule, x: Tensor, y: Tensor, delta: Tensor | None, engine: str, floor: float, weight: float, **options
) -> sk.LocalStep:
    settings = {"weight": weight, "reduction": "batchmean", "relative_floor": floor}
    return sk.local_step(*module, x, y, delta, engine=engine, **settings, **options)


def sgr_gradient(
    module: LocalModule, x: Tensor, y: Tensor, delta: Tensor, engine: str, floor: float, **options
) -> Tensor:
    """Of all parameters, without that of the local loss."""
    results = []
    for target, name in ((delta, engine), (None, "autograd")):
        parts = LocalModule(*copy.deepcopy(tuple(module)))
        torch.manual_seed(0)  # the same dropout
        _step(parts, x, y, target, name, floor, LARGE_WEIGHT, **(options if target is not None else {}))
        gradients = [p.grad for part in parts for p in part.parameters() if p.grad is not None]
        results.append(torch.cat([gradient.double().flatten() for gradient in gradients]))
    return results[0] - results[1]


def compare(network: list[LocalModule], x: Tensor, y: Tensor, floor: float, half: bool) -> dict[str, Any]:
    x, y = x[:PROBE], y[:PROBE]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        torch.manual_seed(0)
        first = _step(LocalModule(*copy.deepcopy(tuple(network[0]))), x, y, None, "autograd", floor, WEIGHT)
        arguments = network[1], first.output, y, first.delta_out
        truth = sgr_gradient(*arguments, "autograd", floor)
        result = {"precision": "bfloat16 autocast" if half else "float32", "spread": round(_spread(*arguments[:3]), 1)}
        if not half:
            wide = LocalModule(*(copy.deepcopy(part).double() for part in network[1]))
            exact = sgr_gradient(wide, first.output.double(), y, first.delta_out.double(), "autograd", floor)
            result["autograd against float64"] = _agreement(truth, exact)
        for order in (1, 2):
            result[f"order {order}"] = _agreement(sgr_gradient(*arguments, "directional", floor, order=order), truth)
        if half:
            for order in (1, 2):
                options = {"order": order, "radius": 0.1}
                gradient = sgr_gradient(*arguments, "directional", floor, **options)
                result[f"order {order}, radius 0.1"] = _agreement(gradient, truth)
    return result


def _spread(module: LocalModule, x: Tensor, y: Tensor) -> float:
    """Largest over smallest |delta_b|."""
    leaf = x.detach().requires_grad_()
    body, head = copy.deepcopy(tuple(module))
    norms = torch.autograd.grad(head(body(leaf), y), leaf)[0].float().flatten(1).norm(dim=1)
    return float(norms.max() / norms.min())


def _agreement(gradient: Tensor, truth: Tensor) -> dict[str, float]:
    cosine = torch.nn.functional.cosine_similarity(gradient, truth, dim=0)
    return {
        "cosine": round(float(cosine), 6),
        "relative_error": round(float((gradient - truth).norm() / truth.norm()), 5),
    }


def measure(kind: str, data: pathlib.Path, images: int, floor: float) -> dict[str, Any]:
    torch.manual_seed(0)
    x, y = cifar10(data, images)
    network = KINDS[kind]()
    rows = [{"when": "at init", **compare(network, x, y, floor, half)} for half in (False, True)]
    known = train(network, x, y, floor)
    rows += [{"when": "trained", **compare(network, x, y, floor, half)} for half in (False, True)]
    return {
        "network": kind,
        "images": images,
        "relative_floor": floor,
        "train_accuracy": round(known, 4),
        "results": rows,
    }


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--data", type=pathlib.Path, default=pathlib.Path("data/cifar10.npz"), help="npz of CIFAR-10"
        )
        parser.add_argument("--images", type=int, default=512, help="training images (default 512)")
        parser.add_argument("--floor", type=float, default=0.3, help="relative floor of both engines (default 0.3)")
        parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))

    args = parse(__doc__, options)
    rows = []
    for kind in args.kinds:
        rows.append(measure(kind, args.data, args.images, args.floor))
        print(json.dumps(rows[-1], indent=1), flush=True)
    report(args, "python -m sgr_bench.gradients", rows)


if __name__ == "__main__":
    main()
