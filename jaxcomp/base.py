"""The library on one page: the shapes that methods take, the law each one obeys, and the errors.

    transform -> quantize -> entropy-code, under one rate-distortion objective

Everything here is importable without jax, so that a file from a stranger can be checked before
anything heavy is loaded.

Floors (a file imports only from lower floors, or from its own folder):

    6 cli | 5 io | 4 codecs, weights, kvcache, tokens, optim | 3 entropy, nets, lift
    2 coding, formats | 1 kernels, measures | 0 base, lazy, tree

Laws (tests/checks.py states each of them once, as code):

    Tables   integer frequencies, one row per context; every row sums to 2**precision exactly and
             every symbol has a frequency of at least 1.
    Stream   decode(tables, encode(tables, s, i), i) == s. Symbols drawn from the tables cost
             -sum(log2 p) + 0.3 % + 32 bits per lane at precision 16; any sequence at all at most
             5 % + 32 bits per lane.
    EntropyModel
             coding with tables and index costs what bits says at the quantised parameters, to 0.5 %
             and 32 bits per lane; every symbol in range has a frequency of at least 1.
    Net      a network of integer layers computes in integers exactly the values that its training
             saw in floats, on any device, batch size and version.
    Codec    decode(p, encode(p, x)) == apply(p, x).x_hat, bit for bit, on any device, batch size
             and version.
    Transform
             a weight that is on the grid already comes back exactly; the error falls with every
             added bit; the bytes of the leaf are those that it reports. (Methods that train start
             from where training does.)
    KVCache  with room for every token and full precision, attend is exact attention; the bytes of a
             state are those of its arrays, and do not depend on what was appended.
    Compressor
             where x_hat is what the wire decompresses to, averaged over keys: |x_hat - x|^2 is at
             most 1 - contraction of |x|^2; or x_hat is x, and |x_hat - x|^2 at most variance of
             |x|^2. A wire's bytes do not depend on values. Zeros come back as zeros; of an array
             that is not finite, the wire's is not either.
    Exchange every sender gets the same mean, which is that of what each has sent; what one sender
             has that is not finite, all see. With the identity it is the mean of the arrays, added
             up in the order of senders, bit for bit on any number of devices.
    Rounds   with all clients, one local step and the mean as it is, a round is a step of gradient
             descent; who does not take part changes nothing.
    lift     lift(f)(compressed) == f(dense weights of the same leaves), to rounding; what was not
             run on packed weights is reported.

Errors are values inside jit (overflow and corruption flags) and the named exceptions below on the
host. Each message says what was expected, what came, and what to do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class JaxcompError(ValueError):
    """Any input or stream that jaxcomp refuses; every named error below is one of these."""


class CorruptStream(JaxcompError):
    """The bytes are not what an encoder wrote: flipped, truncated, spliced or decoded with the
    wrong tables."""


class CapacityError(JaxcompError):
    """A fixed-capacity buffer was too small for what was pushed onto it."""


class UnsupportedInput(JaxcompError):
    """The input is of a kind that this codec does not carry (an alpha channel, 16-bit samples)."""


class MaterialisedLeaf(JaxcompError):
    """A lifted function needed the dense array of a compressed weight where that was forbidden."""


class EntropyModel(NamedTuple):
    """How probable each integer is: floats for training, one crossing to integers for coding.

    side is what the probabilities are conditioned on: nothing, or arrays like y, a scale say.

    init(key=None) -> params                        a pytree of float arrays, {} for none
    bits(params, y, *side) -> f32 like y            -log2 of the mass of the unit bin around each y
    tables(params) -> coding.Tables                 one row per choice, with escapes for the tails
    index(params, shape, *side) -> i32[shape]       which row codes each element
    """

    init: Callable[..., Any]
    bits: Callable[..., Any]
    tables: Callable[[Any], Any]
    index: Callable[..., Any]


class Payload(NamedTuple):
    """What a codec writes for one signal: a small JSON-able header and named sections of bytes."""

    header: dict[str, Any]
    sections: dict[str, bytes]


class Codec(NamedTuple):
    """Signal <-> bytes.

    init(key=None) -> params                        trained codecs load what the package ships
    apply(params, x, **options) -> (x_hat, bits)    the training view: reconstruction and rate
    encode(params, x, **options) -> Payload         real bytes
    decode(params, payload) -> x_hat                identical on every device
    name                                            what the container calls it
    """

    init: Callable[..., Any]
    apply: Callable[..., tuple[Any, Any]]
    encode: Callable[..., Payload]
    decode: Callable[[Any, Payload], Any]
    name: str


class Transform(NamedTuple):
    """How one weight is compressed.

    compress(w, statistics, axes) -> a compressed leaf of jaxcomp.formats
        w is a float array; axes, counted from the right, are those that products with it sum over.
    statistic
        what jaxcomp.observe must gather of what multiplies w: a Statistic, or None for methods that
        need no data; its state is handed to compress.
    name
    exact
        whether every bit comes back: weights that are not finite are then as good as others.
    """

    compress: Callable[..., Any]
    statistic: Any
    name: str
    exact: bool = False


class Statistic(NamedTuple):
    """What is gathered of the vectors that multiply one weight.

    init(size) -> state             size of the vectors; a pytree of arrays
    update(state, x) -> state       x f32[vectors, size]; a vector of zeros counts for nothing
    name
    """

    init: Callable[[int], Any]
    update: Callable[[Any, Any], Any]
    name: str


class KVCache(NamedTuple):
    """Keys and values of past tokens, in few bytes: what attention reads while a model decodes.

    init(batch, heads, size, dtype=float32) -> state
        a pytree of arrays of static shapes whose first axis is the batch; heads and size are those
        of keys and values. nbytes(state) never changes.
    append(state, k, v, *, queries=None, lengths=None) -> state
        k and v f[batch, tokens, heads, size] come after what is there. lengths i32[batch]: how many
        of the tokens each sequence really has, all by default; the others are padding behind them.
        queries f[batch, tokens, query heads, size] of the same tokens: for caches that keep what is
        attended to.
    attend(state, q, *, rope=None, fresh=None) -> (out f[batch, tokens, query heads, size], state)
        causal attention of the tokens appended last, one query for each: the first query is that
        of the first of them. Query heads are a multiple of heads and share them in runs.
        fresh=(k, v): of tokens that come next and are not appended yet, which see each other as
        they are. rope(keys f[batch, heads, tokens, size], positions) -> keys, for keys that were
        appended without their positions.
    name
    """

    init: Callable[..., Any]
    append: Callable[..., Any]
    attend: Callable[..., tuple[Any, Any]]
    name: str


class Compressor(NamedTuple):
    """An array, such as a gradient, on the wire.

    init(x) -> state
        a pytree of arrays for an array of this shape, () where nothing is kept.
    compress(key, x, state) -> (wire, state)
        key u32[2], used up by those that draw; x of any shape and floating dtype; the wire is a
        pytree of arrays whose shapes, and what is static in it, depend on those of x alone.
    decompress(wire) -> x_hat
        of the shape and dtype of x; needs nothing but the wire.
    contraction(size) -> delta, or None
        E|x_hat - x|^2 <= (1 - delta) |x|^2 for every x of that size: error feedback converges.
    variance(size) -> omega, or None
        E x_hat = x and E|x_hat - x|^2 <= omega |x|^2: an average over senders converges.
    name
    add(total, wire) -> total, or None
        f32 total like x, plus decompress(wire): for wires smaller than what they stand for.
    """

    init: Callable[[Any], Any]
    compress: Callable[..., tuple[Any, Any]]
    decompress: Callable[[Any], Any]
    contraction: Callable[[int], float] | None
    variance: Callable[[int], float] | None
    name: str
    add: Callable[[Any, Any], Any] | None = None


class Exchange(NamedTuple):
    """Arrays of senders to their mean: what runs on the links, inside shard_map or vmap.

    init(x) -> state
        a pytree of arrays for an array of this shape; the axes are named where it is called.
    mean(key, x, state) -> (sent, mean, state)
        x a sender's own array; key u32[2] is the same for all senders. sent, f32 like x: what the
        mean has of x, and x - sent is what feedback keeps. mean f32: of what all have sent.
    nbytes(x) -> int
        what one device sends, with ring algorithms; the axes are named where it is called.
    axes
        names of the axes that the mean goes over, () for none.
    name
    """

    init: Callable[[Any], Any]
    mean: Callable[..., tuple[Any, Any, Any]]
    nbytes: Callable[[Any], int]
    axes: tuple[str, ...]
    name: str


class Rounds(NamedTuple):
    """Rounds of federated training: local steps of each client, and one message to all.

    init(params) -> state
    round(params, state, gradient, batches, taking_part=True) -> (params, state)
        inside shard_map or vmap, of one client. gradient(params, batch) -> like params; batches: a
        pytree of arrays [local steps, ...]; taking_part: bool[] or bool[1]. A round of no client,
        and one whose mean is not finite, leave params and what is remembered as they were.
    name
    """

    init: Callable[[Any], Any]
    round: Callable[..., tuple[Any, Any]]
    name: str


def random_bits(key: tuple[int, int], counter: Any) -> tuple[Any, Any]:
    """Two uint32 arrays of random bits for every uint32 of `counter`, an array of numpy or jax.

    What a file depends on (dither, rotations, sketches) comes from here: integers, the same on
    every device and for every version. Threefry-2x32 with 20 rounds of (counter, 0) under a key of
    two integers below 2**32; Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    schedule = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    schedule = tuple(counter.dtype.type(word) for word in schedule)
    a, b = counter + schedule[0], (counter ^ counter) + schedule[1]
    for turn in range(20):
        a = a + b
        left = (13, 15, 26, 6, 17, 29, 16, 24)[turn % 8]
        b = (b << left | b >> (32 - left)) ^ a
        if turn % 4 == 3:
            step = turn // 4 + 1
            a = a + schedule[step % 3]
            b = b + schedule[(step + 1) % 3] + counter.dtype.type(step)
    return a, b
