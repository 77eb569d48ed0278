"""cross_entropy in plain PyTorch: the definition, differentiable to any order, and the operators of the reference
backend by their formulas, in float64.
"""

import math

import torch
from torch import Tensor, nn

from ..common.checks import loss_dtype


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of log(1 + sum_{k != y} exp(z_k - z_y)), whose gradient stays exact for confident samples.

    Shapes, dtypes and meaning as :func:`sgr_kernels.cross_entropy`.
    """
    dtype, logits = loss_dtype(logits), logits.double()
    if logits.shape[1] == 1:
        return (0.0 * logits.square().mean()).to(dtype)
    own, others = _own_and_others(logits, labels)
    alone = others.eq(-math.inf).all(1)  # every other class is masked: no 0 / 0 in any derivative
    log_odds = torch.logsumexp(others.masked_fill(alone.unsqueeze(1), 0.0), 1) - own
    return nn.functional.softplus(log_odds.masked_fill(alone, -math.inf), threshold=100).mean().to(dtype)


def cross_entropy_with_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_reference::cross_entropy``."""
    p, p_others = _softmax(logits, labels)
    gradient = p.scatter(1, labels.unsqueeze(1), -p_others.unsqueeze(1)) / max(len(logits), 1)
    return cross_entropy(logits, labels), gradient.to(loss_dtype(logits))


def cross_entropy_hvp(logits: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
    """Implementation of ``sgr_reference::cross_entropy_hvp``."""
    p, _ = _softmax(logits, labels)
    t = tangent.double()
    # Relative to the likeliest class, whose p is near 1 where the others vanish: its own share must not cancel.
    t = t - t.gather(1, p.argmax(1, keepdim=True))
    return (p * (t - (p * t).sum(1, keepdim=True)) / max(len(logits), 1)).to(loss_dtype(logits))


def _own_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of the label (B,), and all others (B, K) with -inf in its place."""
    target = labels.unsqueeze(1)
    own = logits.gather(1, target).squeeze(1)
    own = own.masked_fill(own == math.inf, math.nan)  # as torch: no probability can be told
    return own, logits.scatter(1, target, -math.inf)


def _softmax(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (B, K), and the sum of all but the label's (B,), in float64; the label never cancels."""
    own, others = _own_and_others(logits.double(), labels)
    largest = others.amax(1)
    shift = largest.masked_fill(largest == -math.inf, 0.0)  # every other class may be masked
    terms = (others - shift.unsqueeze(1)).exp()
    total = terms.sum(1)
    log_odds = total.log() + (shift - own)  # against the label
    p_others = torch.sigmoid(log_odds)
    p = terms * (p_others / total.masked_fill(total == 0, 1.0)).unsqueeze(1)
    return p.scatter(1, labels.unsqueeze(1), torch.sigmoid(-log_odds).unsqueeze(1)), p_others
