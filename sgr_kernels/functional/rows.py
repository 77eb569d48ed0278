"""Tensors as the rows (B, n) that operators see, with unit stride along a row, and results back in their layout."""

from torch import Tensor


def as_rows(like: Tensor, *others: Tensor) -> list[Tensor]:
    """Tensors of one shape (B, ...) as rows whose elements pair up; views where all lie in memory as ``like`` does."""
    if like.dim() == 1:
        return [tensor.unsqueeze(1) for tensor in (like, *others)]
    if like.dim() == 2:  # rows already: views cost microseconds, which small problems notice
        return [with_unit_stride(tensor) for tensor in (like, *others)]
    if like.is_contiguous():  # the common case, of which small problems notice the rest
        tensors = (like, *others)
        return [t.flatten(1) if t.is_contiguous() else with_unit_stride(t.flatten(1)) for t in tensors]
    order = _storage_order(like)
    in_order = order == sorted(order)
    ordered = (tensor if in_order else tensor.permute([0, *order]) for tensor in (like, *others))
    return [with_unit_stride(tensor.flatten(1)) for tensor in ordered]


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """A result that belongs to the rows of ``like``, in the shape and the layout of ``like``."""
    if like.dim() == 1:
        return rows.squeeze(1)
    if like.dim() == 2:
        return rows
    if like.is_contiguous():
        return rows.view(like.shape)
    order = [0, *_storage_order(like)]
    inverse = sorted(range(like.dim()), key=order.__getitem__)
    return rows.view([like.shape[dim] for dim in order]).permute(inverse)


def with_unit_stride(rows: Tensor) -> Tensor:
    """Rows (B, n) as operators take them."""
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _storage_order(tensor: Tensor) -> list[int]:
    """Dimensions after the batch, slowest first, as they lie in memory."""
    order: list[int] = []
    strides = tensor.stride()
    for dim in range(1, tensor.dim()):  # an insertion sort: torch.compile cannot trace sorted() on symbolic strides
        place = len(order)
        while place > 0 and strides[order[place - 1]] < strides[dim]:
            place -= 1
        order.insert(place, dim)
    return order
