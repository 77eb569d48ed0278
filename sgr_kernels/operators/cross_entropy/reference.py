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
    own, others = _own_and_others(logits, labels)
    if logits.shape[1] == 1:
        return (0.0 * own.square().mean()).to(dtype)
    alone = others.eq(-math.inf).all(1)  # every other class is masked: no 0 / 0 in any derivative
    log_odds = torch.logsumexp(others.masked_fill(alone.unsqueeze(1), 0.0), 1) - own
    return nn.functional.softplus(log_odds.masked_fill(alone, -math.inf), threshold=100).mean().to(dtype)


def cross_entropy_with_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_reference::cross_entropy``."""
    p, p_others = _softmax(logits, labels)
    gradient = p.scatter(1, _column(logits, labels), -p_others.unsqueeze(1)) / max(len(logits), 1)
    return cross_entropy(logits, labels), gradient.to(loss_dtype(logits))


def cross_entropy_hvp(logits: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
    """Implementation of ``sgr_reference::cross_entropy_hvp``."""
    p, _ = _softmax(logits, labels)
    t = tangent.double()
    # Relative to the likeliest class, whose p is near 1 where the others vanish: its own share must not cancel.
    t = t - t.gather(1, p.argmax(1, keepdim=True))
    return (p * (t - (p * t).sum(1, keepdim=True)) / max(len(logits), 1)).to(loss_dtype(logits))


def _own_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of the label (B,), NaN for a label out of range, and all others (B, K) with -inf in its place."""
    column = _column(logits, labels)
    own = logits.gather(1, column).squeeze(1)
    own = own.masked_fill(own == math.inf, math.nan)  # as torch: no probability can be told
    if not raises_for_an_index(labels):
        own = own + torch.zeros_like(own).masked_fill(_out_of_range(logits, labels), math.nan)  # in derivatives, too
    return own, logits.scatter(1, column, -math.inf)


def _column(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, 1), where to gather and scatter: a label that would end the process gives way to another."""
    if not raises_for_an_index(labels):
        labels = labels.masked_fill(_out_of_range(logits, labels), 0)
    return labels.unsqueeze(1)


def _out_of_range(logits: Tensor, labels: Tensor) -> Tensor:
    return (labels < 0) | (labels >= logits.shape[1])


def raises_for_an_index(labels: Tensor) -> bool:
    """Whether gather raises for an index out of range, as it does on a CPU; on a GPU it ends the process."""
    return labels.is_cpu


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
    return p.scatter(1, _column(logits, labels), torch.sigmoid(-log_odds).unsqueeze(1)), p_others
