"""tensorflow-compression's run-length strings, read and written byte for byte.

Sparse integers as runs of zeros and what ends them, in universal codes, low bit first:

    zeros, value, zeros, value, ...                  each zero run may be empty
    zeros, count, count values, zeros, count, ...    grouped: only the first zero run may be

A value is a bit (1: positive) and its magnitude m >= 1; nothing follows the last element. Run
lengths n, and counts and grouped zero runs less the 1 they must be, are Elias gamma codes of n + 1
or Rice codes of n; magnitudes are gamma codes of m or Rice codes of m - 1.

    gamma(v)     z zeros, a one, the z bits of v below its top one
    Rice k (v)   v >> k zeros, a one, the k low bits of v

Elias 1975; Rice 1979. The original spoils some Rice codes of more than 57 zeros (it shifts 64 bits
by 64) and cannot read them back; these differ. Host functions on NumPy arrays; about 0.5 M values
per second.
"""

import numpy as np
from jaxtyping import Int, Int32

from jaxcomp.base import CorruptStream, JaxcompError
from jaxcomp.coding.layout import as_int32

MOST_BITS = 1 << 28  # of unary prefixes: every bit is a byte or two on the way
GAMMA = -1  # what the original calls the parameter of a gamma code


def encode(
    values: Int[np.ndarray, "*shape"],
    *,
    run_code: int = GAMMA,
    magnitude_code: int = GAMMA,
    grouped: bool = False,
) -> bytes:
    """The string of these int32, in order. Codes: a Rice parameter 0 to 30, or -1 for gamma.

    The defaults are what PowerLawEntropyModel writes. Raises JaxcompError for -2**31 as a gamma
    code, and for Rice codes with more than 2**28 zeros.
    """
    _check_codes(run_code, magnitude_code)
    values = as_int32(np.asarray(values), "values").reshape(-1).astype(np.int64)
    if magnitude_code == GAMMA and values.size and values.min() == -(1 << 31):
        raise JaxcompError(
            "expected values above -2**31, which no gamma code holds; use Rice codes"
        )
    if magnitude_code != GAMMA and (np.abs(values) >> magnitude_code).sum() > MOST_BITS:
        raise JaxcompError(f"magnitude_code={magnitude_code} makes too long a string; raise it")
    codes, at, least = [], 0, 0
    ends = np.flatnonzero(np.diff(values != 0, append=values[-1:] == 0)) + 1
    if values.size and values[0] != 0:
        ends = np.append(0, ends)
    # Runs of zeros and of others in turn, the first one of zeros.
    for number, end in enumerate(ends.tolist()):
        if number % 2 == 0:
            run = end - at
            codes.append(_code(run - least, run_code))
        else:
            group = values[at:end].tolist()
            if grouped:
                codes.append(_code(len(group) - 1, run_code))
                least = 1
            for place, value in enumerate(group):
                if place and not grouped:
                    codes.append(_code(0, run_code))
                codes.append("1" if value > 0 else "0")
                codes.append(_code(abs(value) - 1, magnitude_code))
        at = end
    bits = np.frombuffer("".join(codes).encode(), np.uint8) - ord("0")
    return np.packbits(bits, bitorder="little").tobytes()


def decode(
    data: bytes,
    shape: tuple[int, ...],
    *,
    run_code: int = GAMMA,
    magnitude_code: int = GAMMA,
    grouped: bool = False,
) -> Int32[np.ndarray, "*shape"]:
    """The values of a string. Raises CorruptStream for one that encode does not write."""
    _check_codes(run_code, magnitude_code)
    values = np.zeros(int(np.prod(shape, dtype=np.int64)), np.int32)
    reader = _Reader(data)
    at, least = 0, 0
    while at < len(values):
        at += reader.take(run_code) + least
        count = 1
        if at < len(values) and grouped:
            count, least = reader.take(run_code) + 1, 1
        if at + count > len(values):
            if at == len(values):
                break
            raise CorruptStream(f"expected {len(values)} values, got a run to {at + count}")
        for place in range(at, at + count):
            positive = reader.bit()
            magnitude = reader.take(magnitude_code) + 1
            if magnitude > (1 << 31) - (positive or magnitude_code == GAMMA):
                raise CorruptStream(f"expected an int32, got a magnitude of {magnitude}")
            values[place] = magnitude if positive else -magnitude
        at += count
    reader.check_finished()
    return values.reshape(shape)


def _check_codes(*codes):
    if not all(GAMMA <= code <= 30 for code in codes):
        raise JaxcompError(f"expected Rice parameters of 0 to 30, or -1 for gamma, got {codes}")


def _code(value, parameter):
    """The bits of value >= 0, first to last."""
    if parameter == GAMMA:
        value += 1
        zeros = low = value.bit_length() - 1
    else:
        zeros, low = value >> parameter, parameter
    return "0" * zeros + "1" + (f"{value & (1 << low) - 1:0{low}b}"[::-1] if low else "")


class _Reader:
    """A place in a string of bits, a byte each."""

    def __init__(self, data):
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").tobytes()
        self.at = 0

    def field(self, count):
        self.at += count
        if self.at > len(self.bits):
            raise CorruptStream(f"expected more than {len(self.bits)} bits; truncated?")
        taken = np.frombuffer(self.bits, np.uint8, count, self.at - count)
        return sum(bit << place for place, bit in enumerate(taken.tolist()))

    def bit(self):
        return self.field(1)

    def take(self, parameter):
        """A value >= 0: a gamma code stands for one more."""
        one = self.bits.find(b"\1", self.at)
        zeros = one - self.at
        if one < 0 or parameter == GAMMA and zeros > 31:
            raise CorruptStream(f"expected a code from bit {self.at} on, got zeros; truncated?")
        self.at = one + 1
        if parameter == GAMMA:
            return (1 << zeros | self.field(zeros)) - 1
        return zeros << parameter | self.field(parameter)

    def check_finished(self):
        rest = self.bits[self.at :]
        if len(rest) > 7 or b"\1" in rest:
            raise CorruptStream(f"expected {self.at} bits, got {len(rest)} more; another shape?")
