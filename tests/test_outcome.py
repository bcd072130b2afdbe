import numpy as np
import torch

from flows.carried import CarriedBox
from flows.memory import Memory
from flows.outcome import Outcome


def test_nan_and_whole_frame_masks_are_not_passed_on():
    counters = {"rejected_masks": 0}
    outcome, memory = Outcome(None, 96, 128, counters), Memory(CarriedBox(np.array([0, 0, 9, 9], np.float32)))
    for logit, rejected in ((np.nan, 1), (9.0, 2), (-9.0, 2)):
        out = {
            "object_score_logits": torch.ones(1, 1),
            "pred_masks": torch.full((1, 1, 32, 32), logit),
            "obj_ptr": torch.zeros(1, 8),
        }
        (segment,) = outcome.segments([memory], out, None, shown=False)
        assert segment.mask is None
        assert counters["rejected_masks"] == rejected
