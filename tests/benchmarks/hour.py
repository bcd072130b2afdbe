"""A video of an hour and the tracks of one that is as long, cheaply: ten seconds, again and again."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa

from flows.decode import probe
from flows.events import recompute_events
from flows.mask import Mask
from flows.schema import OBSERVATIONS
from flows.store import Store, Zone
from tests import archive

SOURCE = "camera-00"
SECONDS, PIECE_S, FPS = 3600, 10, archive.FPS


def make_video(path: Path, width_px: int, height_px: int) -> None:
    """Write an H.264 mp4 of an hour, a keyframe every ten seconds."""
    piece = path.with_stem("piece")
    with av.open(str(piece), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": str(PIECE_S * FPS), "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        rough = np.random.default_rng(0).integers(0, 255, (height_px // 8, width_px // 8, 3), dtype=np.uint8)
        scene = np.kron(rough, np.ones((8, 8, 1), dtype=np.uint8))
        for number in range(PIECE_S * FPS):
            image = scene.copy()
            left = number * (width_px - 60) // (PIECE_S * FPS)
            image[height_px // 2 :, left : left + 60] = (200, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(piece)) as source, av.open(str(path), "w") as container:
        stream = source.streams.video[0]
        copied = container.add_stream_from_template(stream)
        packets = [(packet.pts, packet.duration, bytes(packet)) for packet in source.demux(stream) if packet.size]
        for turn in range(SECONDS // PIECE_S):
            for number, (pts, duration, data) in enumerate(packets):
                packet = av.Packet(data)
                packet.pts = packet.dts = pts + turn * round(PIECE_S / stream.time_base)
                packet.duration, packet.time_base, packet.stream = duration, stream.time_base, copied
                packet.is_keyframe = number == 0
                container.mux(packet)
    piece.unlink()


def fill(store: Store, path: Path) -> None:
    """Ten objects on every frame of the video, with masks, and their events."""
    video = probe(str(path), SOURCE, archive.DAY)
    store.add_video(video)
    middle, edge = video.width_px / 2, float(video.height_px)
    store.write_zones(SOURCE, [Zone("gate", "line", ((middle, 0.0), (middle, edge)))])
    for index in range(SECONDS // 300):
        result = archive.make_archive_chunk(SOURCE, index, 86_400 // 300, 300 * FPS * 10, video=video)
        store.plan([result.chunk])
        store.commit(replace(result, observations=_masked(result.observations)))
    archive.link_all(store, SOURCE)
    recompute_events(store, SOURCE)


def _masked(observations: pa.Table) -> pa.Table:
    # No two masks of a real object are the same.
    shapes = [np.ones((60, width), dtype=np.bool_) for width in (39, 40, 42)]
    corners = zip(*(observations[name].to_pylist() for name in ("x1_px", "y1_px")), strict=True)
    masks = [
        Mask(max(round(x), 0), max(round(y), 0), shapes[i % len(shapes)]).to_bytes() for i, (x, y) in enumerate(corners)
    ]
    place = observations.schema.get_field_index("mask")
    return observations.set_column(place, OBSERVATIONS.field("mask"), pa.array(masks, pa.binary()))
