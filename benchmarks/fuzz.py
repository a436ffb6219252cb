"""Mutated .jxc files: a clear named error, an exact decode, or an image of the stated size.

    python benchmarks/fuzz.py                     2,000 + 2,000 mutations of the bundled photo
    python benchmarks/fuzz.py --count 100 --seed 7

Plain mutations (flips, truncations, splices, header lies) leave the checksums alone, so every one
must end in a named error, or decode to exactly the original image where nothing that counts was
touched. Sealed mutations get every CRC32 recomputed, as a hostile encoder would: they end in a
named error or in an image of the size that the header states. Nothing else may be raised, no
mutation may take longer than --seconds, and memory may not grow past --megabytes.
"""

import argparse
import json
import platform
import resource
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import JaxcompError
from jaxcomp.codecs.files import load, save
from jaxcomp.coding import container

MAX_PIXELS = 1 << 20  # what a mutated size may reach: more would measure the codec, not its checks
HUGE = (0, 1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, -1)
PACKED = ("lie", "payload", "resize")  # kinds that pack a new container, with fitting checksums


class Outcome(NamedTuple):
    """What load made of one mutated file."""

    kind: str
    result: str  # the exception's name, "exact" or "image"
    seconds: float


class Broken(Exception):
    """A mutation that ended in anything else; the message says how to repeat it."""


def _crc_places(data: bytes) -> list[tuple[int, int, int]]:
    """Where each CRC32 stands and what it covers, the header's last; [] where unreadable."""

    def varint(at: int) -> tuple[int, int]:
        value, shift = 0, 0
        while shift < 63:
            value |= (data[at] & 127) << shift
            at += 1
            if data[at - 1] < 128:
                return value, at
            shift += 7
        raise IndexError

    try:
        at = 5 + 1 + data[5]
        length, at = varint(at)
        count, at = varint(at + length)
        sections = []
        for _ in range(min(count, container.SECTION_LIMIT)):
            at += 1 + data[at]
            size, at = varint(at)
            sections.append((at, size))
            at += 4
    except IndexError:
        return []
    places, start = [], at + 4
    for place, size in sections:
        places.append((place, start, start + size))
        start += size
    return [*places, (at, 0, at)]


def seal(data: bytes) -> bytes:
    """The same bytes with every CRC32 recomputed, as far as the structure can still be read."""
    out = bytearray(data)
    for place, start, stop in _crc_places(data):
        out[place : place + 4] = zlib.crc32(out[start:stop]).to_bytes(4, "little")
    return bytes(out)


def unseal(data: bytes, original: bytes) -> bytes:
    """data with the header CRC32 of the file that it began as."""
    out, (place, *_), (old, *_) = bytearray(data), _crc_places(data)[-1], _crc_places(original)[-1]
    out[place : place + 4] = original[old : old + 4]
    return bytes(out)


def mutations(
    files: list[bytes], count: int, rng: np.random.Generator
) -> Iterator[tuple[str, int, bytes]]:
    """count of (kind, index of the file it began as, bytes), the kinds in turn."""
    kinds: list[Callable[..., bytes]] = [_flip, _burst, _truncate, _splice, _lie, _payload, _resize]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        base = int(rng.integers(len(files)))
        other = files[int(rng.integers(len(files)))]
        yield kind.__name__[1:], base, kind(files[base], other, rng)


def _flip(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bits, half of the time in the first hundred bytes."""
    out = bytearray(data)
    reach = min(100, len(data)) if rng.random() < 0.5 else len(data)
    for _ in range(rng.integers(1, 9)):
        out[rng.integers(reach)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _burst(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A run of random, zero or full bytes."""
    out = bytearray(data)
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 200))
    run = (rng.bytes(size), bytes(size), b"\xff" * size)[rng.integers(3)]
    out[at : at + size] = run[: len(out) - at]
    return bytes(out)


def _truncate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Less of it, or more."""
    if rng.random() < 0.2:
        return data + rng.bytes(int(rng.integers(1, 100)))
    return data[: rng.integers(len(data))]


def _splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The head of one file and the tail of another, or a piece moved within one."""
    if rng.random() < 0.5:
        return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]
    low, high = sorted(int(v) for v in rng.integers(len(data), size=2))
    return data[:low] + data[high:] + data[low:high]


def _lie(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A header that says something else, packed as if it were true."""
    name, header, sections = container.unpack(data)[1:]
    header = dict(header)
    key = list(header)[rng.integers(len(header))]
    value = header[key]
    choice = rng.integers(4)
    if choice == 0:
        del header[key]
    elif choice == 1:
        strange = [None, True, -1, 0, 0.5, 2**62, "x", "0" * 9, [], {}, [[1]], [2**62] * 3]
        header[key] = strange[rng.integers(len(strange))]
    elif isinstance(value, list) and value:
        value = list(value)
        value[rng.integers(len(value))] = HUGE[rng.integers(len(HUGE))]
        header[key] = value
    elif isinstance(value, (int, float)):
        header[key] = type(value)(HUGE[rng.integers(len(HUGE))])
    else:
        header[key] = "".join(chr(c) for c in rng.integers(32, 127, len(str(value))))
    return container.pack(name, header, sections)


def _payload(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Sections damaged, emptied, cut, swapped or dropped, with a container that fits them."""
    name, header, sections = container.unpack(data)[1:]
    sections = dict(sections)
    key = list(sections)[rng.integers(len(sections))]
    choice = rng.integers(5)
    if choice == 0:
        del sections[key]
    elif choice == 1:
        sections[key] = sections[key][: rng.integers(len(sections[key]) + 1)]
    elif choice == 2:
        sections[key] += rng.bytes(int(rng.integers(1, 50)))
    elif choice == 3:
        sections[key] = container.unpack(other).sections.get(key, b"")
    elif sections[key]:
        sections[key] = _flip(sections[key], other, rng)
    return container.pack(name, header, sections)


def _resize(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Another image size, near or far."""
    name, header, sections = container.unpack(data)[1:]
    height, width, *rest = header["shape"]
    if rng.random() < 0.5:
        shape = [max(1, height + int(rng.integers(-40, 41))), width, *rest]
    else:
        shape = [int(rng.integers(1, 1500)), int(rng.integers(1, 1500)), *rest]
    return container.pack(name, {**header, "shape": shape}, sections)


def check(
    files: list[bytes], images: list[np.ndarray], count: int, sealed: bool, seed: int
) -> list[Outcome]:
    """Load count mutated files; Broken for the first that ends as none may."""
    rng = np.random.default_rng([seed, sealed])
    outcomes = []
    for number, (kind, base, data) in enumerate(mutations(files, count, rng)):
        if sealed:
            data = seal(data)
        elif kind in PACKED:
            data = unseal(data, files[base])
        start = time.perf_counter()
        try:
            image = load(data, max_pixels=MAX_PIXELS)
        except JaxcompError as error:
            result = type(error).__name__
            if not str(error):
                raise Broken(f"{kind} {number}: an error without a message") from error
        except Exception as error:
            raise Broken(
                f"{kind} {number} (sealed={sealed}, seed={seed}): {type(error).__name__}: {error}"
            ) from error
        else:
            try:
                stated = tuple(container.unpack(data).header["shape"])
            except JaxcompError:
                raise Broken(f"{kind} {number}: loaded, though it is no container") from None
            if image.shape != stated or image.dtype != np.uint8:
                raise Broken(f"{kind} {number}: stated {stated}, got {image.shape}")
            exact = image.shape == images[base].shape and np.array_equal(image, images[base])
            if not exact and not sealed:
                raise Broken(f"{kind} {number} (sealed={sealed}, seed={seed}): a wrong image")
            result = "exact" if exact else "image"
        outcomes.append(Outcome(kind, result, time.perf_counter() - start))
    return outcomes


def samples(codec: Any, photo: np.ndarray) -> tuple[list[bytes], list[np.ndarray]]:
    """A few files of different sizes and qualities, and their images."""
    crops = [photo[:150, :203], photo[40:73, 10:51], photo[:1, :1], photo[5:133, 7:135]]
    files = [
        save(codec, np.ascontiguousarray(crop), quality=quality)
        for crop, quality in zip(crops, (40.0, 90.0, 50.0, 10.0), strict=True)
    ]
    return files, [load(data) for data in files]


def main() -> int:
    """Both halves, a table, and an exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="of each half")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="the slowest one may take")
    parser.add_argument("--megabytes", type=float, default=1500.0, help="peak memory of it all")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()

    from jaxcomp.codecs import dct
    from jaxcomp.io.photo import read_photo

    stored = resources.files("jaxcomp.cli").joinpath("demo_photo", "chelsea.png").read_bytes()
    files, images = samples(dct(), read_photo(stored, max_pixels=1 << 20).pixels)
    record: dict[str, Any] = {"count": arguments.count, "seed": arguments.seed}
    failed = False
    for name, sealed in (("plain", False), ("sealed", True)):
        start = time.perf_counter()
        try:
            outcomes = check(files, images, arguments.count, sealed, arguments.seed)
        except Broken as error:
            print(f"{name}: BROKEN: {error}", file=sys.stderr)
            failed = True
            continue
        slowest, kind = max((outcome.seconds, outcome.kind) for outcome in outcomes)
        tally = Counter(outcome.result for outcome in outcomes)
        failed |= slowest > arguments.seconds
        record[name] = {"results": dict(tally), "slowest_s": round(slowest, 3)}
        cells = ", ".join(f"{count} {result}" for result, count in tally.most_common())
        seconds = time.perf_counter() - start
        print(f"{name}: {cells}; slowest {slowest:.2f} s ({kind}), {seconds:.0f} s in all")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    failed |= peak > arguments.megabytes
    record |= {"peak_megabytes": round(peak), "machine": platform.processor() or platform.machine()}
    print(f"peak memory {peak:.0f} MB")
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
