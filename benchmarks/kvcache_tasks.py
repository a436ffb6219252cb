"""What KV caches are judged on: a model that decodes, and attention over real and made keys.

stories      stories260K decodes 60 TinyStories token by token: KL per token to the model with
             all tokens as they are, and the loss; beside it the error of attention over its own
             queries, keys and values, of those stories that fill the context. 4 heads of size 8:
             a scale and a zero in bfloat16 for 8 numbers are 4 bits a number, so groups along the
             head cost more than codes, and no format can be small. That is arithmetic, not the
             method's fault.
minilm       queries, keys and values of all-MiniLM-L6-v2 over WikiText-2, 6 layers of 12 heads
             of size 32, read causally: relative error of the attention's output
constructed  heads of size 128 as large models have them: a few channels of keys are large in
             every token (Liu et al., KIVI, 2024, figure 2; Hooper et al., KVQuant, 2024, figure
             2), values have none, and some tokens are read by many others
low          the same where tokens have few dimensions and little noise, as GEAR finds them (Kang
             et al., 2024, section 3)
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from benchmarks.models import minilm, stories, story_text, wordpiece
from benchmarks.weights_tasks import kl

HELD = jnp.bfloat16  # what caches are given, and windows hold
STORIES, CALIBRATION_STORIES, LENGTH = 60, 20, 256
PIECE = 16  # tokens that come together where attention alone is judged
TEXTS, TOKENS = 4, 512  # of MiniLM; 512 is its context
MADE_HEADS, MADE_SIZE, MADE_TOKENS = 4, 128, 1024
MADE_RANK, MADE_LOW = 8, 0.7  # of a head's tokens, and the share of their energy that it has
LOW_RANK, LOW_LOW = 4, 0.92  # where tokens have few dimensions: noise of 0.3 of them
FULL = 16  # stories that fill the context, whose attention is judged
OUTLIERS, OUTLIER = 4, 8.0  # channels of a head that are large in every token, and how large
SINGLE = 0.002  # of entries that are as large on their own
ITEMS, COPIED_TOKENS, COPIED_SIZE, CHANGED = 96, 512, 64, 0.15


class Tabled(NamedTuple):
    """make(table) is the cache of a layer; tables: those of all layers, stacked."""

    make: Callable[[Any], jc.KVCache]
    tables: Any

    @property
    def cache(self) -> jc.KVCache:
        """A cache whose state carries its table."""

        def init(*arguments):
            one = jax.tree.map(lambda x: x[0], self.tables)
            return one, self.make(one).init(*arguments)

        def append(state, k, v, **options):
            return state[0], self.make(state[0]).append(state[1], k, v, **options)

        def attend(state, q, **options):
            out, inner = self.make(state[0]).attend(state[1], q, **options)
            return out, (state[0], inner)

        return jc.KVCache(init, append, attend, "tabled")


def smoothed(cache: jc.KVCache, smooth: jax.Array) -> jc.KVCache:
    """Keys over and queries times `smooth` f32[heads, size], as folded weights would give them."""

    def wide(q):
        return q * jnp.repeat(smooth, q.shape[2] // len(smooth), 0).astype(q.dtype)

    def append(state, k, v, *, queries=None, lengths=None):
        k = (k / smooth).astype(k.dtype)
        queries = None if queries is None else wide(queries)
        return cache.append(state, k, v, queries=queries, lengths=lengths)

    def attend(state, q, **options):
        return cache.attend(state, wide(q), **options)

    return jc.KVCache(cache.init, append, attend, f"smooth {cache.name}")


class Judged(NamedTuple):
    """items f64[n]: distances, one for each thing that was judged; bytes of the state; seconds of
    the program; loss in nats per token, where there is one."""

    items: np.ndarray
    bytes: int
    seconds: float
    loss: float | None = None


class Task(NamedTuple):
    """judge(cache or Tabled) -> Judged.

    batch        sequences that are judged; tokens: of them all, in all layers where these are apart
    numbers      keys and values that the state of all stands for
    pairs        which channels positions turn together, where they do
    attention    another task: the same model's attention alone, where judge does not say its error
    calibration  (queries, keys, values), each f32[layers, batch, tokens, heads, size], of others
    """

    name: str
    unit: str
    slots: int
    size: int
    batch: int
    tokens: int
    numbers: int
    calibration: tuple[jax.Array, jax.Array, jax.Array]
    judge: Callable[..., Judged]
    pairs: str | None = None
    attention: Any = None

    @property
    def turns(self) -> bool:
        return self.pairs is not None


def stories_task(data: Path) -> Task:
    folder = data / "llm/stories260K"
    params, config = stories.load(folder)
    tokenizer = story_text.read_tokenizer(folder / "tok512.bin")
    path = data / "text/tinystories/tinystories_sample_2MiB.txt"
    tokens, mask = story_text.batches(
        tokenizer, story_text.stories(path, STORIES, 0), batch=STORIES, length=LENGTH
    )[0]
    reference = jax.jit(stories.apply)(params, tokens)
    prompt = LENGTH // 2
    inside = mask & (jnp.arange(LENGTH) >= prompt)
    long = np.asarray(inside.any(1))
    size = config.dim // config.heads

    def judge(cache, *, inside_rope=False):
        cache, tables = _parts(cache)
        first = stories.empty(params, cache, STORIES, dtype=HELD)
        first = (tables, first[1]) if tables is not None else first

        @jax.jit
        def run(states, tokens, reference):
            def step(carry, token):
                states, at = carry
                logits, states = stories.decode(
                    params, token[:, None], states, cache, at, inside=inside_rope, dtype=HELD
                )
                return (states, at + 1), logits[:, 0]

            at = jnp.zeros(STORIES, jnp.int32)
            first, states = stories.decode(
                params, tokens[:, :prompt], states, cache, at, inside=inside_rope, dtype=HELD
            )
            carry = states, at + prompt
            (states, _), logits = jax.lax.scan(step, carry, tokens[:, prompt:].T)
            logits = jnp.concatenate([first, logits.swapaxes(0, 1)], 1)
            apart = (kl(reference, logits) * inside).sum(1) / jnp.maximum(inside.sum(1), 1)
            nats, count = stories.nats(logits, tokens, inside)
            return apart, nats.sum() / count.sum(), states

        (apart, loss, states), seconds = timed(run, first, tokens, reference)
        items = np.asarray(apart, np.float64)[long]
        return Judged(items, _held(states), seconds, float(loss))

    numbers = 2 * STORIES * LENGTH * config.layers * config.kv_heads * size
    calibration = _seen(params, tokenizer, path)
    full = tokens[np.asarray(mask).all(1)][:FULL]
    seen = jax.jit(stories.queries_keys_values)(params, full)

    def rope(x, positions):  # [b, h, t, size], [b, 1 or h, t]
        return stories.rotate(x, *(x[..., 0, :] for x in stories.turns(positions, size)))

    return Task(
        "stories260K",
        "KL per token",
        LENGTH,
        size,
        STORIES,
        tokens.size,
        numbers,
        calibration,
        judge,
        "neighbours",
        attention_task("stories260K", seen, calibration, rope),
    )


def _seen(params, tokenizer, path):
    """Queries, keys and values of other stories, turned to no position."""
    skipped = story_text.stories(path, CALIBRATION_STORIES, STORIES)
    tokens, _ = story_text.batches(tokenizer, skipped, batch=CALIBRATION_STORIES, length=LENGTH)[0]
    return stories.queries_keys_values(params, tokens)


def minilm_task(data: Path, folder: Path) -> Task:
    judged, other = minilm_seen(data, folder)
    return attention_task("MiniLM-L6", judged, other)


def minilm_seen(data: Path, folder: Path) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """Queries, keys and values f32[layers, batch, tokens, heads, size] of texts, and of others."""
    params, _ = minilm.load(folder)
    vocabulary = wordpiece.read_vocabulary(folder / "vocab.txt")
    lines = (data / "text/wikitext2/valid.txt").read_text().splitlines()
    text = " ".join(line.strip() for line in lines if len(line.split()) > 20)
    cut = len(text) // (2 * TEXTS)
    texts = [text[i * cut : (i + 1) * cut] for i in range(2 * TEXTS)]
    batches = wordpiece.batches(vocabulary, texts, batch=TEXTS, length=TOKENS)
    run = jax.jit(minilm.queries_keys_values)
    return [run(params, tokens, mask) for tokens, mask in batches]


def constructed_task() -> Task:
    judged, other = (made(seed) for seed in (0, 1))
    return attention_task("made", judged, other)


def low_task() -> Task:
    judged, other = (made(seed, LOW_RANK, LOW_LOW) for seed in (0, 1))
    return attention_task("made, of few dimensions", judged, other)


def made(
    seed: int, rank: int = MADE_RANK, share: float = MADE_LOW
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values f32[1, 2, tokens, heads, size] like those of a large model; `share`
    of the energy of tokens lies in `rank` dimensions of a head."""
    shape = (1, 2, MADE_TOKENS, MADE_HEADS, MADE_SIZE)
    model = iter(jax.random.split(jax.random.key(7), 8))  # what all texts share
    text = iter(jax.random.split(jax.random.key(seed), 16))

    def tokens():
        basis = jax.random.normal(next(model), (MADE_HEADS, rank, MADE_SIZE)) / rank**0.5
        places = jax.random.normal(next(text), (*shape[:-1], rank))
        low = jnp.einsum("lbthr,hrd->lbthd", places, basis)
        x = share**0.5 * low + (1 - share) ** 0.5 * jax.random.normal(next(text), shape)
        single = jax.random.uniform(next(text), shape) < SINGLE
        return x * jnp.where(single, OUTLIER, 1.0)

    keys, values = tokens(), tokens()
    large = jax.random.permutation(next(model), MADE_SIZE)[:OUTLIERS]
    offset = OUTLIER * jax.random.normal(next(model), (MADE_HEADS, OUTLIERS))
    # Each query looks for a few tokens before it, more likely for late ones and for some that all
    # look for.
    draw = jax.random.uniform(next(text), (MADE_TOKENS, 3))
    share = jnp.stack([draw[:, 0] ** 0.2, draw[:, 1], draw[:, 2] ** 4], 1)
    wanted = (jnp.arange(MADE_TOKENS)[:, None] * share).astype(jnp.int32)
    queries = 0.7 * keys[:, :, wanted].sum(3) + 0.5 * jax.random.normal(next(text), shape)
    return queries, keys.at[..., large].add(offset), values


def copies_task() -> Task:
    judged, other = (copies(seed) for seed in (0, 1))
    return attention_task("copies", judged, other)


def copies(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A text of ITEMS that come again and again, slightly changed, some often and some seldom; each
    token asks for one of them, whatever it is itself."""
    keys = iter(jax.random.split(jax.random.key(seed), 8))
    shape = (1, 2, COPIED_TOKENS, MADE_HEADS, COPIED_SIZE)
    often = 1 / jnp.arange(1, ITEMS + 1)
    which = jax.random.choice(next(keys), ITEMS, (COPIED_TOKENS,), p=often / often.sum())
    asked = jax.random.choice(next(keys), ITEMS, (COPIED_TOKENS,))
    items = jax.random.normal(next(keys), (2, ITEMS, *shape[3:]))
    k, v = (item[which] + CHANGED * jax.random.normal(next(keys), shape) for item in items)
    return jnp.broadcast_to(0.4 * items[0][asked], shape), k, v


def _parts(cache):
    return (cache.cache, cache.tables) if isinstance(cache, Tabled) else (cache, None)


def attention_task(name: str, judged: Any, calibration: Any, rope: Any = None) -> Task:
    """Tokens come in pieces, and read what the cache made of all so far; one layer after another.

    judged and calibration: queries, keys and values f32[layers, batch, tokens, heads, size]; with
    rope(x f[batch, heads, tokens, size], positions) they are before their positions.
    """
    q, k, v = judged
    layers, batch, tokens, heads, size = k.shape
    prompt = tokens // 2
    before = k
    if rope is not None:
        places = jnp.arange(tokens)[None, None]
        q, k = (
            jax.vmap(lambda x: rope(x.swapaxes(1, 2), places).swapaxes(1, 2))(x) for x in (q, k)
        )
    exact = jax.vmap(lambda *qkv: jax.nn.dot_product_attention(*qkv, is_causal=True))(q, k, v)

    def judge(cache, *, inside_rope=False):
        cache, tables = _parts(cache)
        turn = {"rope": rope} if inside_rope else {}

        def layer(arguments):
            q, k, v, exact, table = arguments
            state = cache.init(batch, heads, size, HELD)
            state = state if table is None else (table, state[1])
            qkv = q, k.astype(HELD), v.astype(HELD)
            first = [x[:, :prompt] for x in qkv]
            state = cache.append(state, *first[1:], queries=first[0])
            pieces = [
                x[:, prompt:].reshape(batch, -1, PIECE, *x.shape[2:]).swapaxes(0, 1) for x in qkv
            ]

            def step(state, new):
                out, state = jc.kvcache.attention(cache, state, *new, exact_prompt=False, **turn)
                return state, out

            state, out = jax.lax.scan(step, state, pieces)
            exact = exact[:, prompt:]
            out = out.swapaxes(0, 1).reshape(exact.shape)
            off, all_of = (jnp.square(x).sum((1, 3)) for x in (out - exact, exact))
            return jnp.sqrt(off / all_of).ravel(), state

        run = jax.jit(lambda *arguments: jax.lax.map(layer, arguments))
        keys = before if inside_rope else k
        (items, states), seconds = timed(run, q, keys, v, exact, tables)
        return Judged(np.asarray(items, np.float64).ravel(), _held(states), seconds)

    count = layers * batch * tokens
    return Task(name, "error", tokens, size, batch, count, 2 * k.size, calibration, judge)


def kurtosis(x: jax.Array) -> float:
    """Of all numbers of x: 3 for the normal distribution, more where some are far out."""
    x = np.asarray(x, np.float64).ravel()
    x = x - x.mean()
    return float((x**4).mean() / (x**2).mean() ** 2)


def timed(run: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a compiled program returns, and the seconds that it takes the second time."""
    jax.block_until_ready(run(*arguments))
    start = time.perf_counter()
    out = jax.block_until_ready(run(*arguments))
    return out, time.perf_counter() - start


def _held(state: Any) -> int:
    return jc.kvcache.nbytes(state)
