"""A pretrained Llama-family checkpoint turned into an NHA hybrid, in stages that go on where they stopped.

Conversion (weights by name, gates started from the keys), then alignment of each layer's attention output with the teacher's,
then distillation of the teacher's distribution, then, where wanted, language-model training. After RADLADS (Goldstein et al.,
arXiv 2505.03005) and LoLCATs (Zhang et al., arXiv 2410.10254).

    python run_eval.py hybridize nha-smollm2-135m --dry-run
"""
