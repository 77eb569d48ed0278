"""What the Triton kernels of products share: tiles, rounding, and the multiplication itself.

Operands are rounded to the dtype of the inputs before they are multiplied, as a library has them in memory. Tiles
depend on shape, strides and dtype alone, and every sum has one fixed order, so results are reproducible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...products import MATRIX, rounding_of_products

REGISTERS = 255  # all there are: left to itself, the assembler spills some to fit in one more program
_MANY_TILES = 128  # with fewer large tiles than this, small ones leave less of the GPU idle
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def place(program, tiles_down, tiles_across, GROUP: tl.constexpr):
    """Row and column of a program's tile. Programs that run together take compact areas, whose operands L2 can hold."""
    area = GROUP * tiles_across
    first = program // area * GROUP
    height = tl.minimum(tiles_down - first, GROUP)
    return first + program % area % height, program % area // height


@triton.jit
def offsets(DOWN: tl.constexpr, ACROSS: tl.constexpr, stride_down, stride_across, FAR: tl.constexpr):
    """Of the elements of a tile from its corner. 32 bits an element, where they suffice, leave registers for a tile."""
    down = tl.arange(0, DOWN)[:, None]
    across = tl.arange(0, ACROSS)[None, :]
    if FAR:
        down = down.to(tl.int64)
        across = across.to(tl.int64)
    return down * stride_down + across * stride_across


@triton.jit
def _round(x, BITS: tl.constexpr):
    """float32 rounded to the nearest number without the last BITS bits."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + (1 << (BITS - 1))) & -(1 << BITS)).to(tl.float32, bitcast=True)
    return tl.where(x == x, rounded, x)


@triton.jit
def convert(x, dtype: tl.constexpr):
    """float32 to the dtype of the inputs."""
    if _INTERPRETED and dtype == tl.bfloat16:
        x = _round(x, 16)  # the interpreter cuts them off
    return x.to(dtype)


@triton.jit
def multiply_add(a, b, total, PRECISION: tl.constexpr):
    """total + a b."""
    if PRECISION == "tf32" and a.dtype == tl.float32:
        a = _round(a, 13)  # tensor cores cut them off
        b = _round(b, 13)
    if _INTERPRETED:
        a = a.to(tl.float32)  # its product takes the bits of bfloat16 for integers
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


def tile_of(down: int, across: int, *operands: Tensor) -> dict[str, int]:
    """Tile of a product (down, across).

    64 bytes of each row at a time keep shared memory below 99 KiB, all that a program gets on small GPUs. Without wide
    loads, with wide offsets, or without tensor cores, large tiles do not fit into registers, and small ones want more
    threads.
    """
    dtype = operands[0].dtype
    near = not far_apart(*operands)
    fits = across % 16 == 0 and near and all(map(_loads_wide, operands)) and precision_of(dtype) == "tf32"
    large = fits and triton.cdiv(down, 128) * triton.cdiv(across, 128) >= _MANY_TILES
    side = 128 if large else 64
    warps = 4 if fits and not large else 8
    return {"DOWN": side, "ACROSS": side, "DEEP": 64 // dtype.itemsize, "GROUP": 8, "num_warps": warps}


def _loads_wide(matrix: Tensor) -> bool:
    """Whether the compiler knows that 16 bytes may be loaded at a time: it asks for multiples of 16 everywhere."""
    if 1 not in matrix.stride():
        return False
    along = matrix.stride().index(1)
    return matrix.data_ptr() % 16 == matrix.shape[along] % 16 == matrix.stride(1 - along) % 16 == 0


def far_apart(*operands: Tensor) -> bool:
    """Whether elements of one tile may lie 2^31 elements apart."""
    return max(stride for matrix in operands for stride in matrix.stride()) * 256 >= 2**31


def precision_of(dtype: torch.dtype) -> str:
    """What float32 products may round their operands to; the tensor cores multiply other dtypes as they are."""
    rounds = dtype != torch.float32 or rounding_of_products("cuda", MATRIX) == "tf32"
    return "tf32" if rounds else "ieee"


def refuse_float64(grad: Tensor) -> None:
    if grad.dtype == torch.float64:
        raise TypeError("grad: the fused products take float32, bfloat16 and float16, got float64; use torch.mm for it")
