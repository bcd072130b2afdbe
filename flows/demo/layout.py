"""The stage of a scene: camera, ground, walls, standing things, lanes, zones and counting lines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from flows.demo import textures
from flows.demo.camera import Camera, Floats
from flows.demo.props import MAKERS, Prop
from flows.demo.solids import Light, fill

Image = npt.NDArray[np.uint8]
THEMES = ("site", "shop", "road")
FAR_M = 110.0  # nothing stands or walks farther away than this


@dataclass(frozen=True)
class Lane:
    """A straight lane: vehicles drive from minus to plus infinity along ``direction``."""

    middle_m: Floats  # (2,) the point of the lane nearest the middle of the view
    direction: Floats  # (2,) unit
    width_m: float
    speed_m_s: float


@dataclass(frozen=True)
class Cover:
    """The part of the background that hides what is farther than ``y_m``."""

    mask: Image  # (h, w) 0 or 255
    corner_px: tuple[int, int]  # x, y of the mask's first pixel
    y_m: float


@dataclass(frozen=True)
class Stage:
    """Everything in a scene that does not move."""

    theme: str
    camera: Camera
    light: Light
    background: Image  # (H, W, 3) RGB
    covers: tuple[Cover, ...]  # from far to near
    props: tuple[Prop, ...]
    lanes: tuple[Lane, ...]
    wall_y_m: float
    zones_m: dict[str, Floats]  # polygons (K, 2)
    lines_m: dict[str, Floats]  # segments (2, 2)


@dataclass
class _Draft:
    rng: np.random.Generator
    camera: Camera
    lanes: list[Lane] = field(default_factory=list)
    zones_m: dict[str, Floats] = field(default_factory=dict)
    lines_m: dict[str, Floats] = field(default_factory=dict)
    paints: list[tuple[Floats, npt.NDArray[np.float64]]] = field(default_factory=list)  # ground polygon, colour

    def paint(self, polygon_m: Floats, colour: npt.ArrayLike) -> None:
        self.paints.append((polygon_m, np.asarray(colour, float)))


def build_stage(rng: np.random.Generator, theme: str, width_px: int, height_px: int) -> Stage:
    """Set a random stage of a theme."""
    camera = _camera(rng, theme, width_px, height_px)
    elevation, azimuth = rng.uniform(0.6, 1.3), rng.uniform(0, 2 * math.pi)
    direction = np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    light = Light(direction, float(rng.uniform(0.55, 0.8)))
    draft = _Draft(rng, camera)
    wall_y_m = _wall_distance(rng, camera)
    {"site": _plan_site, "shop": _plan_shop, "road": _plan_road}[theme](draft)
    # Streams of their own: a change to a texture must not move the things that stand on it.
    ground_rng, wall_rng, grain_rng = rng.spawn(3)
    props = _place_props(draft, theme, light, wall_y_m)
    canvas = _paint_ground(ground_rng, draft, theme)
    covers = [_paint_wall(wall_rng, camera, canvas, wall_y_m, theme)]
    for prop in sorted(props, key=lambda prop: -prop.y_m):
        cover = _paint_prop(grain_rng, canvas, prop)
        if cover:
            covers.append(cover)
    background = cv2.GaussianBlur(np.clip(canvas, 0, 255).astype(np.uint8), (0, 0), 0.55 * width_px / 640)
    zones, lines = draft.zones_m, draft.lines_m
    return Stage(
        theme, camera, light, background, tuple(covers), tuple(props), tuple(draft.lanes), wall_y_m, zones, lines
    )


def _camera(rng: np.random.Generator, theme: str, width_px: int, height_px: int) -> Camera:
    low_m, high_m = {"site": (6.0, 14.0), "shop": (3.0, 5.0), "road": (6.0, 15.0)}[theme]
    tilt_deg = rng.uniform(15, 33) if theme != "road" else rng.uniform(12, 32)
    focal = rng.uniform(0.62, 0.95) if theme == "shop" else rng.uniform(0.75, 1.3)
    return Camera(
        width_px, height_px, float(focal * width_px), float(rng.uniform(low_m, high_m)), math.radians(tilt_deg)
    )


def _wall_distance(rng: np.random.Generator, camera: Camera) -> float:
    top = max(camera.horizon_px, -0.05 * camera.height_px)
    row = top + rng.uniform(0.06, 0.26) * camera.height_px
    return min(float(camera.to_ground(np.array([camera.width_px / 2, row]))[1]), FAR_M)


def _at(draft: _Draft, u: tuple[float, float], v: tuple[float, float]) -> Floats:
    """A ground point under a random place of the image, given as fractions of its width and height."""
    camera = draft.camera
    row = max(draft.rng.uniform(*v) * camera.height_px, camera.horizon_px + 0.12 * camera.height_px)
    return camera.to_ground(np.array([draft.rng.uniform(*u) * camera.width_px, row]))


def _strip(start_m: Floats, end_m: Floats, low_m: float, high_m: float) -> Floats:
    """(4, 2) rectangle along a segment between two offsets to its left."""
    along = (end_m - start_m) / np.linalg.norm(end_m - start_m)
    left = np.array([-along[1], along[0]])
    return np.array([start_m + left * low_m, end_m + left * low_m, end_m + left * high_m, start_m + left * high_m])


def _rectangle(centre_m: Floats, wide_m: float, deep_m: float, turn_rad: float) -> Floats:
    half = np.array([math.cos(turn_rad), math.sin(turn_rad)]) * wide_m / 2
    return _strip(centre_m - half, centre_m + half, -deep_m / 2, deep_m / 2)


def _plan_road(draft: _Draft) -> None:
    rng = draft.rng
    middle = _at(draft, (0.4, 0.6), (0.5, 0.68))
    angle = rng.uniform(-0.45, 0.45) if rng.random() < 0.65 else rng.choice([-1, 1]) * rng.uniform(0.75, 1.2)
    along = np.array([math.cos(angle), math.sin(angle)])
    left = np.array([-along[1], along[0]])
    count, width = int(rng.integers(2, 5)), rng.uniform(3.0, 3.7)
    half, start, end = count * width / 2, middle - along * 160, middle + along * 160
    pavement = rng.uniform(2.5, 4.5)
    asphalt, stone = rng.uniform(78, 128) + rng.normal(0, 4, 3), rng.uniform(120, 176) + rng.normal(0, 7, 3)
    draft.paint(_strip(start, end, -half - pavement, half + pavement), stone)
    draft.paint(_strip(start, end, -half - 0.2, half + 0.2), stone * 0.8)
    draft.paint(_strip(start, end, -half, half), asphalt)
    white, speed = np.array((214, 214, 206)), rng.uniform(5, 11)
    for border in range(1, count):
        offset = -half + border * width
        solid = border == count // 2 and rng.random() < 0.6
        for s in np.arange(-160, 160, 320 if solid else 6):
            dash = _strip(
                middle + along * s, middle + along * (s + (320 if solid else 3)), offset - 0.07, offset + 0.07
            )
            draft.paint(dash, (226, 196, 70) if solid and rng.random() < 0.5 else white)
    crossing = rng.uniform(-5, 5)
    for offset in np.arange(-half + 0.3, half - 0.3, 1.0):
        stripe = _strip(middle + along * crossing, middle + along * (crossing + 3.2), offset, offset + 0.5)
        draft.paint(stripe, white)
    for lane in range(count):
        offset = -half + (lane + 0.5) * width
        onward = 1.0 if lane < count / 2 else -1.0
        centre = middle + left * offset
        draft.lanes.append(Lane(centre, along * onward, width, speed * rng.uniform(0.8, 1.2)))
        draft.zones_m[f"lane {lane + 1}"] = _strip(centre - along * 12, centre + along * 12, -width / 2, width / 2)
    draft.zones_m["crossing"] = _strip(
        middle + along * (crossing - 0.3), middle + along * (crossing + 3.5), -half - 1, half + 1
    )
    gate = middle + along * (crossing + rng.choice([-1, 1]) * rng.uniform(5, 8))
    draft.lines_m["counting line"] = np.array([gate - left * (half + pavement), gate + left * (half + pavement)])


def _plan_site(draft: _Draft) -> None:
    rng = draft.rng
    middle, angle = _at(draft, (0.4, 0.6), (0.55, 0.75)), rng.uniform(-0.3, 0.3)
    along = np.array([math.cos(angle), math.sin(angle)])
    width = rng.uniform(3.6, 5.0)
    start, end = middle - along * 120, middle + along * 120
    dirt = rng.uniform(105, 165) * np.array([1.05, 0.93, 0.76])
    draft.paint(_strip(start, end, -width / 2, width / 2), dirt)
    for rut in (-0.9, 0.9):
        draft.paint(_strip(start, end, rut - 0.22, rut + 0.22), dirt * 0.82)
    draft.lanes.append(Lane(middle, along * rng.choice([-1.0, 1.0]), width, rng.uniform(3, 6)))
    dig = _at(draft, (0.2, 0.8), (0.28, 0.42))
    pit = _rectangle(dig, rng.uniform(9, 13), rng.uniform(7, 10), rng.uniform(-0.3, 0.3))
    draft.paint(pit, dirt * rng.uniform(0.66, 0.85))
    draft.zones_m["dig area"] = pit
    for _ in range(int(rng.integers(2, 6))):
        spot = _at(draft, (0.0, 1.0), (0.3, 1.0))
        draft.paint(
            _rectangle(spot, rng.uniform(2, 8), rng.uniform(1, 4), rng.uniform(-1, 1)), dirt * rng.uniform(0.75, 1.25)
        )
    draft.zones_m["haul road"] = _strip(middle - along * 9, middle + along * 9, -width / 2, width / 2)
    gate = middle + along * rng.uniform(-4, 4)
    left = np.array([-along[1], along[0]])
    draft.lines_m["site gate"] = np.array([gate - left * width, gate + left * width])
    draft.zones_m["entrance"] = _rectangle(_at(draft, (0.15, 0.85), (0.75, 0.9)), 6.0, 3.0, angle)


def _plan_shop(draft: _Draft) -> None:
    rng = draft.rng
    line = np.array([(236, 196, 40), (225, 225, 220), (60, 110, 180)][int(rng.integers(3))])
    checkout = _at(draft, (0.25, 0.75), (0.5, 0.66))
    entrance = _at(draft, (0.2, 0.8), (0.78, 0.92))
    draft.zones_m["checkout"] = _rectangle(checkout, rng.uniform(3, 4.5), rng.uniform(2, 3), rng.uniform(-0.2, 0.2))
    draft.zones_m["entrance"] = _rectangle(entrance, rng.uniform(2.5, 4), rng.uniform(1.2, 2), rng.uniform(-0.2, 0.2))
    mat = rng.uniform(50, 130) + rng.normal(0, 22, 3)
    draft.paint(draft.zones_m["entrance"], mat)
    for polygon in (draft.zones_m["checkout"],):
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            draft.paint(_strip(a, b, -0.05, 0.05), line)
    for row in rng.choice([0.3, 0.5, 0.75], int(rng.integers(0, 3)), replace=False):
        a, b = _at(draft, (-0.3, -0.2), (row, row)), _at(draft, (1.2, 1.3), (row, row))
        draft.paint(_strip(a, b, -0.05, 0.05), line)
        draft.paint(_strip(a, b, 1.75, 1.85), line)
    draft.lines_m["door line"] = draft.zones_m["entrance"][[3, 2]]
    a, b = _at(draft, (0.1, 0.3), (0.4, 0.6)), _at(draft, (0.7, 0.9), (0.4, 0.6))
    draft.lines_m["aisle line"] = np.array([a, b])


def _paint_ground(rng: np.random.Generator, draft: _Draft, theme: str) -> textures.Planes:
    """(H, W, 3) float canvas: the painted ground seen through the camera, grain added in the image."""
    camera = draft.camera
    width, height = camera.width_px, camera.height_px
    near_m = float(camera.to_ground(np.array([width / 2, height]))[1]) * 0.8
    reach_m = {"site": 55.0, "shop": 30.0, "road": 75.0}[theme]
    x_m = min(reach_m, 0.75 * reach_m * width / camera.focal_px)
    ppm = min(1200 / reach_m, 40.0)
    size = (int(reach_m * ppm), int(2 * x_m * ppm))
    colour = {
        "site": rng.uniform(125, 195) * np.array([1.05, 0.92, 0.74]),
        "shop": rng.uniform(120, 205) + rng.normal(0, 6, 3),
        "road": rng.uniform(85, 130) * np.array([0.88, 1.02, 0.66])
        if rng.random() < 0.5
        else rng.uniform(110, 170) * np.ones(3),
    }[theme]
    contrast = {"site": 0.16, "shop": 0.045, "road": 0.1}[theme] * rng.uniform(0.7, 1.4)
    texture = textures.mottled(rng, size, np.ones(3), contrast, ppm * rng.uniform(1.5, 5))
    albedo = np.empty((*size, 3), np.float32)
    albedo[:] = np.asarray(colour, np.float32)
    texel = np.array([[ppm, 0, x_m * ppm], [0, -ppm, (near_m + reach_m) * ppm], [0, 0, 1]])
    for polygon_m, paint in draft.paints:
        corners = (np.c_[polygon_m, np.ones(len(polygon_m))] @ texel.T)[:, :2]
        cv2.fillPoly(albedo, [np.round(corners * 16).astype(np.int32)], paint.tolist(), cv2.LINE_AA, 4)
    if theme == "shop" and rng.random() < 0.7:
        texture = textures.tiles(texture, ppm * rng.choice([0.4, 0.6, 1.0]), rng.uniform(0.1, 0.4), rng)
    matrix = camera.image_from_ground() @ np.linalg.inv(texel)
    canvas = cv2.warpPerspective(
        albedo * texture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    canvas *= 1 + rng.normal(0, 0.02, (height, width, 1)).astype(np.float32)
    above = int(np.clip(math.ceil(camera.horizon_px) + 1, 0, height))
    if above:
        canvas[:above] = textures.sky(rng, (above, width)) if theme != "shop" else rng.uniform(60, 150)
    return np.asarray(canvas, np.float32)


def _paint_wall(rng: np.random.Generator, camera: Camera, canvas: textures.Planes, y_m: float, theme: str) -> Cover:
    """Draw the wall that closes the view at ``y_m`` and return what it hides."""
    height, width = canvas.shape[:2]
    tall_m = {"site": rng.uniform(1.8, 9), "shop": 12.0, "road": rng.uniform(3, 16)}[theme]
    half_m = 0.75 * width / camera.focal_px * y_m + 2
    ppm = float(np.clip(1.4 * camera.focal_px / y_m, 6, 60))
    texture = textures.facade(rng, (int(tall_m * ppm), int(2 * half_m * ppm)), ppm, theme == "shop")
    corners_m = np.array([[-half_m, y_m, tall_m], [half_m, y_m, tall_m], [half_m, y_m, 0], [-half_m, y_m, 0]])
    corners_px, _ = camera.project(corners_m)
    rows, columns = texture.shape[:2]
    square = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
    matrix = cv2.getPerspectiveTransform(square, corners_px.astype(np.float32))
    warped = cv2.warpPerspective(texture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros((height, width), np.uint8)
    fill(mask, corners_px, (255,), smooth=False)
    canvas[mask > 0] = warped[mask > 0]
    rest = np.flatnonzero(mask.any(axis=1))
    last = int(rest[-1]) + 1 if len(rest) else 1
    return Cover(mask[:last], (0, 0), y_m)


def _place_props(draft: _Draft, theme: str, light: Light, wall_y_m: float) -> list[Prop]:
    rng, camera, props = draft.rng, draft.camera, list[Prop]()
    for _ in range(int(rng.integers(4, 14)) if theme == "shop" else int(rng.integers(2, 9))):
        maker = MAKERS[theme][rng.integers(len(MAKERS[theme]))]
        for _ in range(12):
            xy_m = _at(draft, (-0.05, 1.05), (0.2, 0.97))
            prop = maker(rng, camera, light, xy_m)
            if xy_m[1] < wall_y_m - 1 and _is_clear(draft, prop, props, theme):
                props.append(prop)
                break
    return props


def _is_clear(draft: _Draft, prop: Prop, others: list[Prop], theme: str) -> bool:
    """Off the lanes and the dig area, apart from other props, and not filling the view."""
    camera = draft.camera
    corners = np.concatenate([polygon for polygon, _ in prop.polygons])
    span = np.ptp(np.clip(corners, 0, [camera.width_px, camera.height_px]), axis=0)
    if span[0] * span[1] > 0.16 * camera.width_px * camera.height_px:
        return False
    for lane in draft.lanes:
        left = np.array([-lane.direction[1], lane.direction[0]])
        if np.abs((prop.discs_m - lane.middle_m) @ left).min() < lane.width_m / 2 + prop.radius_m + 0.2:
            return False
    for name in ("dig area", "checkout", "entrance"):
        zone = draft.zones_m.get(name)
        if zone is not None and np.linalg.norm(prop.discs_m - zone.mean(axis=0), axis=1).min() < prop.radius_m + 3.0:
            return False
    return all(
        np.linalg.norm(prop.discs_m[:, None] - other.discs_m, axis=2).min() > prop.radius_m + other.radius_m + 0.9
        for other in others
    )


def _paint_prop(rng: np.random.Generator, canvas: textures.Planes, prop: Prop) -> Cover | None:
    height, width = canvas.shape[:2]
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for polygon, colour in prop.polygons:
        fill(image, polygon, colour, smooth=True)
        fill(mask, polygon, (255,), smooth=False)
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:
        return None
    # AA spills half a pixel past the mask: take the drawing wherever it touched.
    touched = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0
    grain = 1 + 0.05 * textures.noise(rng, h, w, 14.0, 3)
    patch = image.astype(np.float32)
    patch[y : y + h, x : x + w] *= grain[..., None]
    canvas[touched] = patch[touched]
    return Cover(mask[y : y + h, x : x + w].copy(), (x, y), prop.y_m)
