"""InfoPro: local learning that keeps information on the image (Wang et al. 2021)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import heads
from ..errors import UsageError
from ..networks.network import Features, Network
from ..options import NotNegative
from . import Update, no_update, register
from .auxiliary import features_of, replace_head
from .facts import Facts

PUBLISHED = {2: (5, 1, 0, 0), 4: (6, 0, 1, 2), 8: (5, 0, 0, 2), 16: (5, 0.05, 0.2, 0.5)}  # ResNet-32, by modules
LARGE = 64  # pixels of a side, above which local networks are those for ImageNet
EMBEDDING, TEMPERATURE = 128, 0.07  # of the contrastive loss


@register("infopro")
class InfoPro:
    """InfoPro: every module but the last also reconstructs the image, so that it keeps what later ones need.

    The loss of module k = 0 ... K-2, with r = k / (K-2) (0 for K = 2), is
    (ixx1 (1-r) + ixx2 r) BCE(decoder(x_k), image) + (ixy1 (1-r) + ixy2 r) L_y, for pixels from 0 to 1; that of the last
    is the cross entropy of its head. The heads of the others learn with --local-loss cross_entropy alone, where they
    are InfoPro's own.

    Args:
        local_loss: L_y. contrastive: supervised contrastive loss of embeddings, as published for CIFAR;
            cross_entropy: of a classifier, as published for ImageNet.
        loss_weights: ixx1 ixy1 ixx2 ixy2. Left out: those published for ResNet-32 in K = 2, 4, 8 or 16 modules, for
            another K those of the next of these above it, above 16 those of 16.
    """

    grad_scale = 1.0
    facts = Facts("no", "yes", "no", "1 forward, 1 backward by module", "local heads and decoders", "one module")

    def __init__(
        self,
        *,
        local_loss: Literal["contrastive", "cross_entropy"] = "contrastive",
        loss_weights: tuple[NotNegative, ...] = (),
    ) -> None:
        if len(loss_weights) not in (0, 4):
            raise UsageError(f"--loss-weights must be ixx1 ixy1 ixx2 ixy2, got {len(loss_weights)} numbers")
        self.local_loss, self.loss_weights = local_loss, loss_weights

    def prepare(self, network: Network, sample: Tensor) -> None:
        large = max(network.image_shape[1:]) > LARGE
        name = "infopro_imagenet" if large else "infopro_cifar"
        for module in list(network)[:-1]:
            features = features_of(module, "infopro", "maps")
            module.aux = nn.ModuleDict({"decoder": decoder(features, network.image_shape, large)}).to(sample)
            if self.local_loss == "contrastive":
                module.aux["embed"] = heads.create(name, features, num_classes=EMBEDDING).to(sample)
            else:
                replace_head(module, name, features, sample, network.num_classes)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        image = x * network.std + network.mean
        losses = []
        for k, module in enumerate(network):
            x = module.body(x.detach())
            if k + 1 < len(network):
                ixx, ixy = self.weights(k, len(network))
                local = contrastive(module.aux["embed"].logits(x), y) if "embed" in module.aux else module.head(x, y)
                loss = ixx * F.binary_cross_entropy_with_logits(module.aux["decoder"](x), image) + ixy * local
            else:
                loss = module.head(x, y)
            (self.grad_scale * loss).backward()
            update(k)
            losses.append(loss.detach())
        return losses

    def weights(self, k: int, modules: int) -> tuple[float, float]:
        """Of the reconstruction and of L_y in module k, from 0, of so many."""
        ixx1, ixy1, ixx2, ixy2 = self.loss_weights or published(modules)
        r = k / (modules - 2) if modules > 2 else 0.0
        return ixx1 * (1 - r) + ixx2 * r, ixy1 * (1 - r) + ixy2 * r


def published(modules: int) -> tuple[float, ...]:
    """ixx1, ixy1, ixx2, ixy2 for so many modules, or for the next number above for which they are known."""
    return PUBLISHED[next((known for known in PUBLISHED if known >= modules), max(PUBLISHED))]


def contrastive(embedding: Tensor, y: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) of embeddings (B, D), one of each sample.

    Of every sample the mean of -log softmax, over all other samples, of those with its label; 0 if there is none.
    """
    if y.dim() != 1:
        needed = f"one label an image, got shape {tuple(y.shape)}"
        raise UsageError(f"--local-loss contrastive needs {needed}; take cross_entropy, or do not mix images")
    unit = F.normalize(embedding, dim=1)
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    log_share = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf).log_softmax(1)
    alike = (y[:, None] == y) & ~itself
    sums = torch.where(alike, log_share, 0).sum(1)
    return -(sums / alike.sum(1).clamp_min(1)).mean()


def decoder(features: Features, image_shape: tuple[int, int, int], large: bool) -> nn.Sequential:
    """Maps -> logits of pixels: one convolution at the size of the image, or three on the way to it."""
    channels, height, width = image_shape
    inputs = features.channels
    layers: list[nn.Module] = []
    if large:
        layers += [*_conv(inputs, 128, 1), _resize(height // 4, width // 4), *_conv(128, 32, 3)]
        layers += [_resize(height // 2, width // 2), *_conv(32, 12, 3), _resize(height, width)]
    else:
        layers += [_resize(height, width), *_conv(inputs, 12, 3)]
    return nn.Sequential(*layers, nn.Conv2d(12, channels, 3, padding=1))


def _conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()]


def _resize(height: int, width: int) -> nn.Module:
    return nn.Upsample(size=(height, width), mode="bilinear", align_corners=True)
