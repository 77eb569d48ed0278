"""Fixed classifiers."""

import math

import torch
from torch import Tensor


def etf_classifier(
    num_classes: int,
    num_features: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Simplex equiangular tight frame: unit rows whose pairwise cosine is -1/(K-1) (Eq. 7), randomly rotated.

    Args:
        num_classes: K >= 2.
        num_features: d >= K - 1.
        generator: source of the random rotation.
        dtype: of the result; default ``torch.get_default_dtype()``. The frame is computed in float64.
        device: of the result; default ``torch.get_default_device()``, unless the generator is on a GPU. On "meta"
            nothing is drawn.

    Returns:
        (K, d) tensor, one classifier vector a row.

    Raises:
        ValueError: K < 2, or d < K - 1 (so many directions cannot be equiangular in so few dimensions).
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    rank = num_classes - 1
    if num_features < rank:
        raise ValueError(f"num_features must be at least num_classes - 1 = {rank}, got {num_features}")
    dtype = dtype or torch.get_default_dtype()
    source = torch.device("cpu") if generator is None else generator.device
    if device is None:
        device = torch.get_default_device() if source.type == "cpu" else source
    if torch.device(device).type == "meta":
        return torch.empty(num_classes, num_features, dtype=dtype, device=device)
    noise = torch.randn(num_features, rank, generator=generator, dtype=torch.float64, device=source)
    rotation, triangle = torch.linalg.qr(noise)
    rotation = rotation * triangle.diagonal().sign()  # makes the rotation unique, hence uniformly distributed
    frame = math.sqrt(num_classes / rank) * _simplex_basis(num_classes, source) @ rotation.T
    return frame.to(device=device, dtype=dtype)


def _simplex_basis(k: int, device: torch.device) -> Tensor:
    """(k, k-1) orthonormal basis of the vectors whose entries sum to zero (the Helmert matrix)."""
    j = torch.arange(1, k, dtype=torch.float64, device=device)
    upper = torch.ones(k, k - 1, dtype=torch.float64, device=device).triu()  # column j: ones in the first j rows
    upper.diagonal(-1).copy_(-j)
    return upper / (j * (j + 1)).sqrt()
