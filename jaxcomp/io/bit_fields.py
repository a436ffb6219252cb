"""Codes of few bits in bytes and words, by NumPy: what files of other tools are made of.

tiles    a tile of T codes of p bits (p = 1, 2, 4, 8) takes B = T p / 8 bytes, and byte r holds
         the codes r, r + B, r + 2 B, ..., the first in its lowest bits: nibbles of halves with
         T = 32, sequential bits with T = 8 / p; kernels/packing.py has the same
words    a dense stream, the first code in the lowest bits; codes may straddle words of 32 bits
"""

import math

import numpy as np

from jaxcomp.kernels import packing

WORD = 32


def pack_tiles(codes: np.ndarray, bits: int, tile: int) -> np.ndarray:
    """u8 [rows, n tile] below 2**bits -> u8 [rows, n tile bits / 8]."""
    if bits == 8:
        return np.ascontiguousarray(codes, np.uint8)
    split = codes.reshape(len(codes), codes.shape[1] // tile, 8 // bits, tile * bits // 8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    joined = np.bitwise_or.reduce(split.astype(np.uint8) << shifts, 2)
    return joined.reshape(len(codes), codes.shape[1] * bits // 8)


def unpack_tiles(packed: np.ndarray, bits: int, tile: int) -> np.ndarray:
    """The inverse of pack_tiles."""
    if bits == 8:
        return packed
    size = tile * bits // 8
    split = packed.reshape(len(packed), packed.shape[1] // size, 1, size)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    mask = np.uint8((1 << bits) - 1)
    return (split >> shifts & mask).reshape(len(packed), packed.shape[1] * 8 // bits)


def pack_leaf(codes: np.ndarray, bits: int, tile: int) -> np.ndarray:
    """kernels.packing.pack along the last axis, for which no shape has to be compiled."""
    tiles = np.ascontiguousarray(codes, np.uint8).reshape(-1, tile)
    if bits == packing.TRITS:
        short = -tile % packing.TRITS_PER_BYTE
        parts = np.split(np.pad(tiles, ((0, 0), (0, short))), packing.TRITS_PER_BYTE, 1)
        done = [sum(part * np.uint8(3**j) for j, part in enumerate(parts))]
    else:
        done, low = [], 0
        for width in packing.planes(bits):
            done.append(pack_tiles(tiles >> low & ((1 << width) - 1), width, tile))
            low += width
    return np.concatenate(done, 1).reshape(*codes.shape[:-1], -1)


def unpack_leaf(packed: np.ndarray, bits: int, tile: int) -> np.ndarray:
    """The inverse of pack_leaf."""
    tiles = np.ascontiguousarray(packed).reshape(-1, packing.tile_bytes(tile, bits))
    if bits == packing.TRITS:
        parts = [tiles // 3**j % 3 for j in range(packing.TRITS_PER_BYTE)]
        codes = np.concatenate(parts, 1)[:, :tile]
    else:
        codes, low, start = np.zeros((len(tiles), tile), np.uint8), 0, 0
        for width in packing.planes(bits):
            stop = start + tile * width // 8
            codes |= unpack_tiles(tiles[:, start:stop], width, tile) << low
            low, start = low + width, stop
    return codes.reshape(*packed.shape[:-1], -1)


def words_for(count: int, bits: int) -> int:
    """Words of 32 bits that hold `count` codes."""
    return -(-count * bits // WORD)


def pack_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes below 2**bits [rows, count] -> i32 [rows, words], zeros after the last code."""
    rows, count = codes.shape
    period = WORD // math.gcd(WORD, bits)  # codes after which a code begins a word again
    filled = np.zeros((rows, -(-count // period) * period), np.uint32)
    filled[:, :count] = codes
    groups = filled.reshape(-1, period)
    words = np.zeros((len(groups), period * bits // WORD), np.uint32)
    for i in range(period):
        word, shift = divmod(i * bits, WORD)
        words[:, word] |= groups[:, i] << np.uint32(shift)
        if shift + bits > WORD:
            words[:, word + 1] |= groups[:, i] >> np.uint32(WORD - shift)
    whole = words.reshape(rows, -1)[:, : words_for(count, bits)]
    return np.ascontiguousarray(whole).view(np.int32)


def unpack_words(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """i32 [rows, words] -> u8 [rows, count]."""
    rows = len(words)
    period = WORD // math.gcd(WORD, bits)
    span = period * bits // WORD
    filled = np.zeros((rows, -(-words.shape[1] // span) * span), np.uint32)
    filled[:, : words.shape[1]] = np.ascontiguousarray(words).view(np.uint32)
    groups = filled.reshape(-1, span)
    codes = np.zeros((len(groups), period), np.uint8)
    mask = np.uint32((1 << bits) - 1)
    for i in range(period):
        word, shift = divmod(i * bits, WORD)
        value = groups[:, word] >> np.uint32(shift)
        if shift + bits > WORD:
            value |= groups[:, word + 1] << np.uint32(WORD - shift)
        codes[:, i] = value & mask
    return codes.reshape(rows, -1)[:, :count]
