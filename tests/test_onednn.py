"""SAM 2's products by oneDNN beside torch's own."""

import pytest
import torch
from sam2.modeling.sam.transformer import RoPEAttention

from flows import onednn
from flows.config import SegmentSettings
from flows.onednn import use_onednn
from flows.segment import load_segmenter
from tests.plain import OURS, make_model


@pytest.mark.parametrize("memory_width", [16, 64], ids=["values folded", "values as wide"])
@pytest.mark.parametrize("block", [1 << 20, 100], ids=["in one block", "in blocks"])
def test_attention_over_memory_is_the_packages(memory_width, block, monkeypatch):
    """Three frames of memory and pointers, which lie nowhere; at the size it was built for and at another."""
    monkeypatch.setattr(onednn, "_BLOCK", block)
    torch.manual_seed(0)
    theirs, ours = (
        RoPEAttention(64, 1, kv_in_dim=memory_width, rope_k_repeat=True, feat_sizes=(8, 8)).eval() for _ in range(2)
    )
    ours.load_state_dict(theirs.state_dict())
    onednn._Attention.adopt(ours)
    for side in (8, 4):
        q, k = torch.randn(2, side**2, 64), torch.randn(2, 3 * side**2 + 5, memory_width)
        with torch.inference_mode():
            expected = theirs(q, k, k, num_k_exclude_rope=5)
            torch.testing.assert_close(ours(q, k, k, num_k_exclude_rope=5), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 4096], ids=["too few", "enough"])
def test_layers_are_torchs(rows):
    plain, ours = (torch.nn.Sequential(torch.nn.Linear(48, 32), torch.nn.Linear(32, 64)) for _ in range(2))
    plain.append(torch.nn.Conv2d(3, 5, 1))
    ours.append(torch.nn.Conv2d(3, 5, 1))
    ours.load_state_dict(plain.state_dict())
    ours.memory_attention = torch.nn.Module()
    ours.memory_attention.layers = []
    use_onednn(ours)
    assert {type(module) for module in ours}.isdisjoint({torch.nn.Linear, torch.nn.Conv2d})
    x, image = torch.randn(2, rows, 48), torch.randn(1, 3, 7, 9)
    with torch.inference_mode():
        torch.testing.assert_close(ours[1](ours[0](x)), plain[1](plain[0](x)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours[2](image), plain[2](image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "taken"),
    [({}, True), ({"batch": 1}, False), ({"precision": "bf16"}, False), ({"compile": True}, False)],
)
def test_it_is_taken_where_nothing_is_to_be_exact_or_otherwise_made(settings, taken):
    model = load_segmenter(SegmentSettings(segmenter="nano", **settings), "cpu")
    assert any(type(module) is onednn._Linear for module in model.modules()) == taken


def test_where_torch_has_no_onednn_a_model_stays_as_it_is(monkeypatch):
    model = make_model(OURS, seed=None)
    before = [type(module) for module in model.modules()]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    use_onednn(model)
    assert [type(module) for module in model.modules()] == before
