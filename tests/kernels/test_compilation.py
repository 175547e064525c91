"""Ahead-of-time compilation for sm_80 and sm_90, without a GPU: the PTX says what the kernel is."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

COMPILE = """
import json, re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ngpt.kernels import symmetric

capability, dtype, add_a, rows, depth, warps, stages = json.loads(sys.argv[1])
names = symmetric.symmetric_product.arg_names
signature = dict.fromkeys(names, "i32")
signature |= {"a_ptr": f"*{dtype}", "c_ptr": f"*{dtype}", "b": "fp32", "c": "fp32", "a_batch": "i64", "c_batch": "i64"}
constants = {"ROWS": rows, "DEPTH": depth, "ADD_A": add_a, "WIDEN": False, "a_col": 1, "c_col": 1}
signature |= dict.fromkeys(constants, "constexpr")
aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in ("a_ptr", "c_ptr", "M", "K", "a_row", "c_row")}
source = ASTSource(symmetric.symmetric_product, signature, constexprs=constants, attrs=aligned)
options = {"num_warps": warps, "num_stages": stages}
compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
ptx = compiled.asm["ptx"]
print(json.dumps({
    "wgmma": "wgmma.mma_async" in ptx, "mma": bool(re.search(r"mma\\.sync", ptx)), "tf32": "tf32" in ptx,
    "spills": ".local" in ptx, "shared": compiled.metadata.shared, "target": re.search(r"\\.target (\\w+)", ptx)[1],
}))
"""


def compiled(capability: int, dtype: str, add_a: bool, tiling: str) -> dict[str, object]:
    tilings = {"HOPPER": [128, 64, 8, 4], "SMALL": [64, 32, 4, 3]}
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    arguments = json.dumps([capability, dtype, add_a, *tilings[tiling]])
    result = subprocess.run(
        [sys.executable, "-c", COMPILE, arguments], capture_output=True, text=True, timeout=300, env=environment
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    found: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("add_a", [False, True], ids=["xxt", "ba_plus_cAA"])
def test_hopper_multiplies_with_wgmma_and_spills_nothing(add_a: bool) -> None:
    found = compiled(90, "bf16", add_a, "HOPPER")
    assert found["target"] == "sm_90a" and found["wgmma"] and not found["spills"] and not found["tf32"]
    assert isinstance(found["shared"], int) and found["shared"] <= 227 * 1024


def test_ampere_multiplies_with_mma() -> None:
    found = compiled(80, "bf16", True, "SMALL")
    assert found["target"] == "sm_80" and found["mma"] and not found["wgmma"] and not found["spills"]


def test_float32_is_not_rounded_to_tf32() -> None:
    assert not compiled(90, "fp32", False, "SMALL")["tf32"]
