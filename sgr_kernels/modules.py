"""Modules around :mod:`sgr_kernels.functional`."""

import math

import torch
from torch import Tensor, nn

from . import functional
from .functional.sgr_loss import loss, warn_without_graph
from .operators.common.checks import check_number_or_tensor, loss_dtype
from .operators.common.options import Options
from .torch_internals import overridable, refuse_scripting


class SGRLoss(nn.Module):
    """``weight * sgr_loss(delta, target)``: the regulariser of Eq. 5, a drop-in for the MSE of Algorithm 1.

    Warns where gradients are enabled and neither argument requires one, as ``delta`` without ``create_graph=True``.

    Args:
        weight: the paper's lambda, a number >= 0 or a 0-d tensor. It goes with ``reduction``: lambda_mean = n *
            lambda_batchmean gives the same gradient, for n elements of a sample (n = 8192: 0.1 under "batchmean" is
            819.2 under "mean"). Pass ``reduction`` with every number: the default is "mean" here and in
            :func:`sgr_kernels.local_step`, and "batchmean" in the method ``sgr`` of sgr_train and its ``--weight``.
        normalize, reduction, floor, eps: as in :func:`sgr_kernels.sgr_loss`.

    Shape:
        delta, target: (B, ...); result: 0-d, float32 (float64 for float64 input).

    Raises:
        TypeError: ``weight``, ``floor`` or ``eps`` is no number; in a call, ``delta`` or ``target`` is no
            floating-point tensor of a supported dtype, or their dtypes differ.
        ValueError: one of these numbers is negative or not finite, a tensor for ``weight`` or ``floor`` is not 0-d, or
            ``reduction`` is unknown; in a call, shapes or devices differ, or a scalar was given.
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        weight: float | Tensor = 1.0,
        normalize: bool = True,
        reduction: str = "mean",
        floor: float | Tensor = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.weight, self.options = weight, Options(normalize, reduction, floor, eps)
        self.options.check()
        check_number_or_tensor("weight", weight)

    def forward(self, delta: Tensor, target: Tensor) -> Tensor:
        value = loss(delta, target, self.options)
        warn_without_graph(value)
        return self.weight * value

    def extra_repr(self) -> str:
        return f"weight={self.weight}, normalize={self.options.normalize}, reduction={self.options.reduction!r}"


class LinearReLU(nn.Linear):
    """``linear_relu`` with parameters: arguments, shapes and initialisation of :class:`torch.nn.Linear`.

    Raises:
        ValueError: in a call, an input without a batch dimension, which ``nn.Linear`` takes.
    """

    __prepare_scriptable__ = refuse_scripting

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear_relu(x, self.weight, self.bias)


class Conv2dReLU(nn.Conv2d):
    """``conv2d_relu`` with parameters: arguments, shapes and initialisation of :class:`torch.nn.Conv2d`.

    Raises:
        ValueError: a padding mode other than zeros, or a padding given by name; in a call, an input without a batch
            dimension. ``nn.Conv2d`` takes all of these.
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {self.padding_mode!r}")
        if isinstance(self.padding, str):
            raise ValueError(f"padding must be a number or a pair, got {self.padding!r}")

    def forward(self, x: Tensor) -> Tensor:
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return functional.conv2d_relu(x, self.weight, self.bias, *geometry)


@overridable  # one call for function modes, and not one for each step of it
def average_positions(x: Tensor) -> Tensor:
    """(B, C, any number of positions) -> (B, C): the mean over all positions; (B, C) stays as it is.

    A sum that is divided, because its gradient is then a view of the one that arrives. torch.mean writes its gradient
    out at every position, and in the first module of a ResNet-50 that is where a step needs most memory.
    """
    if x.dim() == 2:
        return x
    # The sum of a float16 map may be larger than float16 goes, where the mean is not.
    dtype = x.dtype
    wide = torch.float32 if dtype == torch.float16 else dtype
    mean = x.flatten(2).sum(2, dtype=wide) / math.prod(x.shape[2:])
    return mean if wide == dtype else mean.to(dtype)


class CrossEntropyHead(nn.Module):
    """Local head: features, average pooling over positions, a linear classifier, cross entropy.

    Without ``features``, or where they are an ``nn.Flatten`` (all positions in the place of their average), its
    gradient and its Hessian are known in closed form, which the fused engine uses.

    Args:
        classifier: (B, d) -> logits (B, K), for example :class:`ETFClassifier` or :class:`torch.nn.Linear`.
        features: what comes before the pooling; None: nothing.
        label_smoothing: share of every label that is spread evenly over all classes, 0 to 1.

    Shape:
        x: (B, d), (B, d, H, W) or any number of positions; labels: (B,) int64, or class probabilities (B, K) as mixup
            gives them; result: 0-d loss in nats.

    Raises:
        TypeError: in a call, labels that are no tensor, or neither int64 nor (B, K) floating-point.
        ValueError: in a call, logits that are not (B, K), labels of another shape than (B,) or on another device.
        RuntimeError: in a call, a label out of range (on a GPU, where checking would stall, the loss is NaN instead).
            With class probabilities or a label smoothing, what :func:`torch.nn.functional.cross_entropy` raises.
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(self, classifier: nn.Module, features: nn.Module | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.label_smoothing = label_smoothing

    def logits(self, x: Tensor) -> Tensor:
        if self.features is not None:
            x = self.features(x)
        return self.classifier(average_positions(x))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        logits = self.logits(x)
        if not self.is_soft(labels):
            return functional.cross_entropy(logits, labels)
        logits = logits.to(loss_dtype(logits))
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def is_soft(self, labels: Tensor) -> bool:
        """Whether a sample is of several classes. The gradient is then p - q, and no form of it cancels less."""
        if self.label_smoothing > 0:
            return True
        return isinstance(labels, Tensor) and labels.dtype.is_floating_point and labels.dim() == 2


class ETFClassifier(nn.Module):
    """Fixed linear classifier whose rows form a simplex equiangular tight frame (Eq. 7). Nothing in it is learned.

    Args:
        num_classes: K >= 2.
        num_features: d >= K - 1.
        generator: source of the random rotation.
        dtype, device: as in :func:`sgr_kernels.etf_classifier`.

    Shape:
        input: (..., d); output: logits (..., K).
    """

    weight: Tensor

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        weight = functional.etf_classifier(num_classes, num_features, generator=generator, dtype=dtype, device=device)
        self.register_buffer("weight", weight)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the frame anew, on the device of the weight, as after :meth:`torch.nn.Module.to_empty`."""
        like = {"dtype": self.weight.dtype, "device": self.weight.device}
        self.weight.copy_(functional.etf_classifier(*self.weight.shape, generator=generator, **like))

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features, self.weight)

    def extra_repr(self) -> str:
        num_classes, num_features = self.weight.shape
        return f"num_classes={num_classes}, num_features={num_features}"
