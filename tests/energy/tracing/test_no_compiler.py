"""A trace never loads torch's compiler, and leaves it as it was for whoever does."""

import subprocess
import sys

ESTIMATE = """
import sys, torch
from torch import nn
import budjoule as bj
from budjoule.training import memory

model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 4))
bj.estimate(model, torch.rand(2, 8), device="cpu-generic", mode="training", optimizer="adam")
memory.footprint(model, torch.rand(2, 8), torch.zeros(2, dtype=torch.long))
loaded = {"torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy"} & set(sys.modules)
assert not loaded, loaded
"""

THEN_COMPILE = """
compiled = torch.compile(model, backend="eager")
assert compiled(torch.rand(2, 8)).shape == (2, 4)
bj.estimate(model, torch.rand(2, 8), device="cpu-generic", mode="training")
from torch._prims_common.wrappers import elementwise_type_promotion_wrapper
assert type(sys.modules["torch._dynamo"]).__module__ == "builtins"
"""

DECORATED_WITHIN = """
import sys, torch
from budjoule.energy.tracing.no_compiler import no_compiler

with no_compiler():
    import torch._dynamo as kept
    hidden = torch.compiler.disable(lambda: 1)
later = kept.disable(lambda: 2)
assert (hidden(), later()) == (1, 2)
for function in (hidden, later):
    assert function._torchdynamo_disable and function._torchdynamo_orig_callable is not function
"""

ASKED_WITHIN = """
import sys, torch
from budjoule.energy.tracing.no_compiler import no_compiler

@torch._disable_dynamo
def hidden():
    return 1

with no_compiler():
    assert hidden() == 1 and "eval_frame" not in dir(sys.modules["torch._dynamo"])
    import torch._dynamo.config
    assert torch._dynamo.config.cache_size_limit > 0
    assert hidden() == 1
assert type(sys.modules["torch._dynamo"]).__module__ == "builtins"
assert hidden() == 1 and hidden.__wrapped__.__dynamo_disable is not hidden.__wrapped__
"""


SYMBOLS_WITHIN = """
import sys
from importlib.util import find_spec
from budjoule.energy.tracing.no_compiler import no_compiler

with no_compiler():
    import sympy as kept
    from torch.fx.experimental.symbolic_shapes import has_guarding_hint, is_nested_int, sym_eq, sym_or
    assert find_spec("sympy") and find_spec("torch.fx.experimental.symbolic_shapes") and find_spec("torch._dynamo")
    assert sym_eq((2, 3), (2, 3)) and not sym_eq((2, 3), (2, 4)) and sym_or(False, True)
    assert not is_nested_int(3) and has_guarding_hint(3) and "sympy.core" not in sys.modules
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    assert kept.Basic.__module__ == "sympy.core.basic"
    symbol = ShapeEnv().create_unbacked_symint()
    assert not has_guarding_hint(symbol)
    assert not isinstance(sym_eq(symbol, 2), bool)
"""


def failure(program: str) -> str:
    """What a program that failed said; empty if it did not."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def test_an_estimate_and_a_footprint_do_without() -> None:
    assert failure(ESTIMATE) == ""


def test_compiling_after_a_trace_works_and_so_does_tracing_after_that() -> None:
    assert failure(ESTIMATE + THEN_COMPILE) == ""


def test_whoever_hides_a_function_from_the_compiler_within_a_trace_has_it_hidden() -> None:
    assert failure(DECORATED_WITHIN) == ""


def test_who_asks_for_the_compiler_within_a_trace_gets_it() -> None:
    assert failure(ASKED_WITHIN) == ""


def test_who_asks_for_symbols_within_a_trace_gets_them_even_of_functions_taken_before() -> None:
    assert failure(SYMBOLS_WITHIN) == ""
