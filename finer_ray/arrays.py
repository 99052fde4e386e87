"""Arrays of NumPy and tensors of torch alike: one formula serves the job, on a GPU, and what reads an export, without
torch.

Such functions take arrays by indexing, operators and methods that both have, and by the functions of `namespace`. Their
arguments are all of one kind, and so are their results.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from finer_ray.lazy import Tensor, torch

Array = TypeVar("Array", NDArray[Any], Tensor)


def namespace(array: NDArray[Any] | Tensor) -> Any:
    """The module with the functions for an array: numpy or torch. Where both have a function by the array API standard
    (`where`, `concat`, `zeros_like`, ...), axes are given by position, as their keyword differs.

    >>> namespace(np.zeros(3)).__name__
    'numpy'
    """
    return np if isinstance(array, np.ndarray) else torch
