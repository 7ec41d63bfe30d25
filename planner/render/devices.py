"""How clusters and clouds call the devices of the catalogue.

Sources: labels of NVIDIA's GPU feature discovery (`nvidia.com/gpu.product`: the product name of
`nvidia-smi -L`, blanks replaced by dashes) and of AMD's node labeller (`amd.com/gpu.product-name`);
SkyPilot 0.14's list of accelerators (`sky show-gpus --all`); cores from the sources in `gpus.yaml`.
"""

from dataclasses import dataclass
from typing import Literal

from planner.fleet.fleet_plan import FleetPlan
from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.gpu_spec import GpuSpec

Vendor = Literal["nvidia", "amd", "cpu"]

OWN_LABEL = "motley/device"
"""Node label for devices whose product label is not known here; whoever runs the cluster sets it."""

_PRODUCT_LABELS = {"nvidia": "nvidia.com/gpu.product", "amd": "amd.com/gpu.product-name"}

_PRODUCTS = {
    "T4": "Tesla-T4",
    "L4": "NVIDIA-L4",
    "A10G": "NVIDIA-A10G",
    "L40S": "NVIDIA-L40S",
    "A40": "NVIDIA-A40",
    "RTX-4090": "NVIDIA-GeForce-RTX-4090",
    "A100-40GB": "NVIDIA-A100-SXM4-40GB",
    "A100-80GB": "NVIDIA-A100-SXM4-80GB",
    "A100-80GB-PCIe": "NVIDIA-A100-80GB-PCIe",
    "H100-PCIe": "NVIDIA-H100-PCIe",
    "H100-SXM": "NVIDIA-H100-80GB-HBM3",
    "H200": "NVIDIA-H200",
    "B200": "NVIDIA-B200",
    "MI300X": "AMD_Instinct_MI300X_OAM",
}

_SKYPILOT_NAMES = {
    "RTX-4090": "RTX4090",
    "A100-40GB": "A100",
    "A100-80GB-PCIe": "A100-80GB",
    "H100-PCIe": "H100",
    "H100-SXM": "H100",
}

_CORES = {"cpu-xeon-8480": 56, "cpu-epyc-9654": 96}


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the plan, and what others call it."""

    spec: GpuSpec
    vendor: Vendor

    @property
    def resource(self) -> str | None:
        """Kubernetes resource that counts it; None: a CPU host."""
        return None if self.vendor == "cpu" else f"{self.vendor}.com/gpu"

    @property
    def node_label(self) -> tuple[str, str]:
        """Key and value of the label of nodes that have it."""
        product = _PRODUCTS.get(self.spec.name)
        if product is None or self.vendor == "cpu":
            return OWN_LABEL, self.spec.name
        return _PRODUCT_LABELS[self.vendor], product

    @property
    def skypilot_name(self) -> str:
        """What SkyPilot calls the accelerator."""
        return _SKYPILOT_NAMES.get(self.spec.name, self.spec.name)

    @property
    def cores(self) -> int | None:
        """Cores of a CPU host; None: not known, or a GPU."""
        return _CORES.get(self.spec.name)


def find_devices(plan: FleetPlan) -> dict[str, Device]:
    """Return the plan's devices by name: described in the plan itself, else in the catalogue.

    Raises:
        UnknownNameError: If one is in neither.
    """
    own = {gpu.name: gpu for gpu in plan.gpus}
    names = {row.gpu for row in plan.replicas if row.gpu is not None}
    catalogue = built_in_catalogue() if names - own.keys() else None
    devices = {}
    for name in sorted(names):
        spec = own[name] if catalogue is None or name in own else catalogue.gpu(name)
        devices[name] = Device(spec, _vendor(spec))
    return devices


def _vendor(spec: GpuSpec) -> Vendor:
    if spec.kind == "cpu":
        return "cpu"
    return "amd" if spec.interconnect.kind == "infinity-fabric" else "nvidia"
