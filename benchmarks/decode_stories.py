"""A small language model tells a story from a cache of your choice, token by token.

    python -m benchmarks.decode_stories --data FOLDER --cache kivi-2 --tokens 200 \\
                                        --prompt "Once upon a time"

stories260K (5 layers, 8 query heads on 4 heads of size 8) reads the prompt at once, and then always
takes the likeliest token. The text appears as it comes; then tokens per second after the first,
bytes of all layers' states, bits for each number of keys and values that they have room for, and
how many tokens are those of the dense cache. A story that departs at one token goes its own way
from there, and may be as good: see how long the two are the same.

Heads of 8 are a hard case: a scale in bfloat16 for 8 numbers is 2 bits a number, and a zero 2 more.
--cache all tells the story by all of them, and prints a table.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import jaxcomp as jc
from benchmarks.kvcache_tasks import Tabled
from benchmarks.models import stories, story_text

F, K = jc.formats, jc.kvcache
HELD = jnp.bfloat16  # what caches are given, and windows hold
SHARE, LEAST = 4, 16  # evicting caches hold one token in SHARE, and no fewer than LEAST
WIDTH = 100  # of lines and the table
FITTED_ON = "One day"  # how the story begins that tables and scales are taken from
console = Console(width=WIDTH)


class Told(NamedTuple):
    """Tokens behind the prompt, without the one that ends a story; bytes of all states."""

    tokens: list[int]
    per_second: float
    nbytes: int


def quantized(bits: int | F.Format, slots: int) -> jc.KVCache:
    """Tokens by themselves, in groups of 8: a format, or an unsigned one of some bits."""
    if isinstance(bits, int):
        bits = F.Format(bits, zero="bfloat16")
    return K.quantized(bits._replace(group=8, scale="bfloat16"), slots)


def few(make: Callable[..., jc.KVCache], slots: int, *arguments: Any) -> jc.KVCache:
    """Of one token in SHARE; arguments come before the budget."""
    budget = max(LEAST, slots // SHARE)
    return make(*arguments, budget, recent=budget // 4)


# name -> (what it holds, slots -> the cache)
CACHES: dict[str, tuple[str, Callable[[int], jc.KVCache]]] = {
    "dense": ("every token in bfloat16", K.dense),
    "int8": ("tokens rounded, with a scale", partial(quantized, F.INT8)),
    "fp8": ("the same as floats of 8 bits", partial(quantized, F.FP8_E4M3)),
    "int4": ("the same at 4 bits", partial(quantized, F.INT4)),
    "int4-channel": ("by channel over 32 tokens", lambda n: K.quantized(F.INT4, n, over=32)),
    "uint4": ("with a scale and a zero", partial(quantized, 4)),
    "uint2": ("the same at 2 bits", partial(quantized, 2)),
    "kivi-4": ("keys by channel, values by token", partial(K.kivi, bits=4, window=32)),
    "kivi-2": ("the same at 2 bits", partial(K.kivi, bits=2, window=32)),
    "rotated-4": ("turned by a random rotation", partial(K.rotated, bits=4)),
    "rotated-3": ("the same at 3 bits", partial(K.rotated, bits=3)),
    "rotated-2": ("the same at 2 bits", partial(K.rotated, bits=2)),
    "gear-2": ("2 bits, a low rank, entries apart", partial(K.gear, bits=2, group=32, rank=1)),
    "zipcache": ("salient tokens in 4 bits, or in 2", partial(K.zipcache, group=32)),
    "staircase": ("8, then 4, then 2 bits by age", partial(K.staircase, chunks=(1, 2))),
    "recent": ("the last tokens", lambda n: few(K.evict, n, K.recent())),
    "knorm": ("tokens of short keys", lambda n: few(K.evict, n, K.knorm())),
    "expected": ("by queries like those so far", lambda n: few(K.evict, n, K.expected_attention())),
    "h2o": ("tokens that got most attention", lambda n: few(K.evict, n, K.h2o())),
    "attention": ("by those who saw them", lambda n: few(K.evict, n, K.normalised_attention())),
    "snapkv": ("that got most from the last ones", lambda n: few(K.evict, n, K.snapkv())),
    "ragged": (
        "the same, more of it for some heads",
        lambda n: K.evict(K.snapkv(), max(LEAST, n // SHARE), recent=4, slots=K.ragged()),
    ),
    "ems": ("who goes joins the nearest", partial(few, K.ems)),
}


def kvquant(slots: int, params: Any, seen: Any, bits: int = 3) -> tuple[Any, Tabled]:
    """Tables of each layer; keys are kept before their positions."""
    tables = [K.kvquant_tables(k, v, bits=bits) for k, v in zip(*seen[1:], strict=True)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *tables)
    return params, Tabled(lambda table: K.kvquant(slots, table, sinks=4), stacked)


def qoq(slots: int, params: Any, seen: Any) -> tuple[Any, jc.KVCache]:
    """Scales of channels folded into the weights of each layer, offline."""
    size = seen[1].shape[-1]

    def fold(w_q, w_k, keys):  # [out, in] both
        smooth = K.smooth_attention(keys, pairs="neighbours")
        split = [w.T.reshape(w.shape[1], -1, size) for w in (w_q, w_k)]
        return [w.reshape(w.shape[0], -1).T for w in K.fold_smoothing(*split, smooth)]

    layers = params["layers"]
    w_q, w_k = jax.vmap(fold)(layers["wq"], layers["wk"], seen[1])
    return {**params, "layers": {**layers, "wq": w_q, "wk": w_k}}, quantized(4, slots)


# name -> (what it holds, (slots, params, queries, keys and values of a story) -> (params, cache))
FITTED: dict[str, tuple[str, Callable[..., tuple[Any, Any]]]] = {
    "kvquant-3": ("calibrated levels of each layer", kvquant),
    "qoq": ("as uint4, keys made smooth", qoq),
}


def tell(
    params: dict[str, Any],
    cache: jc.KVCache | Tabled,
    start: Sequence[int],
    count: int,
    *,
    heads: int = stories.HEADS,
    hear: Callable[[list[int]], None] = lambda tokens: None,
) -> Told:
    """The likeliest tokens behind `start`: `count`, or fewer where the story ends.

    hear: is called with all tokens so far, at each one. A cache with tables keeps keys before
    their positions.
    """
    tables = jax.tree.map(jnp.copy, cache.tables) if isinstance(cache, Tabled) else None
    options = {"heads": heads, "dtype": HELD}
    cache, inside = (cache, False) if tables is None else (cache.cache, True)

    @partial(jax.jit, donate_argnums=1)
    def step(params, states, tokens, at):
        logits, states = stories.decode(params, tokens, states, cache, at, inside=inside, **options)
        new = logits[:, -1:].argmax(-1).astype(jnp.int32)
        return states, new, at + tokens.shape[1]

    states = stories.empty(params, cache, 1, **options)
    states = states if tables is None else (tables, states[1])
    nbytes = K.nbytes(states)
    tokens, begun, timed = [], 0.0, 0
    new, at = jnp.asarray([start], jnp.int32), jnp.zeros(1, jnp.int32)
    for number in range(count):
        states, new, at = step(params, states, new, at)
        token = int(new[0, 0])
        if number == 1:  # both programs are compiled
            begun = time.perf_counter()
        timed = max(0, number - 1)
        if token in (story_text.BEGIN, story_text.END):
            break
        tokens.append(token)
        hear(tokens)
    seconds = time.perf_counter() - begun
    return Told(tokens, timed / seconds if timed else float("nan"), nbytes)


def same(tokens: Sequence[int], expected: Sequence[int]) -> tuple[int, int]:
    """(how many agree, how many do before the first that does not)."""
    equal = [a == b for a, b in zip(tokens, expected, strict=False)]
    return sum(equal), [*equal, False].index(False)


def bits(nbytes: int, slots: int, config: stories.Config) -> float:
    size = config.dim // config.heads
    return 8 * nbytes / (2 * config.layers * config.kv_heads * size * slots)


class Voice:
    """Prints a story as its tokens come: what is whole, and not yet printed."""

    def __init__(self, tokenizer: story_text.Tokenizer, start: Sequence[int]):
        self.tokenizer, self.start, self.printed = tokenizer, list(start), 0

    def __call__(self, tokens: Sequence[int]) -> None:
        text = story_text.decode(self.tokenizer, [*self.start, *tokens])
        text = text.removesuffix("\N{REPLACEMENT CHARACTER}")  # a character that is not all there
        print(text[self.printed :], end="", flush=True)
        self.printed = max(self.printed, len(text))


def table(rows: Sequence[tuple[str, Told]], slots: int, config: stories.Config) -> Table:
    reference = rows[0][1].tokens
    found = Table(title=f"{slots} tokens of room", title_justify="left")
    for name in ("cache", "bytes", "bits", "tokens/s", "as dense", "until", "what it holds"):
        left = name in ("cache", "what it holds")
        found.add_column(name, justify="left" if left else "right")
    for name, told in rows:
        agree, until = same(told.tokens, reference)
        found.add_row(
            name,
            str(told.nbytes),
            f"{bits(told.nbytes, slots, config):.2f}",
            f"{told.per_second:.0f}",
            f"{agree} of {len(reference)}",
            str(until),
            (CACHES | FITTED)[name][0],
        )
    return found


def arguments_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    every = CACHES | FITTED
    listing = "\n".join(f"  {name:12} {about}" for name, (about, _) in every.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"caches; those from recent to ems hold one token in {SHARE}, and the last two are\n"
        f"fitted on a story that begins {FITTED_ON!r}:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="has llm/stories260K in it")
    parser.add_argument(
        "--cache",
        default="kivi-2",
        choices=[*every, "all"],
        metavar="NAME",
        help="one of those below, kivi-2 by default, or all",
    )
    parser.add_argument("--tokens", type=int, default=200, help="at most; 200 by default")
    parser.add_argument("--prompt", default="Once upon a time")
    return parser.parse_args(arguments)


def main():
    asked = arguments_of()
    folder = asked.data / "llm/stories260K"
    params, config = stories.load(folder)
    tokenizer = story_text.read_tokenizer(folder / "tok512.bin")
    start = story_text.encode(tokenizer, asked.prompt)
    slots = len(start) + asked.tokens
    if asked.tokens < 1 or slots > config.context:
        raise SystemExit(
            f"expected 1 to {config.context - len(start)} tokens behind a prompt of {len(start)}, "
            f"got --tokens {asked.tokens}; the model's context is {config.context}"
        )
    print("jax", jax.__version__, "on", jax.devices()[0].device_kind)

    def run(name, **options):
        if name in CACHES:
            return tell(params, CACHES[name][1](slots), start, asked.tokens, **options)
        other = story_text.encode(tokenizer, FITTED_ON)
        other += tell(params, K.dense(slots), other, slots - len(other)).tokens
        seen = jax.jit(stories.queries_keys_values)(params, jnp.asarray([other], jnp.int32))
        return tell(*FITTED[name][1](slots, params, seen), start, asked.tokens, **options)

    if asked.cache == "all":
        rows = []
        for name in CACHES | FITTED:
            with console.status(name):
                rows.append((name, run(name)))
        console.print(table(rows, slots, config))
        return
    voice = Voice(tokenizer, start)
    voice([])
    told = run(asked.cache, hear=voice)
    print("\n")
    with console.status("the same from the dense cache"):
        expected = run("dense")
    held, dense = (bits(x.nbytes, slots, config) for x in (told, expected))
    print(f"{told.per_second:.0f} tokens/s; dense {expected.per_second:.0f}")
    print(f"{told.nbytes} bytes, {held:.2f} bits a number; dense {expected.nbytes}, {dense:.2f}")
    agree, until = same(told.tokens, expected.tokens)
    print(f"{agree} of {len(expected.tokens)} tokens as dense, all of the first {until}")
    if until < len(expected.tokens):
        ahead = expected.tokens[until : until + 20]
        print("where they part, dense goes on:", story_text.decode(tokenizer, ahead).strip())


if __name__ == "__main__":
    main()
