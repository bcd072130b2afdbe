"""Pictures out of the videos, where their files lie where they were and a decoder is installed (the extra `video`)."""

from __future__ import annotations

import base64
import importlib.util
import io
from typing import Any

import numpy as np
import streamlit as st

from dashboard.data import reading, rows, store_url
from flows.errors import SightflowError

STILL_PX = 960
"""Width of a still: sharp on the page, and some ten kilobytes."""
THUMBNAIL_PX = 96


def can_decode() -> bool:
    """Whether videos can be decoded here."""
    return importlib.util.find_spec("av") is not None and importlib.util.find_spec("cv2") is not None


def newest_video(source_id: str) -> dict[str, Any] | None:
    """Row of `videos`: uri, video_id, start_time; None where the source has none."""
    found = rows(
        "select uri, video_id, start_time from videos where source_id = $source_id "
        "order by start_time desc, uri limit 1",
        {"source_id": source_id},
    )
    return None if found.empty else dict(found.iloc[0])


def first_picture(source_id: str) -> Any:
    """The first frame of the source's newest video as a PIL image; None where it cannot be had."""
    video = newest_video(source_id)
    return _picture(str(video["video_id"]), 0) if video else None


def still_url(source_id: str) -> str | None:
    """The same as a data URL."""
    image = first_picture(source_id)
    return None if image is None else _url(image, STILL_PX)


def thumbnail_url(video_id: str, pts_ns: int, box_xyxy: tuple[float, float, float, float]) -> str | None:
    """What lies in a box of a frame, with some room around it, as a data URL; None where it cannot be had."""
    image = _picture(video_id, pts_ns)
    if image is None:
        return None
    x1, y1, x2, y2 = box_xyxy
    margin = 0.2 * max(x2 - x1, y2 - y1)
    box = (max(0, x1 - margin), max(0, y1 - margin), min(image.width, x2 + margin), min(image.height, y2 + margin))
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        return None
    return _url(image.crop(tuple(round(v) for v in box)), THUMBNAIL_PX)


def hidden_classes() -> tuple[str, ...]:
    """The classes this store's pictures hide now; part of what a picture is kept under."""
    from flows import privacy

    with reading() as store:
        return privacy.hidden_classes(store)


def _picture(video_id: str, pts_ns: int) -> Any:
    """The frame at a time or the next one as a PIL image, None where it cannot be decoded."""
    return _decoded(store_url(), hidden_classes(), video_id, pts_ns) if can_decode() else None


@st.cache_data(show_spinner=False, max_entries=64)
def _decoded(url: str, hidden: tuple[str, ...], video_id: str, pts_ns: int) -> Any:
    del url, hidden
    from PIL import Image

    from flows.decode import read_frames
    from flows.privacy import Blur
    from flows.render import stored_video

    try:
        with reading() as store:
            video = stored_video(store, video_id)
            for frame in read_frames(video, pts_ns, threads=1):
                image_rgb = np.require(frame.image_rgb, requirements=["C", "W"])
                Blur(store, video, start_ns=frame.pts_ns).apply(image_rgb, frame.pts_ns)
                return Image.fromarray(image_rgb)
    except SightflowError:
        # The page says that there is no picture; the store's rows do not need one.
        return None
    return None


def _url(image: Any, width_px: int) -> str:
    image = image.convert("RGB")
    image.thumbnail((width_px, width_px))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def no_picture_note(source_id: str) -> None:
    """Say why there is no still, where there is none."""
    if not can_decode():
        st.caption("Without `sightflow[video]` no picture of the camera can be shown behind.")
    elif still_url(source_id) is None:
        video = newest_video(source_id)
        st.caption(f"The camera's picture is missing: `{video['uri'] if video else 'no video'}` cannot be read here.")
