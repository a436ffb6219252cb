"""The wire section of benchmarks/kvcache.py: files of keys and values, and what to send of them.

stories      16 stories of 512 tokens, the context of stories260K: the loss of all tokens that read
             the keys and values of a file, with the model's own queries; the int8 cache likewise
attention    captured or made queries, keys and values, read causally: error of the output
controller   chunks sent over made bandwidths with a deadline: fixed levels, one plan, plans again
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxcomp as jc
from benchmarks import kvcache_tasks
from benchmarks.kvcache_tasks import kl
from benchmarks.models import stories, story_text
from jaxcomp.base import KVCache
from jaxcomp.coding import container
from jaxcomp.io.features_file import codes_of, features_bytes, features_of, opened
from jaxcomp.kvcache import cachegen_model

CONTEXTS, CONTEXT = 16, 512  # stories that are long enough, and the model's context
LEVELS = range(1, 8)
TRACES, STEP = 300, 0.15  # made bandwidths: log normal steps of this deviation
MARGIN = 0.05  # of the deadline, that plans leave for what changes behind them


def sections(data, folder=None):
    """{name: rows}; folder: of MiniLM."""
    found = {"stories": stories_rows(data)}
    made = kvcache_tasks.made(0)
    if folder:
        found["minilm"] = attention_rows(*kvcache_tasks.minilm_seen(data, folder)[0])
    found["constructed"] = attention_rows(*made)
    found["controller"] = controller_rows(*(np.asarray(x[:, 0]) for x in made[1:]))
    found["speed"] = [{"method": name, "megabytes_per_second": x} for name, x in speed().items()]
    return found


def show(name, rows):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=f"wire: {name}", title_justify="left")
    for column in columns:
        table.add_column(
            column.replace("_", " "), justify="left" if column == "method" else "right"
        )
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(x if isinstance(x, str) else f"{x:.4g}" for x in cells))
    Console(width=130).print(table)


def loaded(codec, keys, values, queries=None):
    """(keys, values, {bytes, model, packed}) of one context, through its file."""
    data = features_bytes(keys, values, codec=codec, queries=queries)
    file = opened(container.unpack(data))
    codes = np.concatenate([codes_of(file, i) for i in range(len(file.messages))], 2)
    if not np.array_equal(codes, codec.quantize(file.model, keys, values)):
        raise RuntimeError("expected the codes of a file, got others: the format is broken")
    levels = np.ptp(codes, (2, 3)) + 1  # of each layer's keys, and of its values
    packed = (np.ceil(np.log2(levels)) * codes[0, 0].size).sum() / 8
    side = len(cachegen_model.to_bytes(file.model))
    return (*features_of(file), np.array([len(data), side, packed]))


def files(codec, keys, values, queries=None):
    """loaded, of every sequence of [layers, batch, tokens, heads, size]."""
    every = [
        loaded(codec, keys[:, i], values[:, i], None if queries is None else queries[:, i])
        for i in range(keys.shape[1])
    ]
    k, v = (jnp.stack([one[j] for one in every], 1) for j in (0, 1))
    return k, v, sum(one[2] for one in every)


def as_int8(x):
    """What a cache of int8 per token and head holds: (x, bytes with their scales)."""
    leaf = jc.formats.quantize(x, jc.formats.INT8, axes=-1)
    return jax.jit(lambda leaf: leaf.dense())(leaf), jc.tree.nbytes(leaf)


def given():
    """A cache whose state is the keys and values that are read, whatever is appended."""

    def attend(state, q, *, rope=None, fresh=None):
        return jax.nn.dot_product_attention(q, *state, is_causal=True), state

    return KVCache(None, lambda state, k, v, **_: state, attend, "given")


def stories_rows(data):
    folder = data / "llm/stories260K"
    params, _ = stories.load(folder)
    tokenizer = story_text.read_tokenizer(folder / "tok512.bin")
    texts = story_text.stories(data / "text/tinystories/tinystories_sample_2MiB.txt", 600)
    found = (story_text.encode(tokenizer, text) for text in texts)
    long = [row[:CONTEXT] for row in found if len(row) >= CONTEXT][:CONTEXTS]
    tokens = jnp.asarray(long)
    q, k, v = jax.jit(stories.queries_keys_values)(params, tokens)
    start, cache = jnp.zeros(len(long), jnp.int32), given()
    turns = stories.turns(jnp.arange(CONTEXT), k.shape[-1])
    reference = jax.jit(stories.apply)(params, tokens)

    def turn(x):
        return stories.rotate(x, *turns)

    @jax.jit
    def judge(keys, values, reference):
        logits, _ = stories.decode(params, tokens, (keys, values), cache, start)
        nats, count = stories.nats(logits, tokens, jnp.ones(tokens.shape, bool))
        return nats.sum() / count.sum(), kl(reference, logits).mean()

    turned, numbers = turn(k), 2 * k.size
    (k8, n8), (v8, m8) = as_int8(turned), as_int8(v)
    loss8, apart = map(float, judge(k8, v8, reference))
    rows = [{"method": "int8 per token", "bits": 8 * (n8 + m8) / numbers, "kl": apart}]
    ways = {
        "": (k, q, turn),
        ", keys with positions": (turned, turn(q), lambda x: x),
        ", and no queries": (turned, None, lambda x: x),
    }
    for words, (keys, queries, back) in ways.items():
        for level in LEVELS if not words else (2, 3):
            kk, vv, (size, side, packed) = files(jc.kvcache.cachegen(level), keys, v, queries)
            loss, apart = map(float, judge(back(kk), vv, reference))
            rows.append(
                {
                    "method": f"cachegen {level}{words}",
                    "bits": float(8 * size / numbers),
                    "of_int8": float(size / (n8 + m8)),
                    "of_its_codes_packed": float(size / packed),
                    "side_percent": float(100 * side / size),
                    "loss_percent": 100 * (loss / loss8 - 1),  # against int8
                    "kl": apart,
                }
            )
    return rows


def attention_rows(q, k, v):
    """q, k, v f32[layers, batch, tokens, heads, size]."""

    @jax.jit
    def attend(q, k, v):
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    exact, late = attend(q, k, v), slice(k.shape[2] // 4, None)  # who has a past to look at

    def error(keys, values):
        out = attend(q, keys.astype(jnp.float32), values.astype(jnp.float32))
        off, whole = (jnp.square(x[:, late]).sum((1, 3)) for x in (out - exact, exact))
        return float(jnp.sqrt(off / whole).mean())

    numbers, rows = 2 * k.size, []
    for level in LEVELS:
        kk, vv, (size, side, packed) = files(jc.kvcache.cachegen(level), k, v, q)
        rows.append(
            {
                "method": f"cachegen {level}",
                "bits": float(8 * size / numbers),
                "of_its_codes_packed": float(size / packed),
                "side_percent": float(100 * side / size),
                "error": error(kk, vv),
            }
        )
    return rows


def controller_rows(keys, values, *, chunk=16, seed=0):
    """Of one context [layers, tokens, heads, size]: how often in time, and bits of a number."""
    nbytes = []
    for level in LEVELS:
        codec = jc.kvcache.cachegen(level, chunk=chunk)
        model = codec.fit(keys, values)
        nbytes.append([len(m) for m in codec.encode(model, codec.quantize(model, keys, values))])
    nbytes = np.array(nbytes).T  # [chunks, levels]
    count, levels = nbytes.shape
    steps = np.random.default_rng(seed).normal(size=(TRACES, count)) * STEP
    speed = nbytes.sum(0).mean() * np.exp(np.cumsum(steps, 1))  # all of it in about a second
    found = {f"level {level}": [] for level in LEVELS} | {"planned once": [], "planned again": []}

    def record(name, chosen, trace):
        sent = nbytes[np.arange(count), chosen]
        found[name].append(((sent / trace).sum() <= 1.0, sent.sum()))

    for trace in speed:
        for at, level in enumerate(LEVELS):
            record(f"level {level}", [at] * count, trace)
        record("planned once", jc.kvcache.plan(nbytes, float(trace[0]), 1 - MARGIN), trace)
        chosen, left = [], 1 - MARGIN
        for at in range(count):
            # What the chunk before came at is what is known.
            known = float(trace[max(at - 1, 0)])
            chosen.append(jc.kvcache.plan(nbytes[at:], known, left)[0])
            left -= nbytes[at, chosen[-1]] / trace[at]
        record("planned again", chosen, trace)
    bits = 8 / (2 * keys.size)
    return [
        {
            "method": name,
            "in_time_percent": 100 * float(np.mean([good for good, _ in pairs])),
            "bits": bits * float(np.mean([size for _, size in pairs])),
        }
        for name, pairs in found.items()
    ]


def speed(size=(8, 1024, 8, 128)):
    """MB of bfloat16 keys and values a second, each way, of all but the first call."""
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(2, *size)).astype(np.float32)
    codec, megabytes, seconds = jc.kvcache.cachegen(), 4 * keys.size / 1e6, {}

    def timed(name, work):
        work()
        start = time.perf_counter()
        made = work()
        seconds[name] = megabytes / (time.perf_counter() - start)
        return made

    model = timed("fit", lambda: codec.fit(keys, values))
    codes = timed("quantize", lambda: codec.quantize(model, keys, values))
    messages = timed("encode", lambda: codec.encode(model, codes))
    timed("decode", lambda: [codec.decode(model, message) for message in messages])
    timed("dequantize", lambda: codec.dequantize(model, codes, size[2]))
    return seconds
