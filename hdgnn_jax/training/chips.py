"""What is known of the chips that a run is planned for, and how to compile for absent ones."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import topologies

from hdgnn_jax import cpu
from hdgnn_jax.errors import InputError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one chip, of its maker or measured.

    Attributes:
      name: in words.
      memory: bytes.
      bfloat16, float32: FLOP/s of matrix products, dense; products in float32 are as the model asks
        for them, with all their digits.
      bandwidth: bytes/s to and from its memory.
      link: bytes/s of one link to another chip, in one direction; None: devices share a memory.
      clock: 1/s; None: the compiler gives no cycles.
    """

    name: str
    memory: float
    bfloat16: float
    float32: float
    bandwidth: float
    link: float | None = None
    clock: float | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether its devices are this machine, and share its memory."""
        return self.link is None

    @property
    def is_tpu(self) -> bool:
        """Whether XLA's compiler for TPUs compiles for it, which estimates cycles."""
        return self.clock is not None


def _tpu(
    name: str, memory: float, peak: float, bandwidth: float, link: float, clock: float
) -> Chip:
    # A product of all digits of float32 takes six of bfloat16.
    peak *= 1e12
    return Chip(name, memory * GIB, peak, peak / 6, bandwidth * 1e9, link * 1e9, clock)


CHIPS = {
    # Google's pages on TPU v5e, v5p and v6e (docs.cloud.google.com/tpu/docs/v5e, ...), read in
    # November 2026: peak in bfloat16, bandwidth, and of the bandwidth between chips the share of
    # one link and direction: 400, 1,200 and 800 GB/s over 2 x 4, 2 x 6 and 2 x 4. Memory: what
    # libtpu 0.0.42 leaves to a program of 16, 95 and 32 GB, in its messages. Clock: the peak over
    # the FLOP that its estimates have the matrix units do in a cycle, 2^17, 2^18 and 2^19.
    "TPU v5 lite": _tpu("TPU v5e", 15.75, 197, 819, 50, 1.5e9),
    "TPU v5": _tpu("TPU v5p", 95.74, 459, 2765, 100, 1.75e9),
    "TPU v6 lite": _tpu("TPU v6e", 31.25, 918, 1638, 100, 1.75e9),
    # NVIDIA's data sheet of the H100 SXM: without sparsity; NVLink in one direction. Memory: three
    # quarters, which JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
    "NVIDIA H100 80GB HBM3": Chip("H100 SXM", 0.75 * 84.9e9, 989e12, 67e12, 3350e9, 450e9),
}  # fmt: skip
"""By the name that JAX gives the device."""

GENERATIONS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
"""TPUs in `CHIPS`, and the smallest topology of each."""
COMPILE_ONLY = {
    # Other processes may compile too, or use the chips of this machine: this one only compiles.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # Without these libtpu asks a server that only Google's machines have, and complains.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
}
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""What XLA's compiler has to know of it (`GpuTargetConfigProto`)."""
FORMS = f"cpu, h100:1, h100:8, or a TPU: {', '.join(GENERATIONS.values())}, v5e:4x4, ..."


def devices_of(topology: str) -> tuple[list[jax.Device], Chip]:
    """The devices to compile for, which need not exist, and what one of them can do.

    Args:
      topology: `cpu`: this machine; `h100:8`: so many on one host; else a TPU's generation and
        shape, such as `v5e:2x2`.

    Raises:
      InputError: where there is no such topology, or no compiler for it is installed.
    """
    if topology == "cpu":
        return jax.devices("cpu"), this_machine()
    if re.fullmatch(r"h100:[1-8]", topology):
        devices = _gpus(int(topology[-1]))
    elif topology.partition(":")[0] in GENERATIONS:
        devices = _tpus(topology)
    else:
        raise InputError(f"unknown topology {topology!r}: it must be {FORMS}")
    return devices, CHIPS[devices[0].device_kind]


def _gpus(count: int) -> list[jax.Device]:
    """H100s of one host, to compile for."""
    if not any(importlib.util.find_spec(f"jax_cuda{major}_plugin") for major in (12, 13)):
        raise InputError(
            "JAX's compiler for GPUs is not installed (it needs no GPU): "
            'pip install "jax[cuda12]"'
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    found = topologies.get_topology_desc(
        "h100", "cuda", target_config=H100, topology=f"1x1x{count}"
    )
    return list(found.devices)


def _tpus(topology: str) -> list[jax.Device]:
    """The chips of a TPU's topology, to compile for."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "libtpu, the compiler for TPUs, is not installed (it needs no TPU): "
            'pip install "hdgnn_jax[tpu-plan]"'
        )
    for name, value in COMPILE_ONLY.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"libtpu has no topology {topology!r} ({reason}): it must be {FORMS}"
        ) from error
    return list(found.devices)


def this_machine() -> Chip:
    """This machine as a chip: its memory, and its speed as measured in some seconds."""
    memory, product = cpu.reported("meminfo", "MemTotal") or float("inf"), measured_product()
    return Chip("this CPU", memory, product, product, measured_bandwidth())


def measured_product(size: int = 1024, tries: int = 4) -> float:
    """FLOP/s of the fastest of some float32 matrix products of all cores."""
    a = jax.device_put(np.ones((size, size), np.float32), jax.devices("cpu")[0])
    product = jax.jit(lambda a: jax.numpy.dot(a, a, precision="highest"))
    return 2 * size**3 / _fastest(lambda: product(a), tries)


def measured_bandwidth(size: int = 2**26, tries: int = 4) -> float:
    """Bytes/s of the fastest of some `additions` to an array of `size` bytes."""
    call = additions(size)
    return 2 * size / _fastest(call, tries)


def additions(size: int) -> Callable[[], jax.Array]:
    """A call that adds 1 to an array of `size` bytes.

    In place: the system clears the pages of a new array first, which takes longer than the sum.
    """
    a = jax.device_put(np.zeros(size // 4, np.float32), jax.devices("cpu")[0])
    add = jax.jit(lambda a: a + 1, donate_argnums=0)

    def call() -> jax.Array:
        nonlocal a
        total: jax.Array = add(a)
        a = total
        return total

    return call


def _fastest(call: Callable[[], jax.Array], tries: int) -> float:
    """Seconds of the fastest call, after one that compiles."""
    seconds = []
    for _ in range(tries + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
