"""Plain SAM 2 beside the engine: the package's own predictor, fed one frame at a time."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from sam2 import sam2_video_predictor

from flows.models import PREDICTOR, build_segmenter, resolve

# The package shows a progress bar that cannot be switched off.
sam2_video_predictor.tqdm = lambda frames, **_: frames

# Frames of spatial memory; SAM 2.1 has seven.
_REMEMBERED = 4
OURS = "flows.memory.StreamingPredictor"


def make_model(target: str, size_px: int = 128, seed: int | None = 0) -> Any:
    """The nano segmenter; with a seed, shaken: equality must not hang on what exactly the shipped weights say."""
    model: Any = build_segmenter(resolve("nano", "segmenter"), size_px, "cpu", target=target)
    # Plain SAM 2 follows no box and corrects no mask; and more is to be remembered than these weights need.
    model.box_hints = False
    model.refiner = None
    model.num_maskmem = _REMEMBERED
    model.maskmem_tpos_enc = torch.nn.Parameter(model.maskmem_tpos_enc.repeat(_REMEMBERED // 2, 1, 1, 1))
    if seed is not None:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data = parameter * (1 + 0.2 * torch.randn_like(parameter))
        # The better they know objects, the less they see in discs, where masks are to be compared.
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data += 3
    return model


def make_frames(count: int, seed: int = 0, height_px: int = 90, width_px: int = 160) -> list[np.ndarray]:
    """Discs that drift over a textured ground."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.integers(60, 120, (9, 16, 3), dtype=np.uint8), (width_px, height_px))
    places, speeds = rng.uniform((0, 0), (width_px, height_px), (6, 2)), rng.uniform(-1, 1, (6, 2)) * width_px / 160
    colours = rng.integers(0, 255, (6, 3)).tolist()
    frames = []
    for index in range(count):
        frame = ground.copy()
        for place, speed, colour in zip(places, speeds, colours, strict=True):
            x, y = (place + index * speed) % (width_px, height_px)
            cv2.circle(frame, (round(x), round(y)), height_px // 7, colour, -1, cv2.LINE_AA)
        frames.append(frame)
    return frames


class Plain:
    """`SAM2VideoPredictor` over frames that need not be there before they are reached.

    Objects can join, be corrected, be shown afresh and leave at any frame, as with the engine.

    Args:
        model: A `SAM2VideoPredictor`.
        images: Prepared frames by index, (3, size, size) each.
        height_px, width_px: Size of the video.
    """

    def __init__(self, model: Any, images: Any, height_px: int, width_px: int) -> None:
        self.model = model
        cpu = torch.device("cpu")
        # What `init_state` builds, but for the video it would load whole.
        self.state: dict[str, Any] = {
            "images": images, "num_frames": 1 << 30, "offload_video_to_cpu": False, "offload_state_to_cpu": False,
            "video_height": height_px, "video_width": width_px, "device": cpu, "storage_device": cpu,
            "point_inputs_per_obj": {}, "mask_inputs_per_obj": {}, "cached_features": {}, "constants": {},
            "obj_id_to_idx": OrderedDict(), "obj_idx_to_id": OrderedDict(), "obj_ids": [],
            "output_dict_per_obj": {}, "temp_output_dict_per_obj": {}, "frames_tracked_per_obj": {},
        }  # fmt: skip

    def step(self, index: int, *, reverse: bool = False) -> dict[int, dict[str, torch.Tensor]]:
        """Carry all objects onto a frame."""
        if not self.state["obj_ids"]:
            return {}
        for _ in self.model.propagate_in_video(
            self.state, start_frame_idx=index, max_frame_num_to_track=0, reverse=reverse
        ):
            pass
        return self.outputs(index, self.state["obj_ids"])

    def follow(self, index: int) -> Iterator[None]:
        """Carry all objects from a frame on, one frame a step, as `propagate_in_video` does by itself."""
        for _ in self.model.propagate_in_video(self.state, start_frame_idx=index):
            yield

    def prompt(self, index: int, boxes: dict[int, np.ndarray]) -> dict[int, dict[str, torch.Tensor]]:
        """Show objects from boxes on a frame they have not been seen on, which is what a fresh prompt means."""
        for object_id in boxes:
            if object_id in self.state["obj_id_to_idx"]:
                idx = self.state["obj_id_to_idx"][object_id]
                for outputs in self.state["output_dict_per_obj"][idx].values():
                    outputs.pop(index, None)
                self.state["frames_tracked_per_obj"][idx].pop(index, None)
        return self.correct(index, boxes)

    def correct(self, index: int, boxes: dict[int, np.ndarray]) -> dict[int, dict[str, torch.Tensor]]:
        """Show objects from boxes on a frame; where they have been tracked on it, that corrects them."""
        for object_id, box in boxes.items():
            self.model.add_new_points_or_box(self.state, index, object_id, box=box)
        self.model.propagate_in_video_preflight(self.state)
        return self.outputs(index, boxes)

    def drop(self, object_ids: list[int]) -> None:
        """Forget objects."""
        for object_id in object_ids:
            self.model.remove_object(self.state, object_id, need_output=False)

    def outputs(self, index: int, object_ids: Any) -> dict[int, dict[str, torch.Tensor]]:
        """What was made of objects on a frame, as the package keeps it."""
        found = {}
        for object_id in object_ids:
            outputs = self.state["output_dict_per_obj"][self.state["obj_id_to_idx"][object_id]]
            found[object_id] = outputs["cond_frame_outputs"].get(index) or outputs["non_cond_frame_outputs"][index]
        return found


def make_plain(size_px: int, seed: int | None, images: Any, height_px: int, width_px: int) -> Plain:
    """Plain SAM 2 with the nano architecture."""
    return Plain(make_model(PREDICTOR, size_px, seed), images, height_px, width_px)
