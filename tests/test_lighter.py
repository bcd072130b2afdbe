"""SAM 2's modules without work they repeat, beside the package's own."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sam2.modeling.sam.transformer import RoPEAttention

from flows.lighter import compile_steps
from tests.plain import OURS, make_model


def _memory_attention(seed):
    """The package's attention over memory, and the one that is compiled, of the same weights."""
    models = [make_model(OURS, seed=seed) for _ in range(2)]
    compile_steps(models[1], backend="eager")
    return [model.memory_attention.layers[1].cross_attn_image for model in models]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_compiled_attends_as_the_package_does_without_complex_numbers(seed):
    theirs, ours = _memory_attention(seed)
    assert type(theirs) is RoPEAttention
    q, k = torch.randn(3, 64, 64), torch.randn(3, 4 * 64 + 6, 32)
    with torch.inference_mode():
        expected = theirs(q, k, k, num_k_exclude_rope=6)
        torch.testing.assert_close(ours(q, k, k, num_k_exclude_rope=6), expected, atol=1e-5, rtol=1e-5)
    graph = torch.fx.symbolic_trace(ours, concrete_args={"num_k_exclude_rope": 6})
    assert "complex" not in graph.code


def test_what_is_compiled_offers_bf16_as_cudnn_takes_it(monkeypatch):
    """By object, place and head; https://github.com/pytorch/pytorch, `check_cudnn_layout` of `sdp_utils.cpp`."""
    _, ours = _memory_attention(0)
    offered = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *heads: offered.extend(heads) or attend(*heads))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        ours(torch.randn(3, 64, 64), *[torch.randn(3, 4 * 64 + 6, 32)] * 2, num_k_exclude_rope=6)
    assert len(offered) == 3
    for x in offered:
        _, heads, places, width = x.shape
        assert x.dtype == torch.bfloat16
        assert x.stride() == (places * heads * width, width, heads * width, 1)
    assert all(a.shape[-1] == b.shape[-1] for a, b in pairwise(offered))  # flash attention wants one width
