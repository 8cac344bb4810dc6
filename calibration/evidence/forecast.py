"""Forecast profiles: a device's datasheet and the nearest fitted device, without any run. Their intervals are wide, and say so.

`python -m budjoule.calibration.evidence.forecast` writes them among the profiles that ship.
"""

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

from budjoule.calibration.prior import prior_for
from budjoule.energy.device import DeviceSpec, load_profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A device without runs: its datasheet and the fitted device it is closest to."""

    title: str
    nearest: str
    source: str
    spec: DeviceSpec


FORECASTS = {
    "a100-sxm-80gb": Forecast(
        title="NVIDIA A100 SXM 80 GB",
        nearest="a100-pcie-40gb",
        source="NVIDIA A100 datasheet (2021); idle power as read on such boards, data of arXiv 2604.20105",
        spec=DeviceSpec(
            kind="gpu",
            units=108,
            lanes=64,
            clock_hz=1.41e9,
            min_clock_hz=210e6,
            flop_per_clock={"fp32": 128, "tf32": 1024, "bf16": 2048, "fp16": 2048, "int8": 4096, "fp64": 64},
            dram_bytes_per_s=2039e9,
            cache_bytes=40e6,
            memory_bytes=80e9,
            power_limit_w=400.0,
            idle_w=60.0,
        ),
    ),
    "h200-sxm-141gb": Forecast(
        title="NVIDIA H200 SXM 141 GB",
        nearest="h100-sxm-80gb",
        source="NVIDIA H200 datasheet (2024): the H100's chip with 141 GB of HBM3e at 4.8 TB/s",
        spec=DeviceSpec(
            kind="gpu",
            units=132,
            lanes=128,
            clock_hz=1.98e9,
            min_clock_hz=345e6,
            flop_per_clock={"fp32": 256, "tf32": 2048, "bf16": 4096, "fp16": 4096, "int8": 8192, "fp64": 128},
            dram_bytes_per_s=4800e9,
            cache_bytes=50e6,
            memory_bytes=141e9,
            power_limit_w=700.0,
            idle_w=75.0,
        ),
    ),
    "l40s": Forecast(
        title="NVIDIA L40S 48 GB",
        nearest="a10-pcie-24gb",
        source="NVIDIA L40S datasheet (2023) and Ada architecture white paper: 142 SMs at 2.52 GHz, 96 MB of L2; idle power assumed",
        spec=DeviceSpec(
            kind="gpu",
            units=142,
            lanes=128,
            clock_hz=2.52e9,
            min_clock_hz=210e6,
            flop_per_clock={"fp32": 256, "tf32": 512, "bf16": 1024, "fp16": 1024, "int8": 2048, "fp64": 4},
            dram_bytes_per_s=864e9,
            cache_bytes=96e6,
            memory_bytes=48e9,
            power_limit_w=350.0,
            idle_w=35.0,
        ),
    ),
    "rtx-4090": Forecast(
        title="NVIDIA GeForce RTX 4090 24 GB",
        nearest="a10-pcie-24gb",
        source="NVIDIA Ada architecture white paper (2022): 128 SMs at 2.52 GHz, 72 MB of L2, 1008 GB/s; tensor rate with fp32 accumulation is half; idle power assumed",
        spec=DeviceSpec(
            kind="gpu",
            units=128,
            lanes=128,
            clock_hz=2.52e9,
            min_clock_hz=210e6,
            flop_per_clock={"fp32": 256, "tf32": 256, "bf16": 512, "fp16": 512, "int8": 2048, "fp64": 4},
            dram_bytes_per_s=1008e9,
            cache_bytes=72e6,
            memory_bytes=24e9,
            power_limit_w=450.0,
            idle_w=20.0,
        ),
    ),
}


def main() -> None:
    """Write every forecast."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for name, forecast in FORECASTS.items():
        profile = prior_for(forecast.spec, load_profile(forecast.nearest), name=name, title=forecast.title)
        provenance = {
            "date": today,
            "prior": forecast.nearest,
            "source": forecast.source,
            "runs": "none: no run on this device stands behind it",
        }
        path = replace(profile, provenance=provenance, exercised=()).save(
            Path(__file__).parent / "profiles" / f"{name}.toml"
        )
        print(f"wrote {path.name}, from {forecast.nearest}")


if __name__ == "__main__":
    main()
