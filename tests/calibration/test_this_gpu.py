"""Laws of the GPU's datasheet and of NVML's view of it: the right board among several, and a driver that is left closed."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import budjoule as bj
from budjoule.calibration.this_gpu import Board, this_gpu

GPU: dict[str, Any] = {"name": "Example GPU", "multi_processor_count": 40, "total_memory": 12 << 30}
UUIDS = ("aaaa", "bbbb", "cccc")


class NvmlError(Exception):
    pass


def driver(gpus: int = 3, *, unknown: tuple[str, ...] = (), hot: int = 0, starts: bool = True) -> SimpleNamespace:
    """NVML with some GPUs, how many sessions are open, and what it does not know."""
    nvml = SimpleNamespace(NVMLError=NvmlError, sessions=0)

    def refuse(*arguments: Any) -> Any:
        raise NvmlError

    def session(by: int) -> None:
        nvml.sessions += by

    def answering(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*arguments: Any) -> Any:
            assert nvml.sessions == 1
            return refuse() if name in unknown else answer(*arguments)

        return asked

    def by_uuid(uuid: str) -> int:
        known = [f"GPU-{known}" for known in UUIDS[:gpus]]
        return known.index(uuid) if uuid in known else refuse()

    answers: dict[str, Callable[..., Any]] = {
        "nvmlDeviceGetCount": lambda: gpus,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetIndex": lambda handle: handle,
        "nvmlSystemGetDriverVersion": lambda: b"555.42",
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 150_000 + 1000 * handle,
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1200 if kind == 1 else 0,
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: 1500 if kind == 1 else 0,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: hot,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 1_000_000,
        "nvmlDeviceGetPowerUsage": lambda handle: 50_000,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: ["this", "other"],
    }
    nvml.nvmlInit = (lambda: session(1)) if starts else refuse
    nvml.nvmlShutdown = lambda: session(-1)
    nvml.__dict__.update({name: answering(name, answer) for name, answer in answers.items()})
    return nvml


def properties(uuid: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(**GPU, **({"uuid": uuid} if uuid else {}))


def test_board_is_the_one_that_pytorch_uses_and_not_the_first() -> None:
    nvml = driver()
    board = Board(properties("bbbb"), nvml)
    assert board.domain() == "gpu-1"
    assert board.power_limit_w() == pytest.approx(151.0)
    assert board.clock_hz() == pytest.approx(1.2e9)
    assert board.top_clock_hz() == pytest.approx(1.5e9)
    assert board.processes() == 2
    assert board.driver() == "555.42"
    assert nvml.sessions == 0


@pytest.mark.parametrize(("gpus", "domain"), [(1, "gpu-0"), (2, "")])
def test_without_a_uuid_only_a_lone_gpu_is_known(gpus: int, domain: str) -> None:
    nvml = driver(gpus)
    assert Board(properties(), nvml).domain() == domain
    assert nvml.sessions == 0


@pytest.mark.parametrize("nvml", [driver(starts=False), driver(gpus=1)])
def test_what_nvml_does_not_tell_is_none(nvml: SimpleNamespace) -> None:
    board = Board(properties("cccc"), nvml)
    asked = (board.power_limit_w, board.top_clock_hz, board.clock_hz, board.throttle_count, board.processes)
    assert [ask() for ask in asked] == [None] * len(asked)
    assert board.domain() == ""
    assert nvml.sessions == 0


def test_a_board_that_tells_no_energy_has_no_domain() -> None:
    energy, power = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"
    assert Board(properties("aaaa"), driver(unknown=(energy,))).domain() == "gpu-0"
    assert Board(properties("aaaa"), driver(unknown=(energy, power))).domain() == ""


@pytest.mark.parametrize(("reasons", "counted"), [(0x0, 0), (0x4, 0), (0x8, 2), (0x20, 2), (0x44, 2), (0x80, 0)])
def test_heat_is_counted_and_a_power_cap_is_not(reasons: int, counted: int) -> None:
    board = Board(properties("aaaa"), driver(hot=reasons))
    board.throttle_count()
    assert board.throttle_count() == counted


def test_gpu_tells_what_it_can_and_the_rest_is_the_similar_ones_and_named() -> None:
    like = bj.load_profile("a10-pcie-24gb").spec
    bare = this_gpu(properties(), like=like, dram_bytes_per_s=3e11)
    assert bare.title == "Example GPU"
    assert (bare.spec.units, bare.spec.memory_bytes, bare.spec.dram_bytes_per_s) == (40, 12 << 30, 3e11)
    assert bare.spec.lanes == like.lanes
    assert len(bare.assumed) == 5
    told = SimpleNamespace(**GPU, memory_clock_rate=8_000_000, memory_bus_width=256, L2_cache_size=4 << 20)
    full = this_gpu(told, like=like, dram_bytes_per_s=3e11, idle_w=20.0, board=Board(told, driver(gpus=1)))
    assert full.spec.clock_hz == pytest.approx(1.5e9)
    assert full.spec.dram_bytes_per_s == pytest.approx(512e9)
    assert full.spec.cache_bytes == 4 << 20
    assert (full.spec.idle_w, full.spec.power_limit_w) == (20.0, 150.0)
    assert len(full.assumed) == 1
