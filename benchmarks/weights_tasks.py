"""What compressed weights are judged on: three real models, each against its own float weights.

A Task compares a function on compressed weights with the float model, item by item, so that two
methods can be compared on the same items (paired standard errors).

    stories  stories260K on TinyStories: KL per token to the float model, one item a story;
             calibrated on other stories; the loss on five held-out stories beside it
    resnet   ResNet-20 on CIFAR-10 pictures: KL of the class distribution, agreement of the best
    minilm   all-MiniLM-L6-v2 on sentences of WikiText-2: 1 - cosine of the embeddings
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.models import minilm, resnet, stories, story_text, wordpiece

STORIES = 150  # judged; the first of the text, their first 256 tokens
CALIBRATION_STORIES = 64  # behind them
TRAINING_STORIES = 1500  # behind those, for training with quantisation in the loop
SENTENCES, CALIBRATION_SENTENCES, SENTENCE_LENGTH = 256, 64, 48
PICTURES, CALIBRATION_PICTURES = 1744, 256


class Task(NamedTuple):
    """A model, what it is calibrated on, and how it is judged.

    fn(params, *batch)               what lift and observe are given
    judge(fn, params) -> (distances f64[items], {name: number})
    """

    name: str
    unit: str
    fn: Callable[..., Any]
    params: Any
    calibration: list[Any]
    judge: Callable[[Callable[..., Any], Any], tuple[np.ndarray, dict[str, float]]]
    training: list[Any]


def kl(reference: jax.Array, logits: jax.Array) -> jax.Array:
    """KL(reference || model) of the last axis, in nats."""
    log_p = jax.nn.log_softmax(reference.astype(jnp.float32))
    log_q = jax.nn.log_softmax(logits.astype(jnp.float32))
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def stories_task(data: Path) -> Task:
    folder = data / "llm/stories260K"
    params, _ = stories.load(folder)
    tokenizer = story_text.read_tokenizer(folder / "tok512.bin")
    text = data / "text/tinystories"
    many = text / "tinystories_sample_2MiB.txt"

    def batched(path, count, skip, length=256):
        return story_text.batches(
            tokenizer, story_text.stories(path, count, skip), batch=10, length=length
        )

    judged = batched(many, STORIES, 0)
    held = batched(text / "cs336_tinystories_sample.txt", None, 0, 512)
    # Every position holds a token: stories of fewer are cut out rather than padded.
    calibration = [
        tokens for tokens, mask in batched(many, CALIBRATION_STORIES, STORIES, 128) if mask.all()
    ]
    training = [pair for pair in batched(many, TRAINING_STORIES, STORIES + CALIBRATION_STORIES)]

    def judge(fn, small):
        @jax.jit
        def distances(params, small, tokens, mask):
            apart = kl(stories.apply(params, tokens), fn(small, tokens))
            inside = mask & (jnp.arange(mask.shape[1]) > 0)
            return (apart * inside).sum(1) / jnp.maximum(inside.sum(1), 1), inside.any(1)

        @jax.jit
        def loss(small, tokens, mask):
            nats, count = stories.nats(fn(small, tokens), tokens, mask)
            return nats.sum(), count.sum()

        found = [distances(params, small, *pair) for pair in judged]
        items = np.concatenate([np.asarray(d)[np.asarray(there)] for d, there in found])
        total, count = np.sum([[float(x) for x in loss(small, *pair)] for pair in held], axis=0)
        return items.astype(np.float64), {"held-out loss": total / count}

    return Task("stories260K", "KL per token", stories.apply, params, calibration, judge, training)


def resnet_task(data: Path) -> Task:
    params = resnet.load(data / "cnn/resnet_cifar10/resnet20-12fca82f.npz")
    images, _ = resnet.cifar10(data / "cifar10")
    images = resnet.normalise(images)
    calibration = list(images[PICTURES:].reshape(4, -1, *images.shape[1:]))
    judged = images[:PICTURES].reshape(8, -1, *images.shape[1:])
    reference = [np.asarray(jax.jit(resnet.apply)(params, batch)) for batch in judged]

    def judge(fn, small):
        run = jax.jit(fn)
        logits = [np.asarray(run(small, batch)) for batch in judged]
        apart = np.concatenate(
            [np.asarray(kl(r, x)) for r, x in zip(reference, logits, strict=True)]
        )
        same = [r.argmax(1) == x.argmax(1) for r, x in zip(reference, logits, strict=True)]
        return apart.astype(np.float64), {"agreement": float(np.concatenate(same).mean())}

    return Task("ResNet-20", "KL", resnet.apply, params, calibration, judge, [])


def minilm_task(data: Path, folder: Path) -> Task:
    params, _ = minilm.load(folder)
    vocabulary = wordpiece.read_vocabulary(folder / "vocab.txt")
    lines = (data / "text/wikitext2/valid.txt").read_text().splitlines()
    sentences = [line.strip() for line in lines if len(line.split()) > 20]
    chosen = sentences[: SENTENCES + CALIBRATION_SENTENCES]

    def batched(texts):
        return wordpiece.batches(vocabulary, texts, batch=32, length=SENTENCE_LENGTH)

    judged = batched(chosen[:SENTENCES])
    calibration = [(tokens, mask) for tokens, mask in batched(chosen[SENTENCES:])]
    run = jax.jit(minilm.apply)
    reference = np.concatenate([np.asarray(run(params, *pair)) for pair in judged])

    def judge(fn, small):
        run = jax.jit(fn)
        found = np.concatenate([np.asarray(run(small, *pair)) for pair in judged])
        cosine = (found * reference).sum(1).astype(np.float64)
        return 1 - cosine, {"mean cosine": float(cosine.mean()), "least": float(cosine.min())}

    return Task("MiniLM-L6", "1 - cosine", minilm.apply, params, calibration, judge, [])
