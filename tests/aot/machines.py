"""A TPU v5e chip, a pod of 256 of them, and an NVIDIA H200, as the compilers know them."""

import functools
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

# XLA's GpuTargetConfig in text form. The numbers are those of the device's data sheet.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 148978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""

SHARDED, WHOLE = PartitionSpec("groups"), PartitionSpec()  # how arguments lie on the pod
KERNEL_CALL = {"cuda": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}


@functools.cache
def device(platform):
    """One device of the platform, "cuda" or "tpu", that can be compiled for."""
    if platform == "cuda":
        options = {"topology": "1x1x1", "target_config": H200}
        return topologies.get_topology_desc("", platform="cuda", **options).devices[0]
    return topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]


@functools.cache
def pod():
    """A mesh of 256 TPU v5e chips with the one axis "groups"."""
    topology = topologies.get_topology_desc("v5e:16x16", platform="tpu")
    return Mesh(np.array(topology.devices), ("groups",))


class Program(NamedTuple):
    """A program as JAX wrote it, and as the platform's compiler will run it."""

    lowered: Any
    compiled: Any

    @property
    def custom_calls(self):
        """What XLA calls that is not XLA's."""
        return set(re.findall(r'custom_call_target="([^"]+)"', self.compiled.as_text()))

    @property
    def loops(self):
        """Whether JAX wrote a loop; the references are loops, the kernels hide theirs."""
        return "stablehlo.while" in self.lowered.as_text()

    @property
    def collectives(self):
        """The operations by which devices talk to each other."""
        names = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
        return set(re.findall(rf" ({names})[a-z\-]*\(", self.compiled.as_text()))


def compile_for(platform, function, *arguments):
    """function as a Program for one device; arguments are pytrees of shapes."""
    here = SingleDeviceSharding(device(platform))
    return _compile(platform, function, [_place(x, here) for x in arguments])


def compile_for_pod(function, *arguments, specs):
    """function as a Program for every chip of the pod, its arguments sharded by specs."""
    each = zip(arguments, specs, strict=True)
    return _compile("tpu", function, [_place(x, NamedSharding(pod(), spec)) for x, spec in each])


def _place(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _compile(platform, function, arguments):
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
    return Program(lowered, lowered.compile())
