"""Frames and the sound of their video -> H.264 mp4, with the timing of the source."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

from flows.errors import VideoError
from flows.media import open_video
from flows.output import written_whole
from flows.schema import NS, Frame, ImageArray, Video

logger = logging.getLogger(__name__)

_CLOCK_HZ = 90_000
"""Ticks a second of the written file: MPEG's clock, in which 24, 25, 30 and 50 frames a second are whole numbers."""

_BT709 = 1

_COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "alac")
"""Codecs an mp4 holds as they are; others, such as the G.711 of cameras, become AAC."""


class Mp4Writer:
    """Writes frame after frame, and the sound between the first and the last of them."""

    def __init__(self, container: Any, stream: Any, sound: Sound | None) -> None:
        self._container, self._stream, self._sound = container, stream, sound
        self._first_ns: int | None = None
        self._reformatter = VideoReformatter()

    @classmethod
    @contextmanager
    def to(
        cls, path: Path, video: Video, crf: int, *, sound: bool = True, max_width_px: int | None = None
    ) -> Iterator[Mp4Writer]:
        """Open for frames of this video, written no wider than said; the file is there once the block ends well."""
        with (
            ExitStack() as opened,
            written_whole(path) as temporary,
            av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            stream = container.add_stream("libx264", options={"crf": str(crf), "preset": "veryfast"})
            scale = min(1.0, (max_width_px or video.width_px) / video.width_px)
            # 4:2:0 stores colour for two by two pixels.
            stream.width, stream.height = (math.ceil(scale * px / 2) * 2 for px in (video.width_px, video.height_px))
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.time_base = Fraction(1, _CLOCK_HZ)
            context.framerate = Fraction(video.fps).limit_denominator(1001)
            # Players guess by size where nothing is said, and then differ in colour.
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            writer = cls(container, stream, Sound.of(video, container, opened) if sound else None)
            yield writer
            container.mux(stream.encode())
            writer.close()

    def write(self, frame: Frame) -> None:
        """Encode one frame, timed from the first one written, after the sound before it."""
        if self._first_ns is None:
            self._first_ns = frame.pts_ns
            if self._sound is not None:
                self._sound.begin(frame.pts_ns)
        elif self._sound is not None:
            self._sound.write_until(frame.pts_ns)
        picture = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(self._sized(frame.image_rgb)), format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        picture.pts = round((frame.pts_ns - self._first_ns) * _CLOCK_HZ / NS)
        picture.time_base = Fraction(1, _CLOCK_HZ)
        self._container.mux(self._stream.encode(picture))

    def _sized(self, image_rgb: ImageArray) -> ImageArray:
        """The picture at the file's size, shrunk or with its edge repeated."""
        height, width = image_rgb.shape[:2]
        more_x, more_y = self._stream.width - width, self._stream.height - height
        if more_x < 0 or more_y < 0:
            # Before it is copied and changed to YUV, which cost more the larger it is.
            size = (self._stream.width, self._stream.height)
            return np.asarray(cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        if more_x or more_y:
            return np.pad(image_rgb, ((0, more_y), (0, more_x), (0, 0)), mode="edge")
        return image_rgb

    def close(self) -> None:
        """Write what the encoder of the sound still holds."""
        if self._sound is not None:
            self._sound.close()


class Sound:
    """The sound of a video, copied or made AAC, read beside its frames. Damage ends it, with a line in the log."""

    def __init__(self, source: Any, stream: Any, origin_s: float, container: Any) -> None:
        self._source, self._stream, self._origin_s, self._container = source, stream, origin_s, container
        self._copied = stream.codec_context.name in _COPIED
        self._out = (
            container.add_stream_from_template(stream)
            if self._copied
            else container.add_stream("aac", rate=stream.codec_context.sample_rate)
        )
        self._packets: Iterator[tuple[int, Any]] = iter(())
        self._ahead: tuple[int, Any] | None = None

    @classmethod
    def of(cls, video: Video, container: Any, opened: ExitStack) -> Sound | None:
        """The sound of a video, None where it has none; its file stays open as long as `opened`."""
        source, pictures = opened.enter_context(open_video(video.uri))
        stream = source.streams.best("audio")
        if stream is None or stream.codec_context is None:
            return None
        origin_s = float((pictures.start_time or 0) * pictures.time_base)
        return cls(source, stream, origin_s, container)

    def begin(self, pts_ns: int) -> None:
        """Go to the sound at a presentation timestamp; it becomes the beginning."""
        self._packets = self._read(self._origin_s + pts_ns / NS, pts_ns)
        self._ahead = next(self._packets, None)

    def write_until(self, pts_ns: int) -> None:
        """Write the sound before a presentation timestamp."""
        while self._ahead is not None and self._ahead[0] < pts_ns:
            self._container.mux(self._ahead[1])
            self._ahead = next(self._packets, None)

    def close(self) -> None:
        """Write what the encoder still holds."""
        if not self._copied and self._out.codec_context.is_open:
            self._container.mux(self._out.encode(None))

    def _read(self, start_s: float, start_ns: int) -> Iterator[tuple[int, Any]]:
        """Packets to write from a time of the file on, each with its presentation timestamp in the video."""
        try:
            if start_ns > 0:
                self._source.seek(int(start_s * av.time_base))
            for packet in self._source.demux(self._stream):
                if packet.pts is None or not packet.size or packet.pts * packet.time_base < start_s:
                    continue
                pts_ns = round((float(packet.pts * packet.time_base) - self._origin_s) * NS)
                yield from ((pts_ns, made) for made in self._made(packet, start_s))
        except (av.FFmpegError, VideoError) as error:
            logger.warning("the sound ends early: %s", error)

    def _made(self, packet: Any, start_s: float) -> Iterator[Any]:
        if self._copied:
            shift = round(start_s / packet.time_base)
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = self._out
            yield packet
            return
        for frame in packet.decode():
            frame.pts = round((float(frame.pts * frame.time_base) - start_s) * frame.sample_rate)
            frame.time_base = Fraction(1, frame.sample_rate)
            yield from self._out.encode(frame)
