"""Fonts for what is drawn on pictures: one that has every character of a text, where this machine has one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}
_BROAD = ("cjk", "unicode", "fallback", "wqy", "noto", "dejavu")
"""Parts of names of fonts with many characters, which are tried before others."""

_NOBODYS = "\U0010ffff"
"""A character no font has: what is drawn in its place is what is drawn for every missing one."""


@lru_cache(maxsize=256)
def font_for(text: str, font_px: int) -> Font:
    """A font for a text: Pillow's own, or else the first on this machine that has all characters the text needs."""
    wanted = frozenset(character for character in text if not character.isascii())
    if not wanted or (path := _file_with(wanted)) is None:
        return ImageFont.load_default(font_px)
    return ImageFont.truetype(path, font_px)


@lru_cache(maxsize=256)
def _file_with(wanted: frozenset[str]) -> str | None:
    """The file of a font with these characters; None for Pillow's own, and where no font has them."""
    if _has(ImageFont.load_default(16), wanted):
        return None
    for path in _files():
        try:
            font = ImageFont.truetype(str(path), 16)
        except OSError:  # no font of a kind FreeType reads
            continue
        if _has(font, wanted):
            return str(path)
    return None


def _has(font: Font, wanted: frozenset[str]) -> bool:
    missing = bytes(font.getmask(_NOBODYS))
    return all(character.isspace() or bytes(font.getmask(character)) != missing for character in wanted)


def _files() -> Iterator[Path]:
    """Font files: that of matplotlib, which has the alphabets of Europe and more, then those of the machine."""
    try:
        import matplotlib

        yield Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    except ImportError:
        pass
    folders = [Path(folder).expanduser() for folder in _FOLDERS.get(sys.platform, ())]
    found = [
        path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]
    yield from sorted(found, key=lambda path: (not any(part in path.name.lower() for part in _BROAD), path))
