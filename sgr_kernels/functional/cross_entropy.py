"""cross_entropy of local heads: argument checks."""

import torch
from torch import Tensor

from ..operators.common.checks import check_device, check_floating, check_shape, check_tensor
from ..operators.cross_entropy import cross_entropy as operator
from ..torch_internals import overridable
from .rows import with_unit_stride


@overridable
def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy whose gradient keeps its direction for confident samples; twice differentiable.

    The gradient for the logit of the label is minus the sum of the other probabilities. The usual p_y - 1 cancels where
    p_y is near 1, and the direction of what is left, which is all that a normalised SGR loss sees, is rounding noise.

    Args:
        logits: (B, K); float64, float32, bfloat16 or float16.
        labels: (B,) int64, 0 to K - 1.

    Returns:
        0-d loss in nats, float32 (float64 for float64); NaN for an empty batch.

    Raises:
        TypeError, ValueError: dtypes, devices or shapes that do not fit.
        RuntimeError: a label out of range (on a GPU, where checking would stall, the loss is NaN instead).
    """
    check_floating("logits", logits)
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape (B, K), got {tuple(logits.shape)}")
    check_labels(labels, len(logits))
    check_device("labels", labels, "logits", logits)
    return operator(with_unit_stride(logits), labels.contiguous())[0]


def check_labels(labels: Tensor, batch: int) -> None:
    check_tensor("labels", labels)
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    check_shape("labels", labels, (batch,))
