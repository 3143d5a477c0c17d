"""What this node is and can do, probed once when the agent starts; judged in `move.check`, never in a move."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import martlet
from martlet import wire
from martlet.config import Config
from martlet.errors import ToolFailed
from martlet.image import store
from martlet.kernel import criu
from martlet.model import ImageRef, NodeFacts
from martlet.move import check

CPU_FLAGS_THAT_MATTER = frozenset({
    "avx", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512dq", "fma", "bmi1", "bmi2", "sse4_1", "sse4_2", "ssse3",
    "aes", "pclmulqdq", "popcnt", "xsave", "xsaveopt", "xsavec", "xsaves", "f16c", "movbe", "rdrand", "rdseed", "adx",
    "sha_ni", "vaes", "gfni", "pku", "amx_tile",
})  # fmt: skip
"""Processor features that programs choose by at their start, and would miss elsewhere."""


def probe(config: Config) -> NodeFacts:
    """Look at this node. Slow (criu probes the kernel): call it in a thread, once."""
    name, kernel = config.node.name, platform.release()
    version = _criu_version()
    if version:
        criu.warm_up()
    return NodeFacts(
        node=name,
        address=config.node.address,
        door_port=config.node.door_port,
        version=martlet.__version__,
        protocol=wire.PROTOCOL,
        kernel=kernel,
        cores=float(os.cpu_count() or 1),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        criu=version,
        cpu_flags=tuple(sorted(_cpu_flags() & CPU_FLAGS_THAT_MATTER)),
        images=tuple(ImageRef(name=image.name, digest=image.digest) for image in store.all_images(config.paths.images)),
        faults=tuple(check.faults_of(criu=version, kernel=kernel, node=name)),
    )


def _criu_version() -> str:
    try:
        return criu.version()
    except ToolFailed:
        return ""


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()
