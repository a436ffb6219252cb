"""Headers of files of keys and values: told without jax, and believed where they can be true."""

import subprocess
import sys
from pathlib import Path

import pytest

import jaxcomp as jc
from jaxcomp.coding import container
from jaxcomp.io.features_header import CHUNK_LIMIT, Header, features_header
from jaxcomp.kvcache import cachegen

GOLDEN = Path(__file__).parent.parent / "golden" / "cachegen_v1.jxc"


def test_what_the_golden_file_says():
    assert features_header(container.read(GOLDEN)) == Header((2, 50, 3, 2), 20, "float32", 3)
    with pytest.raises(jc.UnsupportedInput, match=f"a chunk of 1 to {CHUNK_LIMIT} tokens"):
        cachegen(chunk=CHUNK_LIMIT + 1)  # one limit for writers and readers


def test_sections_are_those_that_the_header_says():
    file = container.read(GOLDEN)
    for change in ({"chunk": 25}, {"shape": [2, 61, 3, 2]}):
        with pytest.raises(jc.CorruptStream, match="expected a model and"):
            features_header(file._replace(header={**file.header, **change}))
    swapped = dict(reversed(file.sections.items()))
    with pytest.raises(jc.CorruptStream, match="in 4 sections"):
        features_header(file._replace(sections=swapped))


def test_info_loads_neither_jax_nor_numpy():
    code = (
        "import sys; from jaxcomp.cli.main import main; "
        f"code = main(['info', {str(GOLDEN)!r}]); "
        "sys.exit(code or bool({'jax', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
