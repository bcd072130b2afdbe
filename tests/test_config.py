import pytest

from flows.config import Settings
from flows.decode import keyframe_interval
from flows.errors import ConfigError


def test_flags_win_over_environment_over_file(tmp_path, monkeypatch):
    file = tmp_path / "settings.yaml"
    file.write_text("detect: {detect_every: 3, min_conf: 0.2, batch: 2}\n")
    monkeypatch.setenv("SIGHTFLOW_DETECT__MIN_CONF", "0.3")
    monkeypatch.setenv("SIGHTFLOW_DETECT__BATCH", "5")
    settings = Settings.load(file, {"detect": {"batch": 7, "detector": None}})
    assert (settings.detect.detect_every, settings.detect.min_conf, settings.detect.batch) == (3, 0.3, 7)
    assert settings.detect.detector == "nano"


@pytest.mark.parametrize(
    ("text", "environment", "flag", "frames"),
    [
        ("", {}, None, 15),
        ("detect: {detect_every_seconds: 2}", {}, None, 60),
        ("detect: {detect_every: 7}", {}, None, 7),
        ("detect: {detect_every: 7, detect_every_seconds: 2}", {}, None, 7),
        ("detect: {detect_every: 7, detect_every_seconds: null}", {}, None, 7),
        ("detect: {detect_every_seconds: 2}", {}, 3, 3),
        ("detect: {detect_every: 7}", {"DETECT_EVERY_SECONDS": "1"}, None, 30),
        ("detect: {detect_every_seconds: 2}", {"DETECT_EVERY": "5"}, None, 5),
        ("", {"DETECT_EVERY": "5"}, 3, 3),
    ],
)
def test_the_interval_of_keyframes_that_is_given_last_counts(tmp_path, monkeypatch, text, environment, flag, frames):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    for name, value in environment.items():
        monkeypatch.setenv(f"SIGHTFLOW_DETECT__{name}", value)
    assert keyframe_interval(Settings.load(file, {"detect": {"detect_every": flag}}).detect, fps=30) == frames


@pytest.mark.parametrize(("fps", "frames"), [(0.1, 1), (1, 1), (7, 4), (15, 8), (25, 12), (60, 30)])
def test_keyframes_are_half_a_second_apart_at_any_frame_rate(fps, frames):
    assert keyframe_interval(Settings().detect, fps) == frames


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detect: {detect_every_seconds: null}", "one of detect_every_seconds and detect_every must be set"),
        ("detect: {detect_evry: 3}", "detect.detect_evry"),
        ("detect: {detect_every: 0}", "detect.detect_every"),
        ("plan: {chunk_seconds: 1}", "overlap_seconds"),
        ("- a\n- b", "one mapping per step"),
        ("detect: [", "not a readable YAML"),
        ("1: {detect_every: 3}", "1: Extra inputs"),
        ("null: {detect_every: 3}", "None: Extra inputs"),
        ("detect: 5", "detect: expected its fields"),
        ("plan: {chunk_seconds: .inf}", "plan.chunk_seconds"),
        ("events: {speed_window_seconds: 1.0e300}", "events.speed_window_seconds"),
        ("events: {near_m: 1.0e300}", "events.near_m"),
        ("events: {machine_classes: [person]}", "person: in person_classes and in machine_classes"),
        ("segment: {image_size: 100}", "segment.image_size: Input should be a multiple of 32"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path, text, message):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        # Flags that were not given must not hide what the file says.
        Settings.load(file, {"detect": {"detector": None}})
    assert "settings.yaml" in str(error.value)


def test_a_step_without_fields_is_all_defaults(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("detect:\ntrack:\n")
    assert Settings.load(file) == Settings.load()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SIGHTFLOW_TRACKK__SMOOTH", "false", "SIGHTFLOW_TRACKK__SMOOTH sets nothing: no step 'trackk'"),
        ("SIGHTFLOW_DETECT__CLASSES", "person", "lists are JSON there"),
        ("SIGHTFLOW_TRACK__MAX_BRIDGE_SECONDS", "two", "track.max_bridge_seconds"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        Settings.load()


def test_only_what_changes_results_is_in_the_hash():
    base = Settings.load().result_hash()
    same = {"detect": {"batch": 1}, "segment": {"batch": 1}, "run": {"track_workers": 3}, "store": {"url": "x"}}
    assert Settings.load(flags=same).result_hash() == base
    for changed in ({"track": {"match_iou": 0.4}}, {"store": {"observe_hz": 1}}, {"plan": {"chunk_seconds": 60}}):
        assert Settings.load(flags=changed).result_hash() != base


def test_every_field_is_documented():
    for step in Settings.model_fields.values():
        for name, field in step.annotation.model_fields.items():
            assert field.description, name
