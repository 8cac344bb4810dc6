"""The time and energy model: a workload's features on a device, and the equations that turn them into seconds and joules.

Everything is vectorised over settings (rows: coefficients and clocks) and ops (columns), so that an interval, a sweep
over clocks and a fit over many runs are each one pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from budjoule.energy.coefficients import INDEX
from budjoule.energy.quantisation import TENSOR_TILES, VECTOR_TILES, excess
from budjoule.energy.workload import OpCost, Workload

if TYPE_CHECKING:
    from budjoule.energy.device import DeviceProfile, DeviceSpec

DEPTHWISE = ("depthwise", "depthwise_grad")
PRODUCTS = ("matmul", "batched_matmul", "conv", "attention")
# Coefficients that a product's unit and kind select.
EFFICIENCY = {
    ("matmul", True): "eff_tensor",
    ("matmul", False): "eff_fp32",
    ("batched_matmul", True): "eff_batched_tensor",
    ("batched_matmul", False): "eff_batched_fp32",
    ("attention", True): "eff_batched_tensor",
    ("attention", False): "eff_batched_fp32",
    ("conv", True): "eff_conv",
    ("conv", False): "eff_conv_fp32",
    ("depthwise_grad", True): "eff_depthwise_grad",
    ("depthwise_grad", False): "eff_depthwise_grad",
    ("depthwise", True): "eff_depthwise",
    ("depthwise", False): "eff_depthwise",
}
OVERLAP_PRODUCT = 1.3
OVERLAP_ELEMENTWISE = 6.0
OVERLAP_HOST = 8.0
LIMIT_SHARPNESS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """A workload's unique ops as arrays, for one device spec. Each is `(op,)` unless said otherwise."""

    row_of: np.ndarray  # index of the unique op behind each row of work.ops `(row,)`
    row_calls: np.ndarray  # `(row,)`
    calls: np.ndarray
    product: np.ndarray  # bool: runs on a matrix or vector unit as a product
    filled_clocks: np.ndarray  # FLOP x excess / (units x FLOP per clock): clocks at full efficiency
    inverse_k: np.ndarray
    k_start: np.ndarray  # index of the coefficient of starting up
    efficiency: np.ndarray  # index of the efficiency coefficient
    flop: np.ndarray
    flop_energy: np.ndarray  # index of the coefficient of joules a FLOP
    zeros: np.ndarray  # bool
    light: np.ndarray  # elements over all lanes
    heavy: np.ndarray
    activation_bytes: np.ndarray
    weight_bytes: np.ndarray
    launches: np.ndarray
    products: np.ndarray  # host cost: is a product
    convs: np.ndarray
    views: np.ndarray
    module_calls: float


def unit_precision(op: OpCost, spec: "DeviceSpec") -> str:
    """The precision of the unit an op runs on: fp32 convolutions take TF32 where the device has it (PyTorch's default)."""
    if op.precision == "fp32" and op.kind == "conv" and "tf32" in spec.flop_per_clock:
        return "tf32"
    return op.precision if op.precision in spec.flop_per_clock else "fp32"


def features(work: Workload, spec: "DeviceSpec") -> Features:
    """The arrays that the equations need, with equal ops merged; kept with the workload for the next call."""
    cache: dict[int, tuple[object, Features]] = work.__dict__.setdefault("_features", {})
    if id(spec) in cache and cache[id(spec)][0] is spec:  # an unpickled workload brings entries of another process
        return cache[id(spec)][1]
    unique: dict[tuple[object, ...], int] = {}
    row_of = np.empty(len(work.ops), dtype=np.intp)
    chosen: list[OpCost] = []
    for i, op in enumerate(work.ops):
        key = (
            op.kind,
            op.precision,
            op.flop,
            op.elements,
            op.heavy_elements,
            op.activation_bytes,
            op.weight_bytes,
            op.launches,
            op.product,
            op.zeros,
        )
        row_of[i] = unique.setdefault(key, len(unique))
        if row_of[i] == len(chosen):
            chosen.append(op)
    row_calls = np.array([op.calls for op in work.ops], dtype=float)
    made = _arrays(chosen, spec, row_of, row_calls, float(work.module_calls))
    cache[id(spec)] = (spec, made)  # the spec is kept so that its id is not given to another
    return made


def _arrays(
    ops: list[OpCost], spec: "DeviceSpec", row_of: np.ndarray, row_calls: np.ndarray, module_calls: float
) -> Features:
    def column(values: list[float]) -> np.ndarray:
        return np.array(values, dtype=float)

    units = [unit_precision(op, spec) for op in ops]
    shape = column([x for op in ops for x in (op.product or (1, 1, 1, 1))]).reshape(-1, 4).T
    tensor = np.array([unit != "fp32" for unit in units], dtype=bool)
    kind = np.array([op.kind for op in ops])
    product = np.isin(kind, PRODUCTS) | np.isin(kind, DEPTHWISE)
    flop = column([op.flop for op in ops])
    fill = np.ones(len(ops))
    if spec.kind == "gpu":
        for select, tiles in ((tensor, TENSOR_TILES), (~tensor, VECTOR_TILES)):
            chosen = select & np.isin(kind, PRODUCTS)
            if chosen.any():
                batch, m, n, k = shape[:, chosen]
                fill[chosen] = excess(batch, m, n, k, spec.units, tiles)
    peak = column(
        [
            spec.units * spec.peak_flop_per_clock("fp32" if op.kind in DEPTHWISE else unit)
            for op, unit in zip(ops, units, strict=True)
        ]
    )
    joules_of = {"fp32": "e_fp32_j", "tf32": "e_tf32_j"}
    lanes = spec.units * spec.lanes
    return Features(
        row_of=row_of,
        row_calls=row_calls,
        calls=np.bincount(row_of, weights=row_calls, minlength=len(ops)),
        product=product,
        filled_clocks=flop * fill / peak,
        # fused attention runs its inner dimension through one kernel: nothing starts up anew
        inverse_k=np.where(np.isin(kind, ("matmul", "batched_matmul", "conv")), 1 / np.maximum(shape[3], 1), 0.0),
        k_start=np.where(tensor, INDEX["k_start"], INDEX["k_start_fp32"]),
        efficiency=np.array(
            [INDEX[EFFICIENCY.get((op.kind, unit != "fp32"), "eff_fp32")] for op, unit in zip(ops, units, strict=True)],
            dtype=np.intp,
        ),
        flop=flop,
        flop_energy=np.array(
            [
                INDEX["e_fp32_j" if op.kind in DEPTHWISE else joules_of.get(unit, "e_tensor_j")]
                for op, unit in zip(ops, units, strict=True)
            ],
            dtype=np.intp,
        ),
        zeros=np.array([op.zeros for op in ops], dtype=bool),
        light=column([op.elements - op.heavy_elements for op in ops]) / lanes,
        heavy=column([op.heavy_elements for op in ops]) / lanes,
        activation_bytes=column([op.activation_bytes for op in ops]),
        weight_bytes=column([op.weight_bytes for op in ops]),
        launches=column([op.launches for op in ops]),
        products=np.isin(kind, ("matmul", "batched_matmul", "attention")).astype(float),
        convs=np.isin(kind, ("conv", *DEPTHWISE)).astype(float),
        views=(kind == "view").astype(float),
        module_calls=module_calls,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the equations give for each setting, and for each op of each setting."""

    duration_s: np.ndarray  # `(setting,)`
    energy_j: np.ndarray
    idle_energy_j: np.ndarray
    op_duration_s: np.ndarray  # one call of each op; weighted by calls they add up to duration_s `(setting, op)`
    op_energy_j: np.ndarray


def cost(f: Features, profile: "DeviceProfile", log_coef: np.ndarray, clock_hz: np.ndarray) -> Cost:
    """Time and energy of a workload for each setting of coefficients and clock.

    ``t_op   = (t_math^q + t_dram^q)^(1/q) + launches t_kernel``
    ``t_math = FLOP excess (1 + K0/K) / (units FLOP_per_clock f eff)``, and ``(light c_light + heavy c_heavy) / (lanes f)`` for elements
    ``t_dram = (miss activation_bytes + weight_bytes) / (bandwidth eff_dram)``, ``miss = a^2 / (a^2 + (cache_frac cache)^2)``
    ``T_host = t_launch launches + t_product products + t_conv convs + t_view views + t_module module_calls``
    ``t      = (T_gpu^8 + T_host^8)^(1/8)`` on a GPU, ``T_gpu + T_host`` on a CPU, where the host does the work itself
    ``E      = (idle P_idle(f) + P_host) t + V^2 leak(f) (sum_u e_u FLOP (1 + K0/K) zeros + e_elem elements + P_busy f/f_max T_gpu) + e_dram bytes``

    Time and energy are given to the ops in proportion to their part in each term (Euler's theorem: t is homogeneous in its parts).

    Args:
        f: The workload on this device.
        profile: Gives spec, idle power and voltage against clock.
        log_coef: Logarithms of the coefficients. `(setting, coefficient)`
        clock_hz: Clock of each setting. `(setting,)` [Hz]

    Source: the energy roofline of Choi, Bedard, Fowler, Vuduc, IPDPS 2013, doi:10.1109/IPDPS.2013.77, with launch, cache,
        quantisation, voltage and leakage terms added.
    """
    spec = profile.spec
    x = np.exp(log_coef)

    def coef(name: str) -> np.ndarray:
        column: np.ndarray = x[:, INDEX[name], None]
        return column

    clock = clock_hz[:, None]
    t_math = f.filled_clocks * (1 + x[:, f.k_start] * f.inverse_k) / (clock * x[:, f.efficiency])
    t_elem = (f.light * coef("cycles_light") + f.heavy * coef("cycles_heavy")) / clock
    cached = coef("cache_frac") * spec.cache_bytes
    squared = f.activation_bytes**2
    dram_bytes = f.activation_bytes * squared / (squared + cached**2) + f.weight_bytes
    t_dram = dram_bytes / (spec.dram_bytes_per_s * coef("eff_dram"))
    t_math = t_math + t_elem
    t_work = np.where(f.product, _norm(t_math, t_dram, OVERLAP_PRODUCT), _norm(t_math, t_dram, OVERLAP_ELEMENTWISE))
    t_op = t_work + f.launches * coef("t_kernel_s") * spec.clock_hz / clock
    t_host = (
        f.launches * coef("t_launch_s")
        + f.products * coef("t_product_s")
        + f.convs * coef("t_conv_s")
        + f.views * coef("t_view_s")
    )

    device_s = t_op @ f.calls
    ops_host_s = t_host @ f.calls
    host_s = ops_host_s + f.module_calls * x[:, INDEX["t_module_s"]]
    if spec.kind == "gpu":
        longest = np.maximum(device_s, host_s)
        a, b = (device_s / longest) ** OVERLAP_HOST, (host_s / longest) ** OVERLAP_HOST
        duration_s = longest * (a + b) ** (1 / OVERLAP_HOST)
        device_part = a / (a + b)
    else:
        duration_s = device_s + host_s
        device_part = device_s / duration_s
    safe_host = np.where(ops_host_s > 0, ops_host_s, 1.0)
    op_duration_s = (
        t_op * (duration_s * device_part / device_s)[:, None]
        + t_host * (duration_s * (1 - device_part) / safe_host)[:, None]
    )

    share = clock_hz / spec.clock_hz
    dynamic = profile.voltage_ratio(clock_hz) ** 2 * (1 + x[:, INDEX["leak_frac"]] * np.maximum(share - 0.6, 0) / 0.4)
    lanes = spec.units * spec.lanes
    idle_w = x[:, INDEX["idle_frac"]] * profile.idle_w(clock_hz)
    floor_w = idle_w + x[:, INDEX["host_frac"]] * spec.power_limit_w
    busy_w = x[:, INDEX["busy_frac"]] * spec.power_limit_w * share
    op_dynamic_j = (
        x[:, f.flop_energy] * f.flop * (1 + x[:, f.k_start] * f.inverse_k) * np.where(f.zeros, coef("zeros_frac"), 1.0)
        + lanes * (f.light * coef("e_light_j") + f.heavy * coef("e_heavy_j"))
        + busy_w[:, None] * t_op
    )
    op_energy_j = floor_w[:, None] * op_duration_s + dynamic[:, None] * op_dynamic_j + coef("e_dram_j") * dram_bytes
    return Cost(
        duration_s=duration_s,
        energy_j=op_energy_j @ f.calls + floor_w * (duration_s - op_duration_s @ f.calls),
        idle_energy_j=idle_w * duration_s,
        op_duration_s=op_duration_s,
        op_energy_j=op_energy_j,
    )


def _norm(a: np.ndarray, b: np.ndarray, q: float) -> np.ndarray:
    longest = np.maximum(np.maximum(a, b), 1e-30)
    shorter = np.minimum(a, b) / longest
    result: np.ndarray = longest * (1 + shorter**q) ** (1 / q)
    return result


def under_power_limit(
    f: Features,
    profile: "DeviceProfile",
    log_coef: np.ndarray,
    clock_hz: np.ndarray,
    limit_w: np.ndarray,
    *,
    locked: bool = False,
) -> tuple[np.ndarray, Cost]:
    """Lower each setting's clock until its mean power fits the limit, and give the clock and the cost there.

    The governor holds the power of short spans under the limit, and a step's ops differ: the mean stays below it where the
    limit is near the free power. ``P = (P_free^-s + P_limit^-s)^(-1/s)``, s = 5: ResNet-50 on a V100 that draws 222 W free
    is measured at 207, 185 and 144 W under limits of 225, 200 and 150 W (data of Zeus, NSDI 2023).

    Args:
        limit_w: Board power limit of each setting. `(setting,)` [W]
        locked: The clock was set and not left to a GPU's governor: it falls only where the mean power passes the limit.

    Returns:
        Clock of each setting, at least the spec's lowest, `(setting,)` [Hz]; and the cost at that clock.
    """
    at_top = cost(f, profile, log_coef, clock_hz)
    top_w = _power_w(at_top)
    soft_w = (top_w**-LIMIT_SHARPNESS + limit_w**-LIMIT_SHARPNESS) ** (-1 / LIMIT_SHARPNESS)
    target_w = np.minimum(top_w, limit_w) if locked or profile.spec.kind == "cpu" else soft_w
    over = target_w < 0.998 * top_w
    if not over.any():
        return clock_hz, at_top
    lowest = np.minimum(clock_hz, max(profile.spec.min_clock_hz, 0.1 * profile.spec.clock_hz))
    solved = _root(
        lambda clock: _power_w(cost(f, profile, log_coef, clock)) - target_w, lowest, clock_hz, top_w - target_w
    )
    clock_hz = np.where(over, solved, clock_hz)
    return clock_hz, cost(f, profile, log_coef, clock_hz)


def _power_w(result: Cost) -> np.ndarray:
    power_w: np.ndarray = result.energy_j / result.duration_s
    return power_w


def _root(
    excess: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray, at_high: np.ndarray
) -> np.ndarray:
    """Where a rising function passes zero between `low` and `high`, or `low` where it is above zero there already.

    Source: regula falsi with the Illinois rule, Dowell and Jarratt, BIT 11, 1971, doi:10.1007/BF01934364.
    """
    at_low = excess(low)
    stuck = at_low >= 0
    side = np.zeros_like(low)
    middle = low
    for _ in range(12):
        width = np.where(at_high > at_low, at_high - at_low, 1.0)
        middle = np.where(stuck, low, low - at_low * (high - low) / width)
        value = excess(middle)
        above = value > 0
        at_low = np.where(above & (side > 0), at_low / 2, at_low)
        at_high = np.where(~above & (side < 0), at_high / 2, at_high)
        low, at_low = np.where(above | stuck, low, middle), np.where(above, at_low, value)
        high, at_high = np.where(above & ~stuck, middle, high), np.where(above, value, at_high)
        side = np.where(above, 1.0, -1.0)
        if np.all(stuck | (np.abs(value) < 1e-7)):
            break
    return middle
