"""Small solid bodies of flat faces, projected and shaded into polygons that OpenCV can fill."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from flows.demo.camera import Camera, Floats

Polygon = tuple[Floats, tuple[float, float, float]]  # (n, 2) pixel corners, RGB 0-255

SUBPIXEL_BITS = 4
DISC_CORNERS = 12


@dataclass(frozen=True)
class Light:
    """Direction towards the light (unit, ground axes) and how much of a face's brightness is ambient."""

    direction: Floats
    ambient: float


@dataclass(frozen=True)
class Solid:
    """Flat faces in painter's order; the corners of each run anticlockwise seen from outside."""

    vertices_m: Floats  # (V, 3)
    faces: tuple[npt.NDArray[np.int64], ...]
    colours: Floats  # (F, 3) RGB 0-255

    def placed(self, xyz_m: npt.ArrayLike, heading_rad: float) -> Solid:
        """The same body turned about z and moved."""
        cos, sin = math.cos(heading_rad), math.sin(heading_rad)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        return Solid(self.vertices_m @ turn + np.asarray(xyz_m, float), self.faces, self.colours)

    def polygons(self, camera: Camera, light: Light) -> list[Polygon]:
        """The faces turned to the camera, shaded, in painter's order."""
        corners = self.vertices_m[np.array([face[:3] for face in self.faces])]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
        lens_m = np.array([0.0, 0.0, camera.height_m])
        turned = np.einsum("ij,ij->i", normals, lens_m - corners[:, 0]) > 0
        diffuse = np.maximum(normals @ light.direction, 0)
        shaded = np.clip(self.colours * (light.ambient + (1 - light.ambient) * diffuse)[:, None], 0, 255)
        uv_px, _ = camera.project(self.vertices_m)
        return [
            (uv_px[face], (colour[0], colour[1], colour[2]))
            for face, colour, seen in zip(self.faces, shaded.tolist(), turned.tolist(), strict=True)
            if seen
        ]


@dataclass
class Builder:
    """Collects boxes, wedges, discs and flat markings into one ``Solid``."""

    vertices: list[Floats] = field(default_factory=list)
    faces: list[npt.NDArray[np.int64]] = field(default_factory=list)
    colours: list[Floats] = field(default_factory=list)
    count: int = 0

    def add(self, vertices_m: Floats, faces: list[list[int]], colour: npt.ArrayLike) -> None:
        """Append faces given by indices into ``vertices_m``."""
        self.vertices.append(np.asarray(vertices_m, float))
        self.faces.extend(np.array(face) + self.count for face in faces)
        self.colours.extend([np.asarray(colour, float)] * len(faces))
        self.count += len(vertices_m)

    def frustum(self, base: npt.ArrayLike, top: npt.ArrayLike, z_m: tuple[float, float], colour: npt.ArrayLike) -> None:
        """A block whose base and top are rectangles (x0, x1, y0, y1) in metres; a box if they are equal."""
        bottom, upper = np.asarray(base, float), np.asarray(top, float)
        ring = [[0, 2], [1, 2], [1, 3], [0, 3]]
        corners = [[*rect[pair], z] for rect, z in ((bottom, z_m[0]), (upper, z_m[1])) for pair in ring]
        faces = [[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7]]
        self.add(np.array(corners), faces, colour)

    def box(self, rect: npt.ArrayLike, z_m: tuple[float, float], colour: npt.ArrayLike) -> None:
        """A box over the rectangle (x0, x1, y0, y1)."""
        self.frustum(rect, rect, z_m, colour)

    def marking(self, face: int, u: tuple[float, float], v: tuple[float, float], colour: npt.ArrayLike) -> None:
        """A flat patch on the four-cornered face number ``face`` (negative counts from the last added).

        ``u`` runs along the face's base and ``v`` up from it, both 0-1.
        """
        vertices = np.concatenate(self.vertices)
        a, b, c, d = vertices[self.faces[face]]
        patch = [
            (a * (1 - s) + b * s) * (1 - t) + (d * (1 - s) + c * s) * t
            for s, t in ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1]))
        ]
        self.add(np.array(patch), [[0, 1, 2, 3]], colour)

    def wheels(self, xs_m: list[float], half_width_m: float, radius_m: float) -> None:
        """Dark discs with pale hubs on both flanks."""
        angles = np.linspace(0, 2 * math.pi, DISC_CORNERS, endpoint=False)
        for x in xs_m:
            for side in (-1.0, 1.0):
                for scale, colour in ((1.0, (26, 26, 28)), (0.5, (120, 122, 126))):
                    around = angles * -side
                    disc = np.stack(
                        [
                            x + scale * radius_m * np.cos(around),
                            np.full_like(around, side * half_width_m),
                            radius_m + scale * radius_m * np.sin(around),
                        ],
                        axis=1,
                    )
                    self.add(disc, [list(range(DISC_CORNERS))], colour)

    def build(self) -> Solid:
        """The finished body."""
        return Solid(np.concatenate(self.vertices), tuple(self.faces), np.array(self.colours))


def beam(start_m: Floats, end_m: Floats, across: Floats, width_m: float, depths_m: tuple[float, float]) -> Solid:
    """A tapering beam between two points; ``across`` is the unit vector of its width."""
    along = end_m - start_m
    up = np.cross(along, across)
    up /= np.linalg.norm(up) + 1e-12
    ring = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    corners = [
        point + 0.5 * (width_m * across * a + depth * up * b)
        for point, depth in ((start_m, depths_m[0]), (end_m, depths_m[1]))
        for a, b in ring
    ]
    faces = [[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7], [3, 2, 1, 0]]
    return Solid(np.array(corners), tuple(np.array(face) for face in faces), np.zeros((len(faces), 3)))


def painted(solid: Solid, colour: npt.ArrayLike) -> Solid:
    """The same body in one colour."""
    return Solid(solid.vertices_m, solid.faces, np.tile(np.asarray(colour, float), (len(solid.faces), 1)))


def fill(canvas: npt.NDArray[np.uint8], polygon: Floats, colour: tuple[float, ...], smooth: bool) -> None:
    """Fill a polygon given in pixel-centre coordinates, with sub-pixel corners."""
    corners = np.round(polygon * (1 << SUBPIXEL_BITS)).astype(np.int32)
    line = cv2.LINE_AA if smooth else cv2.LINE_8
    cv2.fillPoly(canvas, [corners], colour, line, SUBPIXEL_BITS)
