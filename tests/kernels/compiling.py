"""Compiles the kernels for a GPU that need not be there: `python compiling.py 90` for compute capability 9.0.

Tensors are on the CPU, and nothing is launched. Prints a line a kernel: name, shared memory in bytes, and of one that begins
while the kernel before it runs, what it reads until it waits for that.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

CAPABILITY = int(sys.argv[1])
# Of one block of threads; Hopper's and Blackwell's is 227 KiB, Ampere's large chips' 163.
MOST_SHARED = {80: 163 * 1024}.get(CAPABILITY, 227 * 1024)


class NoGPU:
    """As much of Triton's driver as compiling asks for."""

    class utils:
        @staticmethod
        def get_device_properties(device):
            return {"max_shared_mem": MOST_SHARED, "multiprocessor_count": 132, "warpSize": 32}

    get_current_target = staticmethod(lambda: GPUTarget("cuda", CAPABILITY, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device=None: 0)
    get_active_torch_device = staticmethod(lambda: torch.device("cpu"))
    map_python_to_cpp_type = staticmethod(lambda kind: kind)


driver.set_active(NoGPU())
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_capability = lambda *_: divmod(CAPABILITY, 10)
torch.cuda.is_current_stream_capturing = lambda: False
told, counted = set(), []
run = JITFunction.run


READ = re.compile(r"ld\.(?:\w+\.|::)*global\S*\s.*\[\s*(%\w+)")
WEIGHTS = {"norm", "w0", "w1", "w2", "w3", "b0", "b1", "b2", "b3", "gate", "up"}


def arguments_of(ptx: str, names: list[str]) -> dict[str, set[str]]:
    """Of each register, the arguments that its value is reckoned from; what is read from memory comes from none."""
    found = defaultdict(set)
    # A register may be written, in a loop, below where it is read.
    for _ in range(3):
        for line in ptx.splitlines():
            registers = re.findall(r"%\w+", re.sub(r"^\s*@!?%\w+", "", line))
            if registers and not re.search(r"\b(ld\.(?!param)|atom\.)", line):
                given = {names[int(i)] for i in re.findall(r"_param_(\d+)", line) if int(i) < len(names)}
                found[registers[0]] |= given.union(*(found[name] for name in registers))
    return found


def read_early(compiled) -> set[str]:
    """What a kernel reads until it waits for the one before it. That must be weights, and nothing may be written."""
    kinds = {name: kind for name, kind in compiled.src.signature.items() if kind != "constexpr"}
    pointers = {name for name, kind in kinds.items() if str(kind).startswith("*")}
    ptx = compiled.asm["ptx"]
    sources = arguments_of(ptx, list(kinds))
    start, wait, rest = ptx.partition("griddepcontrol.wait")
    assert wait and "griddepcontrol.launch_dependents" in start and "griddepcontrol.wait" not in rest
    assert not re.search(r"\b(st|atom|red)\.(\w+\.)*global", start)
    addresses = lambda text: READ.findall(text)  # noqa: E731
    early, late = (set().union(*(sources[name] & pointers for name in addresses(text))) for text in (start, rest))
    assert all(sources[name] & pointers for name in addresses(ptx)), "an address of no argument"
    assert early <= WEIGHTS and late, (early, late)
    return early


def compile_only(self, *args, grid, warmup, **options):
    compiled = run(self, *args, grid=grid, warmup=True, **options)
    shared = compiled.metadata.shared
    most = counted[-1] if self.fn.__name__ == "nha_fwd_kernel_stream" else MOST_SHARED
    assert shared <= most, f"{self.fn.__name__} wants {shared} bytes of shared memory; there are {most}"
    if compiled.hash not in told:
        told.add(compiled.hash)
        print(self.fn.__name__, shared, *(sorted(read_early(compiled)) if options.get("launch_pdl") else ()), flush=True)
    return lambda *_: None


class Compiled:
    """What `launch` keeps of a compiled kernel: it may be called again."""

    def __getitem__(self, grid):
        return lambda *_: None


JITFunction.run = lambda *args, **options: compile_only(*args, **options) and Compiled()

sys.path.insert(0, str(Path(__file__).parents[2]))
import kernels.few_rows_triton as few  # noqa: E402
import kernels.nha.op as front  # noqa: E402
import kernels.nha.triton.op as op  # noqa: E402
import kernels.nha.triton.registered as registered  # noqa: E402
import kernels.nha.triton.stream as stream  # noqa: E402
from kernels import sliding_window_attention as window_alone  # noqa: E402
from kernels.few_rows import glu, linear  # noqa: E402
from kernels.glu_triton import product as swiglu_product  # noqa: E402
from kernels.norm_triton import norm as norm_rows  # noqa: E402
from kernels.short_conv_triton import convolution  # noqa: E402
from nha_eval.hybridize.head_kl_triton import kl_and_gradient  # noqa: E402
from nha_eval.training.head_loss_triton import losses_and_gradient  # noqa: E402

choose_tile = few.choose_tile
few.choose_tile = lambda *given: choose_tile(*given[:-1], True)
front._no_triton = op.refusal = lambda *_: None

outputs = registered.stream_outputs


def counting(call, *rest):
    copies = call.tiles.warps == 8 and stream.shared_memory(call, True) <= stream.SHARED
    counted.append(stream.shared_memory(call, copies))
    return outputs(call, *rest)


registered.stream_outputs = counting

if CAPABILITY // 10 != 9:
    # On the CPU it takes the call for the interpreter's sake; on GPUs it is Hopper's alone.
    registered.streams = lambda _: False


def call(dtype, *, batch, time, queries, heads, key_dim, value_dim, slots, window, delay, turns, mapped, gradient, state=None):
    rand = lambda *shape: torch.zeros(*shape, dtype=dtype, requires_grad=gradient)  # noqa: E731
    q, k = rand(batch, time, queries, key_dim), rand(batch, time, heads, key_dim)
    rotary = (torch.ones(*[batch] * (turns == "row"), time, key_dim // 2),) * 2 if turns else None
    out, state = front.nha_attention(
        q, k, rand(batch, time, heads, value_dim), rand(batch, time, heads, slots), window, rotary=rotary,
        slot_q=rand(*q.shape) if mapped else None, slot_k=rand(*k.shape) if mapped else None, slot_delay=delay,
        state=state, return_state=True, overwrite_state=state is not None, backend="triton",
    )  # fmt: skip
    if gradient:
        out.sum().backward()
    return state


shape = {"queries": 4, "heads": 1, "key_dim": 128, "value_dim": 128, "slots": 64, "window": 64, "delay": None}
# Half precision's two kinds are one program but for the type; minutes of compiling are saved by seeing that on one generation.
halves = (torch.bfloat16, torch.float16) if CAPABILITY == 90 else (torch.bfloat16,)
for dtype, turns in product(halves, (False, True)):
    call(dtype, batch=1, time=130, **shape, turns=turns, mapped=not turns, gradient=True)
call(torch.float32, batch=1, time=130, **shape, turns=True, mapped=False, gradient=True)
unlike = shape | {"key_dim": 64, "value_dim": 32, "slots": 17, "window": 300}
call(torch.bfloat16, batch=1, time=130, **unlike, turns=True, mapped=False, gradient=True)
with torch.no_grad():
    if CAPABILITY // 10 == 9:
        # Few slots, where the count of shared memory goes by the queries.
        for slots, turns in ((32, False), (16, False), (16, True)):
            few_slots = shape | {"queries": 3, "slots": slots, "delay": 0}
            call(torch.bfloat16, batch=1, time=130, **few_slots, turns=turns, mapped=not turns, gradient=False)
    # What a prompt's state is made of: angles of each row, keys for the slots alone, no window, and no slots.
    for changes in ({"turns": "row", "mapped": True}, {"turns": False, "mapped": True, "window": 0}):
        call(torch.bfloat16, batch=2, time=80, **shape | {"gradient": False} | changes)
    heads = torch.zeros(2, 80, 1, 128, dtype=torch.bfloat16)
    window_alone(heads.expand(-1, -1, 4, -1), heads, heads, 64, return_state=True, backend="triton")
    for kind, delay in product((shape, unlike), (None, 0)):
        options = kind | {"delay": delay, "turns": True, "mapped": False, "gradient": False}
        for batch, new in product((1, 200), (1, 3, 8)):
            state = call(torch.bfloat16, batch=batch, time=80, **options)
            call(torch.bfloat16, batch=batch, time=new, **options, state=state)
for rows, width in product((1, 4), (576, 2048, 5120)):
    x, norm = torch.zeros(rows, 1, width, dtype=torch.bfloat16), (torch.zeros(width, dtype=torch.bfloat16), 1e-6)
    weights = [torch.zeros(size, width, dtype=torch.bfloat16) for size in (width, width, 64, 7)]
    linear(x, weights, biases=[None, None, None, weights[3][:, 0].clone()], norm=norm, after=[None, None, "silu", "logsigmoid"])
    linear(x, weights[:1], norm=norm, before="silu", residual=x)
    glu(x, *weights[:2], norm=norm)
for dtype, biased in product((torch.bfloat16, torch.float32), (False, True)):
    x, weight = (torch.zeros(*size, dtype=dtype, requires_grad=True) for size in ((2, 130, 96), (96, 4)))
    convolution(x, weight, weight[:, 0] if biased else None, silu=True).sum().backward()
for dtype, count in product((torch.bfloat16, torch.float16, torch.float32), (1232, 1233)):
    gate, up = (torch.zeros(2, count, dtype=dtype, requires_grad=True) for _ in range(2))
    swiglu_product(gate[:1], up[:1]).sum().backward()
for dtype, silu, width in product((torch.bfloat16, torch.float32), (False, True), (64, 1024, 8192)):
    x, weight = torch.zeros(3, width, dtype=dtype, requires_grad=True), torch.ones(width, requires_grad=True)
    norm_rows(x, weight, 1e-6, silu, torch.bfloat16).sum().backward()
for dtype in (torch.bfloat16, torch.float32):
    kl_and_gradient(torch.zeros(2, 49152, dtype=dtype), torch.zeros(2, 49152, dtype=dtype), 1.0)
    losses_and_gradient(torch.zeros(2, 49152, dtype=dtype), torch.zeros(2, dtype=torch.long))
