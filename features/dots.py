"""Which dimensions of a dot or a convolution are batch, free and contracted.

Node features carry no dot dimension numbers and edges do not say which operand is the left one, so both are read off
the shapes: XLA's result is (batch dims, left free dims, right free dims), each in the operand's order
(https://openxla.org/xla/operation_semantics#dotgeneral).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DotDims:
    """Roles of a dot's dimensions.

    Parameters
    ----------
    swapped : bool
        True where the operand given second is the left one.
    batch, m, n : tuple of int
        Result dimensions: shared, of the left operand, of the right operand.
    left_batch, left_m, left_k, right_batch, right_n, right_k : tuple of int
        Dimensions of the operands, in the order of ``batch``, ``m``, ``n`` and of each other.
    """

    swapped: bool
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    left_batch: tuple[int, ...]
    left_m: tuple[int, ...]
    left_k: tuple[int, ...]
    right_batch: tuple[int, ...]
    right_n: tuple[int, ...]
    right_k: tuple[int, ...]


def dot_dims(first: Shape, second: Shape, result: Shape) -> DotDims | None:
    """Roles of the dimensions of a dot, or None where no assignment fits the shapes.

    Where several fit (equal extents, a product of a matrix with its transpose), the one with the fewest batch
    dimensions wins, then one that contracts the left operand's last and the right operand's first free dimension,
    then the given operand order.
    """
    total = len(first) + len(second) - len(result)
    if total < 0:
        return None
    for n_batch in range(total % 2, total + 1, 2):
        n_contracted = (total - n_batch) // 2
        if n_contracted == 0 and total > 0 and n_batch == total and len(result) > n_batch:
            continue
        found = {}
        for swapped in (False, True):
            left, right = (second, first) if swapped else (first, second)
            roles = _assign(left, right, result, n_batch, n_contracted)
            if roles is not None:
                found[swapped] = DotDims(swapped, *roles)
        if found:
            return min(found.values(), key=lambda dims: not _is_plain(dims))
    return None


def _is_plain(dims: DotDims) -> bool:
    """Whether the left operand's last dimensions and the right operand's first free ones are contracted."""
    return all(here > own for here in dims.left_k for own in dims.left_m) and all(
        there < own for there in dims.right_k for own in dims.right_n
    )


def _assign(left: Shape, right: Shape, result: Shape, n_batch: int, n_k: int) -> tuple[tuple[int, ...], ...] | None:
    n_m = len(left) - n_batch - n_k
    if n_m < 0 or n_batch + n_m > len(result):
        return None
    batch, m, n = result[:n_batch], result[n_batch : n_batch + n_m], result[n_batch + n_m :]
    for left_batch, left_k in _splits(left, batch, n_k, prefer_last=True):
        left_m = tuple(dim for dim in range(len(left)) if dim not in left_batch and dim not in left_k)
        if tuple(left[dim] for dim in left_m) != m:
            continue
        contracted = tuple(left[dim] for dim in left_k)
        for right_batch, right_k in _splits(right, batch, n_k, prefer_last=False):
            if tuple(right[dim] for dim in right_k) != contracted:
                continue
            right_n = tuple(dim for dim in range(len(right)) if dim not in right_batch and dim not in right_k)
            if tuple(right[dim] for dim in right_n) == n:
                ends = (n_batch, n_batch + n_m, len(result))
                roles = (tuple(range(ends[0])), tuple(range(ends[0], ends[1])), tuple(range(ends[1], ends[2])))
                return (*roles, left_batch, left_m, left_k, right_batch, right_n, right_k)
    return None


def _splits(
    shape: Shape, batch: Sequence[int], n_k: int, *, prefer_last: bool
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ways to pick the batch dims (leading ones first) and ``n_k`` contracted dims of an operand."""
    dims = range(len(shape))
    out = []
    for chosen in permutations(dims, len(batch)):
        if tuple(shape[dim] for dim in chosen) != tuple(batch):
            continue
        rest = [dim for dim in dims if dim not in chosen]
        picks = list(permutations(rest, n_k))
        out += [(chosen, pick) for pick in (reversed(picks) if prefer_last and n_k == 1 else picks)]
    return out


@dataclass(frozen=True, slots=True)
class ConvDims:
    """Dimension numbers of a convolution.

    Parameters
    ----------
    swapped : bool
        True where the operand given second is the input and the first the kernel.
    input_batch, input_feature : int
    input_spatial : tuple of int
    kernel_input, kernel_output : int
    kernel_spatial : tuple of int
    output_batch, output_feature : int
    output_spatial : tuple of int
        Dimensions that are neither batch nor feature, in order (the node features do not list them).
    """

    swapped: bool
    input_batch: int
    input_feature: int
    input_spatial: tuple[int, ...]
    kernel_input: int
    kernel_output: int
    kernel_spatial: tuple[int, ...]
    output_batch: int
    output_feature: int
    output_spatial: tuple[int, ...]


def conv_dims(
    first: Shape, second: Shape, result: Shape, numbers: Sequence[int], window: Sequence[int]
) -> ConvDims | None:
    """Dimension numbers of a convolution with the operands told apart, or None where they do not fit the shapes.

    Parameters
    ----------
    first, second, result : tuple of int
    numbers : sequence of 14 ints
        The ``convolution_dim_numbers_*`` columns of ``node_feat`` in order: input batch, input feature, 4 input
        spatial, kernel input, kernel output, 4 kernel spatial, output batch, output feature.
    window : sequence of int
        Window sizes, one per spatial dimension; the kernel operand is the one that has them.
    """
    rank = len(result)
    n_spatial = rank - 2
    if rank < 2 or len(first) != rank or len(second) != rank or n_spatial > 4:
        return None
    input_spatial = tuple(numbers[2 : 2 + n_spatial])
    kernel_spatial = tuple(numbers[8 : 8 + n_spatial])
    output_batch, output_feature = numbers[12], numbers[13]
    output_spatial = tuple(dim for dim in range(rank) if dim not in (output_batch, output_feature))
    named = (numbers[0], numbers[1], *input_spatial), (numbers[6], numbers[7], *kernel_spatial)
    if any(sorted(dims) != list(range(rank)) for dims in named) or len(output_spatial) != n_spatial:
        return None
    for swapped in (False, True):
        image, filters = (second, first) if swapped else (first, second)
        if (
            all(filters[dim] == size for dim, size in zip(kernel_spatial, window, strict=False))
            and filters[numbers[7]] == result[output_feature]
            and image[numbers[1]] % max(filters[numbers[6]], 1) == 0
        ):
            return ConvDims(
                swapped, numbers[0], numbers[1], input_spatial, numbers[6], numbers[7], kernel_spatial,
                output_batch, output_feature, output_spatial,
            )  # fmt: skip
    return None
