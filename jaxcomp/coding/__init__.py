"""Integers <-> words <-> bytes: integer tables, interleaved rANS, streams, containers."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.coding import adaptive as adaptive
    from jaxcomp.coding import bits_back as bits_back
    from jaxcomp.coding import chunked as chunked
    from jaxcomp.coding import container as container
    from jaxcomp.coding import range_coder as range_coder
    from jaxcomp.coding import run_length as run_length
    from jaxcomp.coding import run_length_string as run_length_string
    from jaxcomp.coding import universal as universal
    from jaxcomp.coding.rans import decode as decode
    from jaxcomp.coding.rans import encode as encode
    from jaxcomp.coding.rans import pop as pop
    from jaxcomp.coding.rans import push as push
    from jaxcomp.coding.rans import push_each as push_each
    from jaxcomp.coding.stream import Stream as Stream
    from jaxcomp.coding.stream import choose_lanes as choose_lanes
    from jaxcomp.coding.stream import empty as empty
    from jaxcomp.coding.stream import from_bytes as from_bytes
    from jaxcomp.coding.stream import is_finished as is_finished
    from jaxcomp.coding.stream import to_bytes as to_bytes
    from jaxcomp.coding.tables import Tables as Tables
    from jaxcomp.coding.tables import build_tables as build_tables

# Containers are read without jax.
load_on_use(
    __name__,
    {
        "adaptive": (),
        "bits_back": (),
        "chunked": (),
        "container": (),
        "range_coder": (),
        "rans": ("decode", "encode", "pop", "push", "push_each"),
        "run_length": (),
        "run_length_string": (),
        "stream": ("Stream", "choose_lanes", "empty", "from_bytes", "is_finished", "to_bytes"),
        "tables": ("Tables", "build_tables"),
        "universal": (),
    },
)
