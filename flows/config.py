"""Settings: YAML file, environment (`SIGHTFLOW_TRACK__MAX_BRIDGE_SECONDS=2`) and flags become frozen values.

One class per step. A field's docstring is its documentation: `sightflow run --help` and `docs/settings.md` are
made from it. `result_hash` covers exactly the settings that change what is computed, so that a changed batch size
does not recompute an archive and a changed threshold does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from flows.errors import ConfigError

_INTERVALS = ("detect_every_seconds", "detect_every")
_ENV_PREFIX = "SIGHTFLOW_"


class _Step(BaseModel):
    # Infinity is no number of seconds that can be counted in nanoseconds.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class PlanSettings(_Step):
    """How videos are cut into chunks."""

    chunk_seconds: float = Field(300.0, ge=0.1, le=86_400)
    """Length of a chunk, in seconds of video; the unit of parallel work and of what a crash can cost."""
    overlap_seconds: float = Field(1.0, ge=0, le=3600)
    """Video shared by neighbouring chunks, in seconds, half of it on either side of the border: identities are stitched
    over it, and objects are known by the time a chunk begins to report them."""

    @model_validator(mode="after")
    def _overlap_fits(self) -> PlanSettings:
        if self.overlap_seconds * 2 > self.chunk_seconds:
            raise ValueError(
                f"overlap_seconds ({self.overlap_seconds:g}) must be at most half of "
                f"chunk_seconds ({self.chunk_seconds:g})"
            )
        return self


class DetectSettings(_Step):
    """The detector and the keyframes it sees."""

    detector: str = "nano"
    """Name (see `sightflow models list`) or path of a YOLO model in any format ultralytics loads."""
    detect_every_seconds: float | None = Field(0.5, ge=0.001, le=3600)
    """Run the detector on one frame (a keyframe) in this time, in seconds of video. The frames between are held in
    memory for new objects to be followed back."""
    detect_every: int | None = Field(None, ge=1)
    """The same in frames. Of both, what is set last counts (file, environment, flags); in one place, frames."""
    classes: tuple[str, ...] = ()
    """Class names to keep; empty keeps all the detector knows."""
    min_conf: float = Field(0.1, gt=0, lt=1)
    """Detections below this confidence are dropped at once."""
    nms_iou: float = Field(0.6, gt=0, le=1)
    """Of two detections of one class that overlap more than this IoU, the weaker is dropped."""
    image_size: int | None = Field(None, ge=32)
    """Detector input size in pixels (long side); default: the size the model was exported or trained with."""
    batch: int = Field(8, ge=1)
    """Keyframes per detector call. Halved when the device's memory does not suffice."""

    @model_validator(mode="after")
    def _some_interval(self) -> DetectSettings:
        if self.detect_every is None and self.detect_every_seconds is None:
            raise ValueError("one of detect_every_seconds and detect_every must be set")
        return self


class SegmentSettings(_Step):
    """The segmenter: SAM 2 and its memory."""

    segmenter: str = "nano"
    """Name (see `sightflow models list`) or path of SAM 2 weights."""
    image_size: int | None = Field(None, ge=64, multiple_of=32)
    """Segmenter input size in pixels (square); default: the size the model was trained with."""
    segment_every: int = Field(1, ge=1)
    """Run the segmenter on every n-th frame; the Kalman filter carries the boxes in between."""
    max_cond_frames: int = Field(4, ge=2)
    """Prompted frames kept in memory per object; more costs time linearly and gains little."""
    max_back_frames: int = Field(60, ge=0)
    """Frames a new object is carried back at most, on the way to the keyframe before; each holds its features till
    then (17 MB at 1024 px)."""
    batch: int = Field(64, ge=1)
    """Objects per segmenter call. Halved when the device's memory does not suffice. One at a time in fp32, masks are
    those of plain SAM 2 bit for bit."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the segmenter: `auto` is bf16 on a GPU that has it and fp32 elsewhere."""
    compile: bool = False
    """Compile the segmenter's steps with `torch.compile`: minutes at the start of every worker, for few numbers of
    objects, up to which batches are filled. For GPUs and long archives; what it gains there is not measured yet."""


class TrackSettings(_Step):
    """Birth, matching, drift, occlusion and end of tracklets."""

    prompt_conf: float = Field(0.85, gt=0, le=1)
    """A detection at least this confident starts an object at once."""
    tentative_conf: float = Field(0.5, gt=0, le=1)
    """A detection between this and `prompt_conf` starts an object that a later keyframe must confirm; weaker ones
    keep objects alive and start none. From 0.4 on, false ones take more matches than true ones gain."""
    confirm_conf: float = Field(0.65, gt=0, le=1)
    """At least one detection must be this confident before an object born below `prompt_conf` is reported, unless it
    moves: by its own size, on three keyframes at least, with a mean confidence of `tentative_conf`."""
    match_iou: float = Field(0.3, gt=0, lt=1)
    """Smallest IoU of a detection and a predicted box that counts as the same object."""
    correct_iou: float = Field(0.7, gt=0, lt=1)
    """A matched mask whose box overlaps its detection less than this is reset from the detection."""
    duplicate_iou: float = Field(0.8, gt=0, le=1)
    """Of two objects of one class overlapping more than this, the younger or weaker ends; of two detections of two
    classes, people apart, the less sure starts none."""
    gate_probability: float = Field(0.999, gt=0.5, lt=1)
    """Mass of the Kalman prediction inside the gate; a measurement outside it is drift. A detection that the predicted
    box does not overlap must be inside that of motion, looks and time together, too."""
    max_area_change: float = Field(2.5, gt=1)
    """A mask that grows or shrinks by more than this factor between two frames has drifted."""
    min_object_score: float = 0.0
    """SAM 2's object score (a logit) at or below which the object is taken as not visible."""
    max_bridge_seconds: float = Field(3.0, ge=0, le=86_400)
    """How long the Kalman filter carries an object that is not seen."""
    max_missed_seconds: float = Field(3.0, ge=0, le=86_400)
    """An object the detector has missed for so long, on two keyframes at least, though its mask is visible, ends."""
    min_hits: int = Field(2, ge=1)
    """Keyframes that must show an object born below `prompt_conf` before it is reported."""
    compensate_camera: bool = False
    """Follow the camera's own motion (drones, pan and tilt, shaking masts), lest it be taken for the objects'."""
    smooth: bool = True
    """Re-estimate boxes from both sides (Rauch-Tung-Striebel) once a chunk is through."""


class StitchSettings(_Step):
    """Joining tracklets into tracks across chunk borders and gaps."""

    min_overlap_iou: float = Field(0.3, gt=0, lt=1)
    """Smallest mean IoU over the shared frames that joins two tracklets, but a part to what looks like it."""
    max_gap_seconds: float = Field(5.0, ge=0, le=86_400)
    """Longest gap between two tracklets that motion may bridge."""
    gate_probability: float = Field(0.999, gt=0.5, lt=1)
    """Mass of the motion prediction inside which a tracklet's start must lie."""


class StoreSettings(_Step):
    """Where results go, and how much of them."""

    url: str = "./sightflow-data"
    """A folder (Parquet) or `postgresql://...` (PostGIS)."""
    observe_hz: float | None = Field(None, ge=0.0001, le=1000)
    """Store at most this many observations per second and object (first, last and state changes always)."""
    masks: Literal["none", "polygon", "rle"] = "rle"
    """What observations carry of their masks: nothing, outlines to within a pixel, or every pixel as run lengths."""
    max_attempts: int = Field(3, ge=1)
    """A chunk whose process died this often is recorded as failed and left alone."""


class GeoreferenceSettings(_Step):
    """Ground positions from a drone's telemetry, the DJI subtitle file beside its video."""

    telemetry: bool = True
    """Whether sources without a calibration are placed by telemetry, where there is any."""
    gimbal_pitch_deg: float | None = Field(None, ge=-90, lt=0)
    """Pitch of the camera where telemetry does not say it; -90 looks straight down. Without either, no positions."""
    focal_35mm: float | None = Field(None, gt=5, le=2000)
    """Focal length in mm, equivalent to 35 mm film, where telemetry does not say it; on the camera's data sheet."""
    position_sigma_m: float = Field(1.5, gt=0, le=10_000)
    """Standard deviation of the drone's horizontal position; 0.05 with RTK."""
    height_sigma_m: float = Field(1.0, gt=0, le=10_000)
    """Standard deviation of its height above the ground, which is taken as flat."""
    angle_sigma_deg: float = Field(1.0, gt=0, le=180)
    """Standard deviation of the gimbal's pitch and roll."""
    heading_sigma_deg: float = Field(3.0, gt=0, le=180)
    """Standard deviation of the gimbal's yaw."""
    focal_sigma_share: float = Field(0.02, ge=0, lt=1)
    """Standard deviation of the focal length, as a share of it."""


class EventSettings(_Step):
    """What counts as an event, and how near or slow it must be."""

    debounce_seconds: float = Field(0.5, ge=0, le=86_400)
    """Shorter absences are jitter of the ground point on the zone's edge; so are stays that do not go clear of it."""
    min_visit_seconds: float = Field(0.0, ge=0, le=86_400)
    """Shorter visits are left out."""
    clear_sigmas: float = Field(2.0, ge=0, le=1000)
    """What is clear of a zone's edge or of a line, in standard deviations of an object's ground point."""
    speed_window_seconds: float = Field(1.0, ge=0.01, le=3600)
    """Speeds are displacements over this time."""
    standing_m_s: float = Field(0.25, ge=0.001, le=1000)
    """Objects slower than this on the ground stand."""
    standing_sizes_s: float = Field(0.06, ge=0.001, le=1000)
    """So do objects slower than this in the picture, in sizes of their box (root of its area) per second."""
    working_classes: tuple[str, ...] = ("excavator", "crane", "loader", "bulldozer")
    """Classes of machines that work where they stand, so that a change of their shape is activity."""
    arm_classes: tuple[str, ...] = ("excavator", "crane")
    """Classes of machines whose arms swing: while one stands, it is where its boxes overlap for all events."""
    work_share: float = Field(0.03, gt=0, lt=1)
    """Such a machine works where its mask changes by more than this share of its area within `work_seconds`."""
    work_seconds: float = Field(2.0, ge=0.1, le=3600)
    """Over how long changes of masks are taken: an arm that turns back stands for a moment."""
    idle_seconds: float = Field(1.5, ge=0, le=86_400)
    """A pause shorter than this between two activities is none, and neither is a shorter activity."""
    near_m: float = Field(3.0, gt=0, le=1000)
    """A person and a machine are in proximity below this distance, from the person to what the machine reaches."""
    person_classes: tuple[str, ...] = ("person",)
    """Classes of people."""
    machine_classes: tuple[str, ...] = (
        *("car", "truck", "bus", "train", "forklift"),
        *("excavator", "crane", "loader", "bulldozer"),
    )
    """Classes of machines."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> EventSettings:
        if both := set(self.person_classes) & set(self.machine_classes):
            raise ValueError(f"{', '.join(sorted(both))}: in person_classes and in machine_classes; one of them")
        return self


class RunSettings(_Step):
    """How a run uses the machines. None of this changes results."""

    detect_workers: int | None = Field(None, ge=1)
    """Detection actors; default: derived from what the cluster has."""
    track_workers: int | None = Field(None, ge=1)
    """Tracking actors; default: derived from what the cluster has."""
    detect_gpus: float = Field(0.25, ge=0)
    """GPU share of a detection actor, where the cluster has GPUs."""
    track_gpus: float = Field(0.75, ge=0)
    """GPU share of a tracking actor, where the cluster has GPUs."""
    detect_labels: dict[str, str] = {}
    """Labels of the nodes detection runs on, as in `{"ray.io/accelerator-type": "T4"}`; default: any."""
    track_labels: dict[str, str] = {}
    """Labels of the nodes tracking runs on; default: any."""
    torch_threads: int | None = Field(None, ge=1)
    """CPU threads of each actor; default: cores divided by actors."""
    lease_seconds: float = Field(60.0, gt=0, le=86_400)
    """How long the chunks a run began stay its own after it was killed; then other runs take them."""
    watch_seconds: float = Field(10.0, gt=0, le=86_400)
    """How often `--watch` looks for new videos; a file must have been left alone for as long."""


class Settings(BaseSettings):
    """All settings of a run, resolved: defaults, then YAML file, then environment, then flags."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=_ENV_PREFIX,
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    plan: PlanSettings = PlanSettings()
    detect: DetectSettings = DetectSettings()
    segment: SegmentSettings = SegmentSettings()
    track: TrackSettings = TrackSettings()
    stitch: StitchSettings = StitchSettings()
    store: StoreSettings = StoreSettings()
    georeference: GeoreferenceSettings = GeoreferenceSettings()
    events: EventSettings = EventSettings()
    run: RunSettings = RunSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` passes and the environment; no dotenv, no secrets folder."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings

    @classmethod
    def load(cls, file: Path | None = None, flags: dict[str, dict[str, Any]] | None = None) -> Settings:
        """Resolve settings from a YAML file, the environment and flags, the later winning.

        Args:
            file: YAML with one mapping per step, e.g. `track: {max_bridge_seconds: 2}`.
            flags: `{"detect": {"detect_every": 5}}`; values that are None are left out.

        Raises:
            ConfigError: naming the file, the field and what was expected.
        """
        from_file = _read_yaml(file) if file else {}
        given = {step: {k: v for k, v in fields.items() if v is not None} for step, fields in (flags or {}).items()}
        _check_environment(cls.model_fields)
        try:
            environment = cls().model_dump(exclude_unset=True)
            return cls(**_merged(_merged(from_file, environment), given))
        except ValidationError as error:
            raise ConfigError(_readable(error, file)) from None
        except SettingsError as error:
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise ConfigError(
                f"environment: {error}{cause}; lists are JSON there, as in SIGHTFLOW_DETECT__CLASSES='[\"person\"]'"
            ) from None

    def result_hash(self) -> str:
        """Hash of what changes results; part of every chunk's id.

        Batches, compilation, worker counts, the store's address and what never touches video (stitching,
        georeferencing, events) are left out.
        """
        changing = {
            "plan": self.plan.model_dump(),
            "detect": self.detect.model_dump(exclude={"batch"}),
            "segment": self.segment.model_dump(exclude={"batch", "compile"}),
            "track": self.track.model_dump(),
            "store": self.store.model_dump(include={"observe_hz", "masks"}),
        }
        return hashlib.sha256(json.dumps(changing, sort_keys=True).encode()).hexdigest()[:16]


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: not a readable YAML file: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected one mapping per step (plan:, detect:, ...), got {type(content).__name__}")
    for step, fields in content.items():
        if not isinstance(fields, dict | None):
            raise ConfigError(f"{file}: {step}: expected its fields, as in `{step}: {{field: value}}`, got {fields!r}")
    # Names as they stand there: YAML reads `1` and `null` as no text.
    return {str(step): fields or {} for step, fields in content.items()}


def _check_environment(steps: Iterable[str]) -> None:
    """Refuse a variable of a step there is not, which would change nothing in silence."""
    for name in os.environ:
        step, separator, _ = name.upper().removeprefix(_ENV_PREFIX).partition("__")
        if name.upper().startswith(_ENV_PREFIX) and separator and step.lower() not in steps:
            raise ConfigError(
                f"environment: {name} sets nothing: no step {step.lower()!r}; there are {', '.join(steps)}"
            )


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for step, fields in high.items():
        if not isinstance(fields, dict) or not isinstance(low.get(step), dict):
            merged[step] = fields
            continue
        # An interval takes the place of one that was given in the other unit.
        replaced = _INTERVALS if step == "detect" and any(fields.get(n) is not None for n in _INTERVALS) else ()
        merged[step] = {**{name: value for name, value in low[step].items() if name not in replaced}, **fields}
    return merged


def _readable(error: ValidationError, file: Path | None) -> str:
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "settings"
        # A rule over several fields names them itself; its input would be the whole section.
        came = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
        lines.append(f"{field}: {item['msg'].removeprefix('Value error, ')}{came}")
    where = f" (flags, environment and {file})" if file else ""
    return "invalid settings" + where + ":\n  " + "\n  ".join(lines)
