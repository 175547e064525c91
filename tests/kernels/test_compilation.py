"""Ahead-of-time compilation for sm_80 and sm_90 without a GPU, checked by PTX and register usage.

The kernels compiled are those that would be launched: the functions run as usual, on memory that is reserved but never
touched, and each launch is replaced by a compilation for its arguments.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

triton = pytest.importorskip("triton")

COMPILE = """
import collections, json, re, subprocess, sys, tempfile
import torch, triton
from torch import bfloat16, empty, float32
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import jit
from ngpt.kernels import momentum, residual, symmetric, vectors

target = GPUTarget("cuda", int(sys.argv[1]), 32)
backend = make_backend(target)
case, found, seen = "", {}, {}


def compile_instead(kernel, *args, grid, warmup, **options):
    bound, specialization, _ = jit.create_function_from_signature(kernel.signature, kernel.params, backend)(
        *args, **options
    )
    key = f"{case} {kernel.__name__}"
    if seen.setdefault(key, specialization) != specialization:
        sys.exit(f"{key} is compiled anew: {seen[key]}, {specialization}")
    if key in found:
        return
    options, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, None)
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=target, options=options.__dict__)
    ptx = compiled.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    accesses = collections.Counter(re.findall(r"(?:ld|st)\\.global\\S*", ptx))
    found[key] = {
        "target": re.search(r"\\.target (\\w+)", ptx)[1], "wgmma": "wgmma.mma_async" in ptx,
        "mma": bool(re.search(r"mma\\.sync", ptx)), "tf32": "tf32" in ptx, "local": ".local" in ptx,
        "stack": int(re.search(r"STACK:(\\d+)", usage)[1]), "registers": int(re.search(r"REG:(\\d+)", usage)[1]),
        "shared": compiled.metadata.shared, "warps": compiled.metadata.num_warps,
        "tile": [value for value in bound.values() if isinstance(value, int)][-2:], "accesses": accesses,
    }


jit.JITFunction.run = compile_instead
symmetric.room_for_depth = lambda device: target.arch == 90

for rows, dtype in ((2048, bfloat16), (512, bfloat16), (512, float32)):
    case = f"{rows} {str(dtype).removeprefix('torch.')}"
    symmetric.xxt(empty(2, rows, 2 * rows, dtype=dtype))
    case += " b"
    symmetric.ba_plus_cAA(empty(2, rows, rows, dtype=dtype), 2.0, -1.0, check=False)

for width in (768, 2048, 8192):
    for dim, shape in ((-1, (256, width)), (-2, (width, 256))):
        case = f"{width} {'rows' if dim == -1 else 'columns'}"
        vectors.project_(empty(shape), dim=dim)
        for lr, scale in ((0.1, 1.0), (0.2, 2.0), (1.0, 0.3), (torch.tensor(0.1), 1.0)):
            vectors.geodesic_move_(empty(shape), empty(shape, dtype=bfloat16), lr, scale, fixed_angle=False, dim=dim)
    for f_dtype in (bfloat16, float32) if width == 8192 else (bfloat16,):
        case = f"{width} {str(f_dtype).removeprefix('torch.')}"
        inputs = [empty(4096, width), empty(4096, width, dtype=f_dtype), empty(width)]
        residual.residual_step(*(x.requires_grad_() for x in inputs)).backward(empty(4096, width))

case = "768 tall"  # the polar factor of a tall matrix is a transposed one
O = empty(768, 2048, dtype=bfloat16).mT
vectors.geodesic_move_(empty(2048, 768), O, 0.1, 1.0, fixed_angle=True, dim=-1)
for dtype in (bfloat16, float32):
    case = str(dtype).removeprefix("torch.")
    for mu in (0.95, 0.5, 1.0, torch.tensor(0.95)):
        out = empty(768, 2048, dtype=dtype)
        momentum.momentum_step_(empty(768, 2048), empty(768, 2048), mu, nesterov=True, out=out)
print(json.dumps(found))
"""

Found = dict[str, dict[str, Any]]

SINGLE = {"rotate_vectors": 1, "momentum_pass": 2}
"""Scalar accesses: the learning rate; mu and the norm of a block"""

SPILLS = {("3.8", "512 float32 b symmetric_product"): 16}
"""Bytes that one version of Triton (that of torch 2.14) spills, in a product that runs only where it is asked for"""

TILES = {
    "768 rows rotate_vectors": [2, 1024],
    "768 columns rotate_vectors": [8, 1024],
    "768 tall rotate_vectors": [8, 1024],
    "2048 columns project_vectors": [4, 2048],
    "8192 rows rotate_vectors": [1, 8192],
    "8192 columns rotate_vectors": [1, 8192],
    "768 bfloat16 residual_backward": [2, 1024],
    "8192 bfloat16 residual_backward": [1, 8192],
}
"""Vectors per program, and elements reserved for each"""


@pytest.mark.parametrize("capability", [80, 90])
def test_compiled_kernels(capability: int) -> None:
    """One test per GPU for all kernels, as compiling them takes most of the time."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:TRITON_DEFAULT_FP_FUSION", "-c", COMPILE, str(capability)],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    found: Found = json.loads(result.stdout.splitlines()[-1])
    assert len(found) == 6 + 6 + 6 + 4 + 4 + 1 + 2
    for name, kernel in found.items():
        check_registers(name, kernel, capability)
        check_products(name, kernel, capability)
        check_accesses(name, kernel)
    assert {name: found[name]["tile"] for name in TILES} == TILES


def check_registers(name: str, kernel: dict[str, Any], capability: int) -> None:
    """Check for spills: neither arrays in PTX local memory nor registers that ptxas keeps on the stack."""
    assert kernel["target"] == {80: "sm_80", 90: "sm_90a"}[capability], name
    allowed = SPILLS.get((".".join(triton.__version__.split(".")[:2]), name), 0)
    assert not kernel["local"] and kernel["stack"] <= allowed, f"{name} spills {kernel['stack']} bytes"
    assert 16 < kernel["registers"] <= 65536 // (kernel["warps"] * 32), name
    assert kernel["shared"] <= {80: 163, 90: 227}[capability] * 1024, name


def check_products(name: str, kernel: dict[str, Any], capability: int) -> None:
    """Check that Hopper multiplies with wgmma and Ampere with mma, and that float32 is not rounded to TF32."""
    multiplies = name.endswith("symmetric_product") and "bfloat16" in name
    assert (kernel["wgmma"], kernel["mma"]) == (multiplies and capability == 90, multiplies and capability == 80), name
    assert not kernel["tf32"], name


def check_accesses(name: str, kernel: dict[str, Any]) -> None:
    """Check that memory is accessed 16 bytes at a time, except for columns too long to be grouped (over 2,048)."""
    function = name.split()[-1]
    if function == "symmetric_product" or name.startswith("8192 columns"):
        return
    counts: Counter[str] = Counter()
    for access, count in kernel["accesses"].items():
        counts[access.split("global.")[1]] += count
    four_of_bfloat16 = 4 if name == "2048 columns rotate_vectors" else 0
    assert counts.pop("b32", 0) == SINGLE.get(function, 0), name
    assert counts.pop("v2.b32", 0) == four_of_bfloat16, name
    assert set(counts) == {"v4.b32"}, name
