"""Functions whose calls modes and tensor subclasses see, by torch's ``__torch_function__`` protocol."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .torch_internals import in_function_mode


def overridable(function: Callable) -> Callable:
    """Announce calls of ``function`` to the active modes, as torch's own functions do."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = tuple(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        if in_function_mode() or has_torch_function(tensors):
            return handle_torch_function(call, tensors, *args, **kwargs)
        return function(*args, **kwargs)

    return call
