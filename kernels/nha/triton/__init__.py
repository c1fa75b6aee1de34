"""NHA on NVIDIA GPUs in Triton (backend `triton`): `states` -> `forward` -> `backward`, joined by `op`.

Forward and backward, all of `nha_attention`'s signature, fp16, bf16 and fp32. Two things differ from the other backends: fp64
is refused, and the log-sum-exps carry no gradient. A step of few tokens runs through the same kernels as a long one.

A kernel's decorator decides when it is imported whether it is compiled or interpreted: with ``TRITON_INTERPRET=1`` set
before triton is first imported, the same kernels run on CPU tensors, slowly.

    TRITON_INTERPRET=1 python -c "import torch; from kernels import nha_attention as f; x = torch.randn(3, 1, 9, 2, 16); \
print(f(*x, -torch.rand(1, 9, 2, 4), window=4, backend='triton')[0].shape)"
"""
