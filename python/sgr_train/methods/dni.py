"""Decoupled neural interfaces: synthetic gradients (Jaderberg et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.network import Features, Network
from . import Update, no_update, register
from .auxiliary import features_of
from .facts import Facts
from .feedback import targets

KERNEL = 5  # of convolutions, as published
FORGET = 0.01  # of the size of gradients, a step


@register("dni")
class DNI:
    """Synthetic gradients: a generator foretells the gradient of every output; this breaks gradient isolation.

    Module k is trained on s_k = M_k(x_k, y) in the place of the gradient of its output, and the last one on its loss.
    The generator M_k regresses on the gradient for x_k that comes back from module k+1: s_{k+1} propagated through it,
    the true one in the last. So module k may be updated at once, and its generator only after module k+1.
    """

    grad_scale = 1.0
    facts = Facts("no", "partly", "no", "1 forward, 1 backward by module", "generators", "two modules")

    def prepare(self, network: Network, sample: Tensor) -> None:
        for module in list(network)[:-1]:
            module.aux = Generator(features_of(module, "dni", "maps", "vector"), network.num_classes).to(sample)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        label = targets(network, y, x.dtype)
        foretold = None  # for the input, by the generator of the module before
        for k, module in enumerate(network):
            x = x.detach().requires_grad_(k > 0)
            output = module.body(x)
            if module is network[-1]:
                loss = module.head(output, y)
                (self.grad_scale * loss).backward()
            else:
                following = module.aux(output.detach(), label)
                torch.autograd.backward(output, module.aux.gradient(following, self.grad_scale))
            if k > 0:
                regression = network[k - 1].aux.regression(foretold, x.grad, self.grad_scale)
                (self.grad_scale * regression).backward()
                update(k - 1)
            if module is not network[-1]:
                x, foretold = output, following
        update(len(network) - 1)
        return [loss.detach()]


class Generator(nn.Module):
    """Foretells the gradient of features (B, C, ...) from them and one-hot labels (B, classes), in units of its size.

    So what it learns is of order one, whatever the batch, the maps, and how far training is. It begins with 0.

    Attributes:
        size: 0-d, root mean square of the elements of a gradient: the largest of late, since while generators
            begin, one after the other, gradients grow by orders of magnitude. 0 before the first.
    """

    size: Tensor

    def __init__(self, features: Features, num_classes: int) -> None:
        super().__init__()
        width = features.channels
        if features.kind == "maps":
            layer, norm, options = nn.Conv2d, nn.BatchNorm2d, {"kernel_size": KERNEL, "padding": KERNEL // 2}
        else:
            layer, norm, options = nn.Linear, nn.BatchNorm1d, {}
        inputs, layers = width + num_classes, []
        for _ in range(2):
            layers += [layer(inputs, width, bias=False, **options), norm(width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, layer(width, width, **options))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        self.register_buffer("size", torch.zeros(()))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        label = label.reshape(*label.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
        return self.layers(torch.cat([x, label], 1))

    def gradient(self, foretold: Tensor, scale: float = 1.0) -> Tensor:
        """The synthetic gradient, times a scale, which is a constant for whom it trains."""
        return (scale * self.size) * foretold.detach()

    def regression(self, foretold: Tensor, scaled: Tensor, scale: float = 1.0) -> Tensor:
        """Mean squared error to the gradient ``scaled / scale``, of order one. Moves the size, if that is finite."""
        gradient = scaled.to(self.size.dtype) / scale
        size = gradient.square().mean().sqrt()
        size = torch.where(size.isfinite(), size, self.size)
        self.size.copy_(torch.maximum(self.size.lerp(size, FORGET), size))
        return F.mse_loss(foretold, gradient / self.size.clamp_min(torch.finfo(self.size.dtype).tiny))
