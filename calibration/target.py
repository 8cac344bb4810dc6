"""What is calibrated: this machine's processor or its GPU, with the counters, clocks and datasheet that are its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from budjoule.calibration.microbenchmarks import PRODUCT, Prepared
from budjoule.calibration.observation import Observation
from budjoule.calibration.reading import Conditions, Meters, Reading, read_step
from budjoule.calibration.this_gpu import CORES_PER_UNIT, Board, this_gpu
from budjoule.calibration.this_machine import ThisMachine, this_machine
from budjoule.energy.device import DeviceProfile, DeviceSpec
from budjoule.energy.errors import RunError, UsageError

COPY_FRAC = 0.8  # share of the peak bandwidth that a large copy reaches
COPY_NAME = "big copy"
GPU_READ_S = (
    1.0  # NVML's counter steps about ten times a second: shorter and its step is a tenth of the energy and more
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is calibrated.

    Args:
        kind: `cpu` or `gpu`, as in `DeviceSpec`.
        device: PyTorch's name of it.
        cores: How many cores it is as strong as.
        meters: The counters that tell its energy, the best first.
        conditions: Where its clock, its throttling and its domain of the counter are read.
        shortest_s: Least time of one microbenchmark that its counter needs. [s]
        synchronize: Waits for a GPU.
        board: NVML's view of a GPU.
    """

    kind: str
    device: str
    cores: int
    meters: Meters = ()
    conditions: Conditions = field(default_factory=Conditions)
    shortest_s: float = 0.0
    synchronize: Callable[[], object] | None = None
    board: Board | None = None

    def processes(self) -> int | None:
        """How many processes compute on a GPU; None for a processor, or where unknown."""
        return self.board.processes() if self.board else None

    def read(self, prepared: Prepared, limit_s: float) -> Reading:
        """Read a microbenchmark for real.

        Raises:
            RunError: The device has too little memory left for it.
        """
        try:
            return read_step(
                prepared.step,
                limit_s=limit_s,
                threads=self.cores if self.kind == "cpu" else None,
                meters=self.meters,
                conditions=self.conditions,
                synchronize=self.synchronize,
            )
        except torch.OutOfMemoryError:
            name = prepared.benchmark.name
            raise RunError(
                f"the GPU's memory does not hold the microbenchmark {name!r}: end what else uses it ('nvidia-smi' lists it)"
            ) from None

    def machine(
        self,
        like: DeviceSpec,
        observations: Mapping[str, Observation],
        idle_w: float | None,
    ) -> ThisMachine:
        """Its datasheet.

        Args:
            like: A similar GPU's.
            observations: What the microbenchmarks took, by their names.
            idle_w: Power at rest, where a counter told it. [W]
        """
        copied = observations[COPY_NAME]
        bandwidth = copied.workload.moved_bytes / copied.duration_s / COPY_FRAC
        if self.kind == "gpu":
            properties = torch.cuda.get_device_properties(0)
            return this_gpu(properties, like=like, dram_bytes_per_s=bandwidth, idle_w=idle_w, board=self.board)
        drawn_w = max((o.energy_j / o.duration_s for o in observations.values() if o.energy_j), default=None)
        products = [o for name, o in observations.items() if name.startswith(PRODUCT.name)]
        return this_machine(
            threads=self.cores,
            dram_bytes_per_s=bandwidth,
            idle_w=idle_w,
            drawn_w=drawn_w,
            product_flop_per_s={o.workload.precision: o.workload.flop / o.duration_s for o in products},
        )


def target_for(base: DeviceProfile) -> Target:
    """What a profile is calibrated on here.

    Raises:
        UsageError: The profile is a GPU's, and PyTorch sees no GPU here.
    """
    if base.spec.kind == "cpu":
        return Target(kind="cpu", device="cpu", cores=torch.get_num_threads(), meters=("rapl", "hwmon", "battery"))
    if not torch.cuda.is_available():
        raise UsageError(
            f"{base.name} is a GPU's profile and PyTorch sees no GPU here; start from cpu-generic to calibrate the processor"
        )
    properties = torch.cuda.get_device_properties(0)
    board = Board(properties)
    domain = board.domain()
    return Target(
        kind="gpu",
        device="cuda",
        cores=CORES_PER_UNIT * properties.multi_processor_count,
        meters=("nvml",) if domain else ("hwmon",),
        conditions=Conditions(clock_hz=board.clock_hz, throttle_count=board.throttle_count, domain=domain),
        shortest_s=GPU_READ_S if domain else 0.0,
        synchronize=torch.cuda.synchronize,
        board=board,
    )
