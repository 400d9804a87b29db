#!/usr/bin/env python3
"""How often results of the linear map in bf16 leave the bounds of its property test, imitated without a GPU.

    tests/tools/bf16_bounds.py [--runs 300] [--seed 1]

A run is the 64 random cases of `linear::tests::f64_and_the_twin_agree`. Sums are exact; what the kernels round to bf16 is
rounded: u = x A^T, e = 2 d B, the weight's product, and that with the branch added. Printed is how many runs leave a bound
that is relative to the largest result alone (2^-7, for A's and B's gradients 2^-6), and one that is at least 3/512 of what
a sum's terms come to without their signs, which the test has. Needs numpy.
"""

import argparse

import numpy as np

CASES, SCALING, PLAIN, TERMS = 64, 2, 1 / 128, 3 / 512


def bf16(values):
    """Rounded to the nearest bf16, ties to even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def results(x, weight, bias, a, b, d, rounded):
    """Output, d_x, d_A and d_B, with `rounded` applied where the kernels round."""
    u, e = rounded(x @ a.T), rounded(SCALING * d @ b)
    out, d_x = rounded(x @ weight.T + bias), rounded(d @ weight)
    if a.size:
        out, d_x = rounded(out + SCALING * u @ b.T), rounded(d_x + e @ a)
    return [out, d_x, e.T @ x, SCALING * d.T @ u]


def leaves(case) -> tuple[bool, bool]:
    """Whether a case leaves the first bound, and the second."""
    exact, got = results(*case, lambda values: values), results(*case, bf16)
    sizes = results(*(np.abs(part) for part in case), lambda values: values)
    plain = both = False
    for relative, want, value, size in zip((PLAIN, PLAIN, 2 * PLAIN, 2 * PLAIN), exact, got, sizes):
        if want.size:
            error, bound = np.abs(value - want), relative * max(0.1, np.abs(want).max())
            plain |= bool((error > bound).any())
            both |= bool((error > np.maximum(bound, TERMS * size)).any())
    return plain, both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    numbers = lambda *shape: random.integers(0, 1 << 24, size=shape) / 8388608 - 1
    left = np.zeros(2, int)
    for _ in range(args.runs):
        run = [False, False]
        for _ in range(CASES):
            rows, width, outs, rank = (random.integers(*range_) for range_ in ((1, 20), (1, 40), (1, 24), (0, 5)))
            shapes = [(rows, width), (outs, width), (outs,), (rank, width), (outs, rank), (rows, outs)]
            case = [numbers(*shape) if len(shape) == 1 else bf16(numbers(*shape)) for shape in shapes]
            run = [a or b for a, b in zip(run, leaves(case))]
        left += run
    print(f"of {args.runs} runs {left[0]} leave the bound by the largest result, {left[1]} that by the terms as well")


if __name__ == "__main__":
    main()
