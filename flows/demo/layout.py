"""The stage of a scene: everything that does not move, painted once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from flows.demo import textures
from flows.demo.camera import Camera, Floats
from flows.demo.plan import PLANNERS, Lane, Plan, at
from flows.demo.props import MAKERS, Prop
from flows.demo.solids import Light, fill

Image = npt.NDArray[np.uint8]
THEMES = ("site", "shop", "road")
FAR_M = 110.0  # nothing stands or walks farther away than this


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


def build_stage(rng: np.random.Generator, theme: str, width_px: int, height_px: int) -> Stage:
    """Set a random stage of a theme."""
    camera = _camera(rng, theme, width_px, height_px)
    elevation, azimuth = rng.uniform(0.6, 1.3), rng.uniform(0, 2 * math.pi)
    direction = np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    light = Light(direction, float(rng.uniform(0.55, 0.8)))
    plan = Plan(rng, camera)
    wall_y_m = _wall_distance(rng, camera)
    PLANNERS[theme](plan)
    # Streams of their own: a change to a texture must not move the things that stand on it.
    ground_rng, wall_rng, grain_rng = rng.spawn(3)
    props = _place_props(plan, theme, light, wall_y_m)
    canvas = _paint_ground(ground_rng, plan, theme)
    covers = [_paint_wall(wall_rng, camera, canvas, wall_y_m, theme)]
    for prop in sorted(props, key=lambda prop: -prop.y_m):
        cover = _paint_prop(grain_rng, canvas, prop)
        if cover:
            covers.append(cover)
    background = cv2.GaussianBlur(np.clip(canvas, 0, 255).astype(np.uint8), (0, 0), 0.55 * width_px / 640)
    zones, lines = plan.zones_m, plan.lines_m
    return Stage(
        theme, camera, light, background, tuple(covers), tuple(props), tuple(plan.lanes), wall_y_m, zones, lines
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


def _paint_ground(rng: np.random.Generator, plan: Plan, theme: str) -> textures.Planes:
    """(H, W, 3) float canvas: the painted ground seen through the camera, grain added in the image."""
    camera = plan.camera
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
    for polygon_m, paint in plan.paints:
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


def _place_props(plan: Plan, theme: str, light: Light, wall_y_m: float) -> list[Prop]:
    rng, camera, props = plan.rng, plan.camera, list[Prop]()
    for _ in range(int(rng.integers(4, 14)) if theme == "shop" else int(rng.integers(2, 9))):
        maker = MAKERS[theme][rng.integers(len(MAKERS[theme]))]
        for _ in range(12):
            xy_m = at(plan, (-0.05, 1.05), (0.2, 0.97))
            prop = maker(rng, camera, light, xy_m)
            if xy_m[1] < wall_y_m - 1 and _is_clear(plan, prop, props, theme):
                props.append(prop)
                break
    return props


def _is_clear(plan: Plan, prop: Prop, others: list[Prop], theme: str) -> bool:
    """Off the lanes and the dig area, apart from other props, and not filling the view."""
    camera = plan.camera
    corners = np.concatenate([polygon for polygon, _ in prop.polygons])
    span = np.ptp(np.clip(corners, 0, [camera.width_px, camera.height_px]), axis=0)
    if span[0] * span[1] > 0.16 * camera.width_px * camera.height_px:
        return False
    for lane in plan.lanes:
        left = np.array([-lane.direction[1], lane.direction[0]])
        if np.abs((prop.discs_m - lane.middle_m) @ left).min() < lane.width_m / 2 + prop.radius_m + 0.2:
            return False
    for name in ("dig area", "checkout", "entrance"):
        zone = plan.zones_m.get(name)
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
