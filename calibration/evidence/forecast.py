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
    """A device without runs: its datasheet, and the fitted device it shares a chip or cores with, else what such devices have in common.

    The accuracy benchmark forecasts each fitted device from what the others have in common (`0 of its runs`).
    """

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
        nearest="a40-pcie-48gb",
        source="NVIDIA L40S datasheet (2023) and Ada architecture white paper: 142 SMs at 2.52 GHz, 96 MB of L2; idle power as the A40's, with the memory at full clock (assumed)",
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
            idle_w=75.0,
            integers_share_lanes=True,
        ),
    ),
    "rtx-4090": Forecast(
        title="NVIDIA GeForce RTX 4090 24 GB",
        nearest="a40-pcie-48gb",
        source="NVIDIA Ada architecture white paper (2022): 128 SMs at 2.52 GHz, 72 MB of L2, 1008 GB/s; tensor rate with fp32 accumulation is half; idle power with the memory at full clock assumed",
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
            idle_w=55.0,
            integers_share_lanes=True,
        ),
    ),
    "quadro-rtx-6000": Forecast(
        title="NVIDIA Quadro RTX 6000 24 GB (Turing)",
        nearest="gpu-generic",
        source="NVIDIA Quadro RTX 6000 datasheet (2018) and Turing architecture white paper: 72 SMs of 64 lanes beside integer lanes, 1.77 GHz boost, GDDR6 at 672 GB/s; idle power with the memory at full clock assumed",
        spec=DeviceSpec(
            kind="gpu",
            units=72,
            lanes=64,
            clock_hz=1.77e9,
            min_clock_hz=300e6,
            flop_per_clock={"fp32": 128, "fp16": 1024, "int8": 2048, "fp64": 4},
            dram_bytes_per_s=672e9,
            cache_bytes=6e6,
            memory_bytes=24e9,
            power_limit_w=260.0,
            idle_w=55.0,
        ),
    ),
    "khadas-vim4": Forecast(
        title="Khadas VIM4 (4 x Cortex-A73, 4 x Cortex-A53)",
        nearest="odroid-n2-plus",
        source="Amlogic A311D2 and Khadas VIM4 datasheets (2022): 4 Cortex-A73 at 2.2 GHz, LPDDR4X-2016 on 64 bits; the big cores alone; idle power assumed",
        spec=DeviceSpec(
            kind="cpu",
            units=4,
            lanes=4,
            clock_hz=2.2e9,
            flop_per_clock={"fp32": 8, "int8": 16},
            dram_bytes_per_s=16.1e9,
            cache_bytes=1e6,
            memory_bytes=8e9,
            power_limit_w=12.0,
            idle_w=2.6,
        ),
    ),
    "jetson-agx-xavier-cpu": Forecast(
        title="NVIDIA Jetson AGX Xavier, CPU (8 x Carmel)",
        nearest="arm-board-generic",
        source="NVIDIA Jetson AGX Xavier datasheet (2018): 8 Carmel (Armv8.2) cores at 2.26 GHz, LPDDR4X at 137 GB/s, 4 MB of L3; idle power of the board assumed",
        spec=DeviceSpec(
            kind="cpu",
            units=8,
            lanes=4,
            clock_hz=2.26e9,
            flop_per_clock={"fp32": 16, "int8": 32},
            dram_bytes_per_s=136.5e9,
            cache_bytes=4e6,
            memory_bytes=32e9,
            power_limit_w=50.0,
            idle_w=9.0,
        ),
    ),
}


def main() -> None:
    """Write every forecast."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for name, forecast in FORECASTS.items():
        nearest = load_profile(forecast.nearest)
        profile = prior_for(forecast.spec, nearest, name=name, title=forecast.title)
        provenance = {
            "date": today,
            "prior": forecast.nearest,
            "source": forecast.source,
            "runs": "none: no run on this device stands behind it",
        }
        # what the nearest device speaks for and has seen, this one cannot go beyond
        provenance |= {
            key: nearest.provenance[key] for key in ("runtime", "modes", "precisions") if key in nearest.provenance
        }
        path = replace(profile, provenance=provenance, exercised=()).save(
            Path(__file__).parents[1] / "profiles" / f"{name}.toml"
        )
        print(f"wrote {path.name}, from {forecast.nearest}")


if __name__ == "__main__":
    main()
