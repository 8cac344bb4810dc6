"""The coefficients of the time and energy model: one row each, with its unit, meaning, prior and where the prior comes from.

All are positive and are fitted as logarithms. `sd` is the standard deviation of the logarithm of what such devices have in
common; `device_sd` is how far one device may lie from that, and from a similar device whose fitted profile serves as prior.
"""

from dataclasses import dataclass
from typing import Literal

ASSUMED = "assumed: engineering estimate"
HOROWITZ = "scaled from Horowitz, Computing's energy problem, ISSCC 2014, doi:10.1109/ISSCC.2014.6757323"
ZEROS = "data-dependent GPU power, up to about 40 % of it: Gregersen, Patel, Choukse, arXiv 2409.18324"
WINOGRAD = "Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016, arXiv 1509.09308"
LOOPS = "assumed; `budjoule calibrate` finds 18 to 23 with PyTorch 2.13 on an AMD EPYC"
EAGER = "assumed: PyTorch eager overheads on server CPUs, a few microseconds an operator"


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One coefficient: its name, unit, meaning and the priors for a GPU and for a CPU."""

    name: str
    unit: str
    meaning: str
    gpu: float
    cpu: float
    sd: float
    device_sd: float
    scope: Literal["time", "energy"]
    source: str = ASSUMED


_T: Literal["time"] = "time"
_E: Literal["energy"] = "energy"

COEFFICIENTS: tuple[Coefficient, ...] = (
    Coefficient(
        "eff_tensor", "1", "share of the matrix unit's peak that a large product reaches", 0.75, 0.6, 0.15, 0.15, _T
    ),
    Coefficient("eff_fp32", "1", "the same for fp32 products on the vector lanes", 0.85, 0.6, 0.1, 0.15, _T),
    Coefficient("eff_batched_tensor", "1", "the same for batched products", 0.5, 0.35, 0.3, 0.2, _T),
    Coefficient("eff_batched_fp32", "1", "the same for batched fp32 products", 0.6, 0.35, 0.3, 0.2, _T),
    Coefficient("eff_conv", "1", "the same for convolutions, as implicit products", 0.5, 0.5, 0.3, 0.2, _T),
    Coefficient(
        "eff_depthwise", "1", "share of the vector peak that a depthwise convolution reaches", 0.15, 0.15, 0.4, 0.3, _T
    ),
    Coefficient(
        "eff_conv_fp32",
        "1",
        "the same for fp32 convolutions; Winograd's saves products",
        1.0,
        0.5,
        0.15,
        0.15,
        _T,
        WINOGRAD,
    ),
    Coefficient(
        "eff_depthwise_grad",
        "1",
        "the same for its gradients, on a GPU over a vector peak of as many lanes as multiply integers",
        0.01,
        0.05,
        1.0,
        0.4,
        _T,
    ),
    Coefficient(
        "k_start", "1", "inner dimension at which starting up costs as much as the product", 250.0, 30.0, 0.2, 0.2, _T
    ),
    Coefficient(
        "k_start_fp32",
        "1",
        "the same on the vector lanes, which are slower and so hide it better",
        20.0,
        20.0,
        0.2,
        0.2,
        _T,
    ),
    Coefficient("cycles_light", "clock", "lane cycles an element of a light op takes", 2.0, 1.0, 0.5, 0.3, _T),
    Coefficient(
        "cycles_heavy", "clock", "lane cycles an element of a transcendental op takes", 8.0, 12.0, 0.5, 0.3, _T
    ),
    Coefficient(
        "cycles_loop",
        "clock",
        "core cycles of an element that a processor's kernel takes singly, as in pooling and random numbers",
        16.0,
        16.0,
        0.4,
        0.3,
        _T,
        LOOPS,
    ),
    Coefficient("eff_dram", "1", "share of the DRAM bandwidth that is reached", 0.82, 0.7, 0.1, 0.2, _T),
    Coefficient(
        "cache_frac", "1", "share of the last-level cache that keeps activations between ops", 0.5, 0.5, 0.5, 0.3, _T
    ),
    Coefficient(
        "t_kernel_s", "s", "start and drain of one kernel on the device at its top clock", 2e-6, 1e-6, 0.2, 0.2, _T
    ),
    Coefficient("t_launch_s", "s", "host time of one kernel launch", 7e-6, 3e-6, 0.3, 0.4, _T, EAGER),
    Coefficient(
        "t_product_s", "s", "host time a matrix product takes beyond a launch", 3e-6, 3e-6, 0.7, 0.4, _T, EAGER
    ),
    Coefficient("t_conv_s", "s", "host time a convolution takes beyond a launch", 10e-6, 10e-6, 0.7, 0.4, _T, EAGER),
    Coefficient("t_view_s", "s", "host time of a view", 1e-6, 1e-6, 0.5, 0.4, _T, EAGER),
    Coefficient("t_module_s", "s", "host time of a module call", 4e-6, 3e-6, 0.5, 0.4, _T, EAGER),
    Coefficient(
        "e_tensor_j",
        "J/FLOP",
        "fp16, bf16 or int8 operation on the matrix unit",
        0.5e-12,
        20e-12,
        0.3,
        0.3,
        _E,
        HOROWITZ,
    ),
    Coefficient("e_tf32_j", "J/FLOP", "tf32 operation on the matrix unit", 1.0e-12, 40e-12, 0.3, 0.3, _E, HOROWITZ),
    Coefficient("e_fp32_j", "J/FLOP", "fp32 operation on the vector lanes", 3.5e-12, 40e-12, 0.3, 0.3, _E, HOROWITZ),
    Coefficient(
        "zeros_frac",
        "1",
        "share of a product's energy that is left when a ReLU wrote its input",
        0.62,
        0.95,
        0.15,
        0.1,
        _E,
        ZEROS,
    ),
    Coefficient("e_light_j", "J", "element of a light op", 20e-12, 100e-12, 0.5, 0.4, _E, HOROWITZ),
    Coefficient("e_heavy_j", "J", "element of a transcendental op", 60e-12, 400e-12, 0.5, 0.4, _E, HOROWITZ),
    Coefficient("e_dram_j", "J/B", "byte moved to or from DRAM", 40e-12, 80e-12, 0.25, 0.5, _E, HOROWITZ),
    Coefficient(
        "busy_frac",
        "1",
        "power while products run (on a CPU, any op) that follows the cores' clock, beyond all of the above, as a share of the power limit",
        0.1,
        0.25,
        0.7,
        0.4,
        _E,
    ),
    Coefficient(
        "memory_frac",
        "1",
        "power of a GPU while other ops stream through its memory, which its cores' clock does not change, as a share of the power limit",
        0.05,
        0.05,
        0.7,
        0.4,
        _E,
    ),
    Coefficient(
        "host_frac",
        "1",
        "power while a context is open, beyond idle, as a share of the power limit",
        0.04,
        0.02,
        0.6,
        0.7,
        _E,
    ),
    Coefficient("leak_frac", "1", "growth of dynamic energy by leakage at the top clock", 0.1, 0.1, 0.7, 0.5, _E),
    Coefficient("idle_frac", "1", "idle power over the profile's idle figure", 1.0, 1.0, 0.05, 0.1, _E),
)

NAMES: tuple[str, ...] = tuple(row.name for row in COEFFICIENTS)
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
