"""The time and energy model: a workload's features on a device, and the equations that turn them into seconds and joules.

Everything is vectorised over settings (rows: coefficients and clocks) and ops (columns), so that an interval, a sweep
over clocks and a fit over many runs are each one pass.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from budjoule.energy.coefficients import INDEX
from budjoule.energy.quantisation import TENSOR_TILES, VECTOR_TILES, excess
from budjoule.energy.workload import OpCost, Workload

if TYPE_CHECKING:
    from budjoule.energy.device import DeviceProfile, DeviceSpec

DEPTHWISE = ("depthwise", "depthwise_grad")
# Of a recurrent layer's products, as many as wait for the step before: the state's, of the input's and the state's alike; backward the
# state's gradient of four. The others are one product over all steps (Appleyard, Kocisky, Blunsom, 2016, arXiv 1604.01946).
WAITING_FRAC = {"recurrent": 1 / 2, "recurrent_grad": 1 / 4}
CUDNN = ("conv", *WAITING_FRAC)
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
# A step's ops are taken together in so many parts where what counts is how its power swings.
PARTS = 48
TINY = 1e-30  # keeps quotients and roots of nothing finite
# A program issues about 36 integer instructions for every 100 in fp32; lanes that run both have so much less time for the latter.
# Source: NVIDIA Turing GPU architecture white paper, 2018, which gave integers lanes of their own for this reason.
FP32_ISSUE_FRAC = 100 / 136
# Elements that PyTorch gives a thread at least: at::internal::GRAIN_SIZE. Fewer run on one core.
GRAIN = 32768.0
# FLOP a clock of fp32 from which a core is taken to have vectors of 512 bits (assumed: two units of 256 have as many).
WIDE_FLOP_PER_CLOCK = 32.0
# A wider matrix unit is fed by the same shared memory (128 bytes a clock on each of these architectures) and waits more. The exponent
# was looked at on A100, A10 and H100, whose large bf16 products reach 0.70, 0.97 and 0.62 of their peaks at 2048, 1024 and 4096 FLOP a clock.
FEED_EXPONENT = 0.25
FEED_FLOP_PER_CLOCK = 2048.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """A workload's unique ops as arrays, for one device spec. Each is `(op,)` unless said otherwise."""

    row_of: np.ndarray  # index of the unique op behind each row of work.ops `(row,)`
    row_calls: np.ndarray  # `(row,)`
    calls: np.ndarray
    unruled_calls: np.ndarray  # those of ops without a rule of their own
    product: np.ndarray  # bool: runs on a matrix or vector unit as a product
    filled_clocks: np.ndarray  # FLOP x excess / (units x FLOP per clock): clocks at full efficiency
    least_clocks: (
        np.ndarray
    )  # FLOP / (units x FLOP per clock); of fp32 convolutions none, since Winograd's saves products
    inverse_k: np.ndarray
    k_start: np.ndarray  # index of the coefficient of starting up
    efficiency: np.ndarray  # index of the efficiency coefficient
    flop: np.ndarray
    flop_energy: np.ndarray  # index of the coefficient of joules a FLOP
    zeros: np.ndarray  # bool
    lanes: np.ndarray  # lanes that share the elements
    light: np.ndarray  # elements over these lanes
    heavy: np.ndarray
    loop: np.ndarray  # elements over the cores; zero on a GPU
    activation_bytes: np.ndarray
    weight_bytes: np.ndarray
    launches: np.ndarray
    products: np.ndarray  # host cost: is a product
    convs: np.ndarray
    views: np.ndarray
    module_calls: float
    parts: np.ndarray  # calls in each of a step's `PARTS`, in the order they run `(op, part)`


def unit_precision(op: OpCost, spec: "DeviceSpec") -> str:
    """The precision of the unit an op runs on: what cuDNN computes in fp32 takes TF32 where the device has it (PyTorch's default)."""
    if op.precision == "fp32" and op.kind in CUDNN and "tf32" in spec.flop_per_clock:
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
            op.loop_elements,
            op.serial,
            op.activation_bytes,
            op.weight_bytes,
            op.launches,
            op.cpu_launches,
            op.product,
            op.zeros,
        )
        row_of[i] = unique.setdefault(key, len(unique))
        if row_of[i] == len(chosen):
            chosen.append(op)
    row_calls = np.array([op.calls for op in work.ops], dtype=float)
    unruled = np.array([not op.ruled for op in work.ops], dtype=float)
    made = _arrays(
        chosen,
        spec,
        row_of,
        row_calls,
        row_calls * unruled,
        float(work.module_calls),
    )
    cache[id(spec)] = (spec, made)  # the spec is kept so that its id is not given to another
    return made


def _arrays(
    ops: list[OpCost],
    spec: "DeviceSpec",
    row_of: np.ndarray,
    row_calls: np.ndarray,
    row_unruled: np.ndarray,
    module_calls: float,
) -> Features:
    def column(values: list[float]) -> np.ndarray:
        return np.array(values, dtype=float)

    units = [unit_precision(op, spec) for op in ops]
    shape = column([x for op in ops for x in (op.product or (1, 1, 1, 1))]).reshape(-1, 4).T
    tensor = np.array([unit != "fp32" for unit in units], dtype=bool)
    kinds = ["matmul" if op.kind in WAITING_FRAC else op.kind for op in ops]  # a product in all but who computes it
    kind = np.array(kinds)
    product = np.isin(kind, PRODUCTS) | np.isin(kind, DEPTHWISE)
    flop = column([op.flop for op in ops])
    moved = column([op.activation_bytes + op.weight_bytes for op in ops])
    waiting = column([WAITING_FRAC.get(op.kind, 1.0) for op in ops])
    fill = _fill(kind, units, tensor, shape, waiting, spec)
    peak = column(
        [
            spec.units * spec.peak_flop_per_clock("fp32" if op.kind in DEPTHWISE else unit)
            for op, unit in zip(ops, units, strict=True)
        ]
    )
    joules_of = {"fp32": "e_fp32_j", "tf32": "e_tf32_j"}
    on_cpu = spec.kind == "cpu"
    cores = np.full(len(ops), float(spec.units))
    if on_cpu:
        cores = np.clip(column([op.elements for op in ops]) / GRAIN, 1.0, cores)
    lanes = cores * spec.lanes
    return Features(
        row_of=row_of,
        row_calls=row_calls,
        calls=np.bincount(row_of, weights=row_calls, minlength=len(ops)),
        unruled_calls=np.bincount(row_of, weights=row_unruled, minlength=len(ops)),
        product=product,
        filled_clocks=flop * fill / peak,
        least_clocks=np.where((kind == "conv") & ~tensor, 0.0, flop / peak),
        # fused attention runs its inner dimension through one kernel: nothing starts up anew
        inverse_k=np.where(np.isin(kind, ("matmul", "batched_matmul", "conv")), 1 / np.maximum(shape[3], 1), 0.0),
        k_start=np.where(tensor, INDEX["k_start"], INDEX["k_start_fp32"]),
        efficiency=np.array(
            [
                INDEX[EFFICIENCY.get((name, unit != "fp32"), "eff_fp32")]
                for name, unit in zip(kinds, units, strict=True)
            ],
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
        lanes=lanes,
        light=column([op.elements - op.heavy_elements for op in ops]) / lanes,
        heavy=column([op.heavy_elements for op in ops]) / lanes,
        loop=on_cpu
        * column([op.loop_elements for op in ops])
        / np.where(np.array([op.serial for op in ops], dtype=bool), 1.0, cores),
        activation_bytes=column([op.activation_bytes for op in ops]),
        weight_bytes=column([op.weight_bytes for op in ops]),
        launches=column([op.cpu_launches if on_cpu and op.cpu_launches is not None else op.launches for op in ops]),
        products=np.isin(kind, ("matmul", "batched_matmul", "attention")).astype(float),
        convs=np.isin(kind, ("conv", *DEPTHWISE)).astype(float),
        views=(kind == "view").astype(float),
        module_calls=module_calls,
        parts=_parts(flop * fill / (peak * spec.clock_hz) + moved / spec.dram_bytes_per_s, row_of, row_calls),
    )


def _parts(op_s: np.ndarray, row_of: np.ndarray, row_calls: np.ndarray) -> np.ndarray:
    """Calls of each unique op in each of `PARTS` of the step, which take about as long as each other. `(op, part)`"""
    result = np.zeros((op_s.size, PARTS))
    ends = np.cumsum(op_s[row_of] * row_calls)
    starts = ends - op_s[row_of] * row_calls
    cuts = np.linspace(0.0, ends[-1], PARTS + 1) if ends.size else np.zeros(PARTS + 1)
    first = np.clip(np.searchsorted(cuts, starts, side="right") - 1, 0, PARTS - 1)
    last = np.clip(np.searchsorted(cuts, ends, side="left") - 1, first, PARTS - 1)
    for step in range(int((last - first).max(initial=0)) + 1):
        rows = np.flatnonzero(first + step <= last)
        part = first[rows] + step
        within = np.minimum(ends[rows], cuts[part + 1]) - np.maximum(starts[rows], cuts[part])
        whole = ends[rows] - starts[rows]
        share = np.divide(within, whole, out=np.ones(rows.size), where=(whole > 0) & (first[rows] < last[rows]))
        np.add.at(result, (row_of[rows], part), share * row_calls[rows])
    return result


def _fill(
    kind: np.ndarray,
    units: list[str],
    tensor: np.ndarray,
    shape: np.ndarray,
    waiting: np.ndarray,
    spec: "DeviceSpec",
) -> np.ndarray:
    """Time of each product over that of the same FLOP on units that are full and fed. `(op,)`"""
    fill = np.ones(kind.size)
    if spec.kind == "cpu":
        convs, block = kind == "conv", conv_block(spec)
        fill[convs] = np.ceil(shape[2, convs] / block) * block / shape[2, convs]
        return fill
    fed = np.isin(kind, ("matmul", "batched_matmul", "attention"))
    rate = np.array([spec.peak_flop_per_clock(unit) for unit in units], dtype=float)
    fill[tensor & fed] *= (rate[tensor & fed] / FEED_FLOP_PER_CLOCK) ** FEED_EXPONENT
    # gradients of depthwise convolutions spend their time on addresses: whole numbers, multiplied and divided for each product
    fill[kind == "depthwise_grad"] *= spec.lanes / spec.integer_multiplies_per_clock
    if spec.integers_share_lanes:
        fill[~tensor & np.isin(kind, PRODUCTS)] /= FP32_ISSUE_FRAC
    for select, tiles in ((tensor, TENSOR_TILES), (~tensor, VECTOR_TILES)):
        chosen = select & np.isin(kind, PRODUCTS)
        if chosen.any():
            batch, m, n, k = shape[:, chosen]
            steps = np.where(waiting[chosen] < 1, batch, 1.0)
            each = excess(batch / steps, m, n, k, spec.units, tiles)
            whole = excess(batch / steps, steps * m, n, k, spec.units, tiles) if (steps > 1).any() else each
            fill[chosen] *= waiting[chosen] * each + (1 - waiting[chosen]) * whole
    return fill


def conv_block(spec: "DeviceSpec") -> int:
    """Output channels that a processor's convolution takes at once: 16 with vectors of 512 bits, else 8 (oneDNN's blocked layouts)."""
    return 16 if spec.peak_flop_per_clock("fp32") >= WIDE_FLOP_PER_CLOCK else 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one step costs under each setting of coefficients and clock. Each is `(setting,)`."""

    duration_s: np.ndarray
    energy_j: np.ndarray
    idle_energy_j: np.ndarray


class Roofline:
    """The equations of a workload with the coefficients filled in: a clock is all that they lack.

    ``t_op   = (t_math^q + t_dram^q)^(1/q) + launches t_kernel f_max/f``
    ``t_math = FLOP max(1, excess (1 + K0/K) / eff) / (units FLOP_per_clock f)``, and ``(light c_light + heavy c_heavy) / (lanes f) + loop c_loop / (cores f)`` for elements
    ``t_dram = (miss activation_bytes + weight_bytes) / (bandwidth eff_dram)``, ``miss = a^2 / (a^2 + (cache_frac cache)^2)``
    ``T_host = t_launch launches + t_product products + t_conv convs + t_view views + t_module module_calls``
    ``t      = (T_gpu^8 + T_host^8)^(1/8)`` on a GPU, ``T_gpu + T_host`` on a CPU, where the host does the work itself
    ``E      = (idle P_idle(f) + P_host) t + V^2 leak(f) (sum_u e_u FLOP (1 + K0/K) zeros + e_elem elements + P_busy f/f_max T_products) + P_memory sum_others miss t_op + e_dram bytes``,
    with ``P_busy`` for all ops and no ``P_memory`` on a CPU

    Args:
        f: The workload on this device.
        profile: Gives spec, idle power and voltage against clock.
        log_coef: Logarithms of the coefficients; one setting serves any number of clocks. `(setting, coefficient)`

    Source: the energy roofline of Choi, Bedard, Fowler, Vuduc, IPDPS 2013, doi:10.1109/IPDPS.2013.77, with launch, cache,
        quantisation, voltage and leakage terms added.
    """

    def __init__(self, f: Features, profile: "DeviceProfile", log_coef: np.ndarray) -> None:
        spec = profile.spec
        x = np.exp(log_coef)

        def coef(name: str) -> np.ndarray:
            column: np.ndarray = x[:, INDEX[name], None]
            return column

        self.profile = profile
        self.calls = f.calls
        # clocks of maths, seconds of memory, clocks of starting kernels and seconds of the host of each op, `(setting, op)`
        started = 1 + x[:, f.k_start] * f.inverse_k
        math_clocks = (
            np.maximum(f.filled_clocks * started / x[:, f.efficiency], f.least_clocks)
            + f.light * coef("cycles_light")
            + f.heavy * coef("cycles_heavy")
            + f.loop * coef("cycles_loop")
        )
        squared = f.activation_bytes**2
        cached = coef("cache_frac") * spec.cache_bytes
        miss = squared / (squared + cached**2)
        dram_bytes = f.activation_bytes * miss + f.weight_bytes
        dram_s = np.maximum(dram_bytes / (spec.dram_bytes_per_s * coef("eff_dram")), TINY)
        self.product = f.product
        self.overlap = np.where(f.product, OVERLAP_PRODUCT, OVERLAP_ELEMENTWISE)
        # raised to the overlap's power once, for any number of clocks
        self.math_powered, self.dram_powered = math_clocks**self.overlap, dram_s**self.overlap
        self.kernel_clocks = f.launches * coef("t_kernel_s") * spec.clock_hz
        self.host_s = (
            f.launches * coef("t_launch_s")
            + f.products * coef("t_product_s")
            + f.convs * coef("t_conv_s")
            + f.views * coef("t_view_s")
        )
        # joules of each op at the lowest voltage, and in memory
        self.math_j = x[:, f.flop_energy] * f.flop * started * np.where(f.zeros, coef("zeros_frac"), 1.0) + f.lanes * (
            f.light * coef("e_light_j") + f.heavy * coef("e_heavy_j")
        )
        self.dram_j = coef("e_dram_j") * dram_bytes
        # sums over the step, and what holds for all of it, `(setting,)`
        self.step_ops_host_s = self.host_s @ f.calls
        self.step_host_s = self.step_ops_host_s + f.module_calls * x[:, INDEX["t_module_s"]]
        self.step_math_j = self.math_j @ f.calls
        self.step_dram_j = self.dram_j @ f.calls
        # a processor's clock hardly varies in a fit, so that power of its memory and of its cores would be one
        self.core = f.product | (spec.kind == "cpu")
        self.core_calls = self.core * f.calls
        self.streams_w = coef("memory_frac") * spec.power_limit_w * np.where(self.core, 0.0, miss)
        self.stream_calls_w = self.streams_w * f.calls
        self.parts = f.parts
        self.idle_frac, self.leak_frac = x[:, INDEX["idle_frac"]], x[:, INDEX["leak_frac"]]
        self.host_w = x[:, INDEX["host_frac"]] * spec.power_limit_w
        self.busy_w = x[:, INDEX["busy_frac"]] * spec.power_limit_w

    def at(self, clock_hz: np.ndarray) -> Cost:
        """Time and energy of the step at a clock for each setting. `(setting,)` [Hz]"""
        op_s = self._op_s(clock_hz)
        idle_w, dynamic, busy_w = self._power(clock_hz)
        return self._cost(
            op_s @ self.calls,
            dynamic * (self.step_math_j + busy_w * (op_s @ self.core_calls))
            + np.einsum("so,so->s", op_s, self.stream_calls_w)
            + self.step_dram_j,
            idle_w,
        )

    def parts_at(self, clock_hz: np.ndarray) -> tuple[Cost, np.ndarray, np.ndarray]:
        """The same, and time and energy of each part of the step, idle power and the host's apart. `(setting, part)` [s], [J]"""
        op_s, op_j, idle_w = self._kernels(clock_hz)
        cost = self._cost(op_s @ self.calls, op_j @ self.calls, idle_w)
        return cost, op_s @ self.parts, op_j @ self.parts

    def _cost(self, device_s: np.ndarray, device_j: np.ndarray, idle_w: np.ndarray) -> Cost:
        duration_s, _ = self._with_host(device_s)
        return Cost(
            duration_s=duration_s,
            energy_j=(idle_w + self.host_w) * duration_s + device_j,
            idle_energy_j=idle_w * duration_s,
        )

    def op_costs(self, clock_hz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Time and energy of one call of each op; weighted by calls they add up to those of the step, but for the host's own part.

        They are given to the ops in proportion to their part in each term (Euler's theorem: t is homogeneous in its parts).

        Args:
            clock_hz: Clock of each setting. `(setting,)` [Hz]

        Returns:
            Time `(setting, op)` [s] and energy `(setting, op)` [J].
        """
        op_s, op_j, idle_w = self._kernels(clock_hz)
        device_s = op_s @ self.calls
        duration_s, device_part = self._with_host(device_s)
        safe_host_s = np.where(self.step_ops_host_s > 0, self.step_ops_host_s, 1.0)
        shared_s = (
            op_s * (duration_s * device_part / device_s)[:, None]
            + self.host_s * (duration_s * (1 - device_part) / safe_host_s)[:, None]
        )
        return shared_s, op_j + (idle_w + self.host_w)[:, None] * shared_s

    def _kernels(self, clock_hz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Time of one call of each op on the device and its energy above the floor, `(setting, op)` [s], [J], and idle power, `(setting,)` [W]."""
        op_s = self._op_s(clock_hz)
        idle_w, dynamic, busy_w = self._power(clock_hz)
        op_w = (dynamic * busy_w)[:, None] * self.core + self.streams_w
        op_j = dynamic[:, None] * self.math_j + self.dram_j + op_w * op_s
        return op_s, op_j, idle_w

    def _op_s(self, clock_hz: np.ndarray) -> np.ndarray:
        """Time of each op on its slowest resource, smoothly, and of starting its kernels. `(setting, op)` [s]"""
        clock = clock_hz[:, None]
        slower = np.where(self.product, clock**-OVERLAP_PRODUCT, clock**-OVERLAP_ELEMENTWISE)
        result: np.ndarray = (self.math_powered * slower + self.dram_powered) ** (
            1 / self.overlap
        ) + self.kernel_clocks / clock
        return result

    def _with_host(self, device_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Time of the step, with the host's beside the device's, and the device's part in it. `(setting,)` [s]"""
        if self.profile.spec.kind == "cpu":
            duration_s = device_s + self.step_host_s
            return duration_s, device_s / duration_s
        longest = np.maximum(device_s, self.step_host_s)
        a, b = (device_s / longest) ** OVERLAP_HOST, (self.step_host_s / longest) ** OVERLAP_HOST
        return longest * (a + b) ** (1 / OVERLAP_HOST), a / (a + b)

    def _power(self, clock_hz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Idle power [W], what voltage and leakage multiply joules of maths by, and power of the busy units [W]. `(setting,)`"""
        share = clock_hz / self.profile.spec.clock_hz
        leak = 1 + self.leak_frac * np.maximum(share - 0.6, 0) / 0.4
        return (
            self.idle_frac * self.profile.idle_w(clock_hz),
            self.profile.voltage_ratio(clock_hz) ** 2 * leak,
            self.busy_w * share,
        )
