"""What a user may choose about rendered files; the plan decides the rest."""

import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

EngineChoice = Literal["auto", "vllm", "motley"]
"""`auto`: vLLM on GPUs, `motley serve` on CPU hosts."""

Files = Mapping[str, str]
"""Path below the rendered folder to the file's text."""

VLLM_IMAGES = {
    "nvidia": "vllm/vllm-openai:v0.32.0",
    "amd": "vllm/vllm-openai-rocm:v0.32.0",
    "cpu": "vllm/vllm-openai-cpu:v0.32.0",
}
"""Vendor to the image its replicas run. The engine flags rendered are those of vLLM 0.32."""


def free_ports(number: int) -> tuple[int, ...]:
    """Return ports of the loopback address that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """Choices that no plan holds."""

    engine: EngineChoice = "auto"
    """What serves a model."""
    vllm_image: str | None = None
    """Container image of vLLM replicas; None: `VLLM_IMAGES`, by vendor."""
    motley_image: str = "motley:0.1.0"
    """Container image of the router and of `motley serve`; the rendered Dockerfile builds it."""
    motley_command: tuple[str, ...] = (sys.executable, "-m", "motley")
    """Words that run Motley on this machine, for the local target: by default this very one."""
    ports: Callable[[int], tuple[int, ...]] = free_ports
    """Gives that many free ports of this machine, for the local target."""
