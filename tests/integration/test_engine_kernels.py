"""The GPU's kernels without a GPU: their answers by Triton's interpreter, and that its compiler takes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from worker.engine import kernels  # noqa: E402

REPOSITORY = Path(__file__).parents[2]


def test_the_kernels_and_models_on_them_answer_as_torch_does() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.integration.interpreted_kernels"], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"}, timeout=200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


HALF, INDEX = "*bf16", "*i32"
COMPILED: dict[str, tuple[dict[str, str], dict[str, int], dict[str, int]]] = {
    "_add_norm": (
        {"x": HALF, "residual": HALF, "weight": "*fp32", "bias": "*fp32", "out": HALF, "epsilon": "fp32"},
        {"width": 768, "block": 1024},
        {"num_warps": 1},
    ),
    "_gelu": ({"x": HALF, "size": "i32"}, {"block": 1024}, {"num_warps": 4}),
    "_attention": (
        {"q": HALF, "k": HALF, "v": HALF, "out": HALF, "begins": INDEX, "ends": INDEX, "scale": "fp32"},
        {"heads": 12, "size": 64, "block": 64, "q_tile": 64, "k_tile": 32},
        {"num_warps": 4, "num_stages": 3},
    ),
    "_linear_gelu": (
        {
            "x": "tensordesc<bf16[128, 64]>",
            "weight": "tensordesc<bf16[256, 64]>",
            "out": "tensordesc<bf16[128, 256]>",
            "bias": HALF,
        },
        {"programs": 132, "row_tile": 128, "column_tile": 256, "inner_tile": 64},
        {"num_warps": 8, "num_stages": 3},
    ),
}


@pytest.mark.parametrize("half", ["bf16", "fp16"])
@pytest.mark.parametrize(("capability", "shared"), [(90, 232_448), (80, 101_376)])  # bytes that a block may have there
@pytest.mark.parametrize("name", COMPILED)
def test_the_kernels_compile(
    name: str, capability: int, shared: int, half: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "_linear_gelu" and capability < 90:
        pytest.skip("not used there")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types, constants, options = COMPILED[name]
    kernel = getattr(kernels, name)
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    signature = {n: type_.replace("bf16", half) for n, type_ in signature.items()}
    values = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(ASTSource(kernel, signature, values), target=target, options=options)
    assert compiled.metadata.shared <= shared
