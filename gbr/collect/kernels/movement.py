"""Transpositions: the output is written in order, the input is read with a stride."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gbr.collect.kernels._family import Family, Nest, loop, out
from gbr.collect.kernels._jit import O, U, kernel


@kernel()
def _p10(x, y, ta, tb):  # type: ignore[no-untyped-def]
    A, B = U(y.shape[0]), U(y.shape[1])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for a in range(a0, a1):
                for b in range(b0, b1):
                    y[a, b] = x[b, a]


@kernel()
def _p021(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, b, c] = x[a, c, b]


@kernel()
def _p102(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, b, c] = x[b, a, c]


@kernel()
def _p210(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, b, c] = x[c, b, a]


@kernel()
def _p120(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, b, c] = x[c, a, b]


@kernel()
def _p201(x, y, ta, tb, tc):  # type: ignore[no-untyped-def]
    A, B, C = U(y.shape[0]), U(y.shape[1]), U(y.shape[2])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        for c in range(c0, c1):
                            y[a, b, c] = x[b, c, a]


@kernel()
def _p0132(x, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = x[a, b, d, c]


@kernel()
def _p0213(x, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = x[a, c, b, d]


@kernel()
def _p0231(x, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = x[a, d, b, c]


@kernel()
def _p0312(x, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = x[a, c, d, b]


@kernel()
def _p0321(x, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = x[a, d, c, b]


@kernel()
def _p1032(x, y, ta, tb, tc, td):  # type: ignore[no-untyped-def]
    A, B, C, D = U(y.shape[0]), U(y.shape[1]), U(y.shape[2]), U(y.shape[3])
    for a0 in range(O, A, ta):
        a1 = min(a0 + ta, A)
        for b0 in range(O, B, tb):
            b1 = min(b0 + tb, B)
            for c0 in range(O, C, tc):
                c1 = min(c0 + tc, C)
                for d0 in range(O, D, td):
                    d1 = min(d0 + td, D)
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            for c in range(c0, c1):
                                for d in range(d0, d1):
                                    y[a, b, c, d] = x[b, a, d, c]


def _family(permutation: tuple[int, ...], nest_kernel: Callable[..., Any], *shapes: tuple[int, ...]) -> Family:
    # Shapes are those of the output; output dimension d is dimension permutation[d] of the input.
    def nest(*shape: int) -> Nest:
        source = [0] * len(shape)
        for dim, extent in enumerate(shape):
            source[permutation[dim]] = extent
        loops = tuple(loop(f"dim{dim}", extent, out(dim)) for dim, extent in enumerate(shape))
        return Nest((tuple(source),), shape, loops)

    def program(lax: Any, x: Any) -> Any:
        return lax.transpose(x, permutation)

    return Family(f"transpose_{''.join(map(str, permutation))}", "movement", nest_kernel, program, nest, shapes)


FAMILIES = (
    _family((1, 0), _p10, (1024, 768), (512, 2048), (1792, 353), (96, 8192), (5000, 160)),
    _family((0, 2, 1), _p021, (8, 256, 320), (64, 96, 128), (5, 419, 331), (24, 512, 64)),
    _family((1, 0, 2), _p102, (96, 256, 40), (512, 64, 16), (211, 173, 23), (48, 1024, 12)),
    _family((2, 1, 0), _p210, (96, 64, 160), (256, 16, 192), (73, 101, 113), (640, 9, 128)),
    _family((1, 2, 0), _p120, (128, 48, 128), (40, 512, 36), (89, 67, 149), (24, 64, 512)),
    _family((2, 0, 1), _p201, (64, 96, 128), (320, 24, 72), (83, 109, 71), (512, 8, 160)),
    _family((0, 1, 3, 2), _p0132, (8, 12, 64, 96), (4, 3, 160, 256), (3, 7, 151, 173), (32, 40, 16, 28)),
    _family((0, 2, 1, 3), _p0213, (4, 12, 192, 64), (2, 128, 96, 24), (3, 37, 211, 29), (16, 256, 16, 12)),
    _family((0, 2, 3, 1), _p0231, (2, 56, 48, 128), (8, 28, 32, 96), (1, 67, 59, 211), (4, 16, 16, 512)),
    _family((0, 3, 1, 2), _p0312, (2, 96, 48, 64), (8, 128, 24, 32), (1, 173, 61, 71), (4, 768, 14, 14)),
    _family((0, 3, 2, 1), _p0321, (2, 64, 40, 96), (6, 32, 64, 48), (1, 97, 53, 131), (4, 256, 8, 96)),
    _family((1, 0, 3, 2), _p1032, (12, 8, 64, 96), (40, 32, 16, 24), (3, 2, 419, 353), (3, 64, 24, 128)),
)
