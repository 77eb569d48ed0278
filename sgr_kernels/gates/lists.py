"""The functions of torch that need no rule: they are smooth in their tensors, or constant for Algorithm 1. Recording
refuses what is on no list.

A name stands for every function and method that torch has under it, with the in-place forms and operators.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..products import CONVOLUTION, KINDS, MATRIX
from ..torch_internals import LAYER_FUNCTIONS, SET_GRAD_ENABLED

_NAMESPACES = (torch, Tensor, torch.nn.functional, LAYER_FUNCTIONS, torch.special, torch.linalg, torch.fft)

_ARITHMETIC = """
    add sub subtract rsub mul multiply true_divide rdiv rtruediv neg negative positive pow float_power square sqrt
    rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 logsumexp logcumsumexp sin cos tan sinc
    asin acos atan arcsin arccos arctan atan2 arctan2 sinh cosh tanh asinh acosh atanh arcsinh arccosh arctanh sigmoid
    expit logit erf erfc erfinv lgamma digamma gammaln hypot lerp addcmul addcdiv sum mean prod cumsum cumprod var std
    var_mean std_mean trace diff cross xlogy
"""
_COMPLEX = """
    fft ifft rfft irfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn fftshift ifftshift view_as_real view_as_complex
    real imag conj complex
"""
_MATRIX_PRODUCTS = """
    matmul mm bmm mv dot inner outer ger vdot addmm addmv addbmm baddbmm addr einsum tensordot kron chain_matmul
    multi_dot linear bilinear scaled_dot_product_attention multi_head_attention_forward lstm_cell gru_cell rnn_tanh_cell
    inv inverse solve solve_triangular cholesky det logdet slogdet matrix_exp matrix_power cov corrcoef
"""
_CONVOLUTIONS = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution conv_tbc
"""
_RECURRENT = "lstm gru rnn_tanh"
_LAYERS = """
    gelu silu mish softplus logsigmoid softsign tanhshrink softmax log_softmax softmin glu batch_norm instance_norm
    layer_norm group_norm rms_norm local_response_norm cosine_similarity embedding embedding_bag avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample
    pixel_shuffle pixel_unshuffle channel_shuffle cross_entropy nll_loss mse_loss kl_div binary_cross_entropy
    binary_cross_entropy_with_logits soft_margin_loss ctc_loss
"""
_SHAPES = """
    view view_as reshape reshape_as ravel flatten unflatten permute transpose t swapaxes swapdims movedim moveaxis
    squeeze unsqueeze expand expand_as broadcast_to broadcast_tensors repeat repeat_interleave tile cat concat
    concatenate stack hstack vstack dstack column_stack chunk split split_with_sizes tensor_split hsplit vsplit unbind
    select narrow index_select gather take take_along_dim masked_select masked_fill masked_scatter where scatter
    scatter_add index_add index_copy index_fill index_put select_scatter slice_scatter diagonal_scatter roll flip
    fliplr flipud rot90 tril triu diag diagonal diag_embed diagflat as_strided unfold fold pad constant_pad_nd
    contiguous clone type_as float double half bfloat16 cpu cuda copy zero fill getitem setitem iter meshgrid
"""
# Functions whose results do not depend on the values in a tensor
_SHAPE_ONLY = """
    size dim ndimension numel nelement stride storage_offset element_size get_device is_floating_point is_complex
    is_contiguous is_same_size is_shared is_pinned is_set_to is_signed result_type can_cast len hash requires_grad
    retain_grad data_ptr untyped_storage zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full
    new_tensor new_empty_strided _assert
"""


def functions_named(names: str) -> set[Callable]:
    """Every function or method of torch with one of these names, its in-place forms and operators (``__add__``)."""
    forms = ("{}", "{}_", "__{}__", "__r{}__", "__i{}__")
    return set().union(*(functions_called(form.format(name)) for form in forms for name in names.split()))


def functions_called(name: str, spaces: Iterable[Any] = _NAMESPACES) -> set[Callable]:
    """Every function or method of torch with exactly this name; ``__add__`` and the like only as methods of tensors."""
    if name.startswith("__"):
        spaces = (Tensor,)
    return {getattr(space, name) for space in spaces if callable(getattr(space, name, None))}


# Functions whose results Algorithm 1 treats as constant
CONSTANT = functions_named(
    """
    eq ne lt le gt ge less less_equal greater greater_equal not_equal isnan isinf isfinite isclose allclose equal argmax
    argmin argsort sign sgn signbit floor ceil round trunc fix floordiv floor_divide heaviside bucketize searchsorted
    nonzero count_nonzero any all logical_not logical_and logical_or logical_xor item tolist bool int index is_nonzero
    long short char byte detach contains repr format
    """
) | {Tensor.__float__}
SHAPE_ONLY = functions_named(_SHAPE_ONLY) | {SET_GRAD_ENABLED}
# Functions that multiply, and the kinds of products in them
PRODUCTS: dict[Callable, tuple[str, ...]] = {
    **dict.fromkeys(functions_named(_MATRIX_PRODUCTS), (MATRIX,)),
    **dict.fromkeys(functions_named(_CONVOLUTIONS), (CONVOLUTION,)),
    **dict.fromkeys(functions_named(_RECURRENT), KINDS[1:]),  # matrix products without cuDNN
}
SMOOTH = functions_named(_ARITHMETIC + _COMPLEX + _LAYERS + _SHAPES) | SHAPE_ONLY | {*PRODUCTS}
# Properties of tensors, as function modes see them, that are neither smooth nor about shape, dtype, device or graph
NOT_SMOOTH_PROPERTIES = {Tensor.data.__get__, Tensor.grad.__get__}
