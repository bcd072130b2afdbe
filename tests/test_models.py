"""Names to weights, and weights to SAM 2's predictor."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import flows.models
from flows.catalog import DEMO, MODELS, ModelSpec
from flows.errors import ModelError
from flows.models import build_segmenter, list_models, model_hash, pull, resolve

ROOT = Path(__file__).parents[1]
WEIGHTS = b"PK-not-really " * 1000
TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"


def _make_spec(**overrides: Any) -> ModelSpec:
    """An official detector whose content this test knows."""
    spec = next(spec for spec in MODELS if spec.name == "yolo11n")
    values = {"size_bytes": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest(), **overrides}
    return replace(spec, **values)


@contextmanager
def _mirror(folder: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a publisher that is out of reach."""
    monkeypatch.setenv("SIGHTFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIGHTFLOW_MODEL_MIRROR", "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served as the mirror, and a catalog that knows the file in it."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "yolo11n.pt").write_bytes(WEIGHTS)
    monkeypatch.setattr(flows.models, "MODELS", (_make_spec(),))
    with _mirror(folder) as url:
        monkeypatch.setenv("SIGHTFLOW_MODEL_MIRROR", url + "/")
        yield folder


# -- the catalog


def test_every_official_model_has_publisher_size_and_digest() -> None:
    official = [spec for spec in MODELS if spec.url is not None]
    assert {spec.name for spec in official} == {
        *(f"yolo11{size}" for size in "nsmlx"),
        *(f"sam2.1-{size}" for size in ("tiny", "small", "base-plus", "large")),
    }
    for spec in official:
        assert spec.url is not None
        assert spec.url.startswith("https://")
        assert spec.url.endswith("/" + spec.file_name)
        assert spec.size_bytes
        assert re.fullmatch("[0-9a-f]{64}", spec.sha256 or "")
    assert len({spec.sha256 for spec in official}) == len(official)


def test_the_documentation_lists_the_same_models() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for spec in MODELS:
        assert f"`{spec.name}`" in text
        if spec.url:
            assert f"| {spec.size_bytes:,} |" in text
            assert spec.sha256 is not None
            assert spec.sha256 in text


def test_official_configs_are_in_the_sam2_package() -> None:
    import sam2

    configs = [spec.config for spec in MODELS if spec.kind == "segmenter" and spec.url]
    assert len(configs) == 4
    assert all(config and (Path(sam2.__path__[0]) / config).is_file() for config in configs)


# -- fetching


def test_a_name_is_fetched_once_and_then_found(published: Path, cache: Path) -> None:
    assert [listing.where for listing in list_models()] == ["to download"]
    model = resolve("yolo11n", "detector")
    assert model.path == cache / "yolo11n.pt"
    assert model.path.read_bytes() == WEIGHTS
    assert [listing.where for listing in list_models()] == ["cached"]
    (published / "yolo11n.pt").unlink()
    assert pull("yolo11n") == [model]
    assert model_hash(model) == hashlib.sha256(WEIGHTS).hexdigest()


def test_a_mirror_may_be_a_folder(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTFLOW_MODEL_MIRROR", published.as_uri())
    assert resolve("yolo11n", "detector").path.read_bytes() == WEIGHTS


def test_offline_says_what_to_fetch_and_where_to_put_it(cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve("sam2.1-tiny", "segmenter")
    for part in (
        "refused",
        "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_tiny.pt",
        "156.0 MB",
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        str(cache / "sam2.1_hiera_tiny.pt"),
        "SIGHTFLOW_MODEL_MIRROR",
    ):
        assert part in str(caught.value)


def test_a_mirror_without_the_file_says_so(published: Path) -> None:
    (published / "yolo11n.pt").unlink()
    with pytest.raises(ModelError, match=r"(?s)HTTP 404.*download.*yolo11n\.pt"):
        resolve("yolo11n", "detector")


def test_a_mirror_with_another_file_is_refused(published: Path, cache: Path) -> None:
    (published / "yolo11n.pt").write_bytes(WEIGHTS[::-1])
    with pytest.raises(ModelError, match="wrong checksum"):
        resolve("yolo11n", "detector")
    assert not (cache / "yolo11n.pt").exists()


def test_a_wrong_file_put_into_the_cache_by_hand_is_refused(published: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / "yolo11n.pt").write_bytes(WEIGHTS[:-1])
    with pytest.raises(ModelError, match=rf"damaged or another file: expected {len(WEIGHTS)} bytes.*Delete it"):
        resolve("yolo11n", "detector")


# -- names and paths


@pytest.mark.parametrize(
    ("name", "kind", "suggestion"),
    [
        ("yolo11nn", "detector", "did you mean .*yolo11n"),
        ("sam2-tiny", "segmenter", "did you mean .*sam2.1-tiny"),
        ("tiny", "segmenter", "did you mean sam2.1-tiny"),
        ("yolo11n", "segmenter", "Known: nano, nano-512, sam2.1-tiny"),
        ("qqq", "detector", "Known: nano, yolo11n"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name: str, kind: Any, suggestion: str) -> None:
    with pytest.raises(ModelError, match=suggestion):
        resolve(name, kind)


def test_pull_of_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ModelError, match="did you mean yolo11n"):
        pull("yolo11-n")


@pytest.mark.parametrize("name", ["sam2.1_hiera_base_plus.pt", "sam2.1-base+", "SAM2.1-base-plus"])
def test_other_spellings_mean_the_same(name: str) -> None:
    with pytest.raises(ModelError, match=r"segmenter 'sam2\.1-base-plus' is not in the cache"):
        resolve(name, "segmenter")


def test_a_file_here_wins_over_the_publishers_of_the_same_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1)}, "yolo11n.pt")
    assert resolve("yolo11n.pt", "detector").path == tmp_path / "yolo11n.pt"


@pytest.mark.parametrize("name", ["./nothing.pt", "no/such/folder_openvino_model", "best.onnx"])
def test_a_path_that_is_not_there_says_where_it_looked(name: str) -> None:
    with pytest.raises(ModelError, match="no such detector file"):
        resolve(name, "detector")


@pytest.mark.parametrize(
    ("file_name", "content", "kind", "message"),
    [
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "detector", "Git LFS pointer"),
        ("a.pt", b"<!DOCTYPE html>", "detector", "not a .pt model: it starts with b'<!DOCTYPE"),
        ("a.pt", b"", "segmenter", "it is empty"),
        ("a.safetensors", b"PK\3\4 and so on", "segmenter", "not a .safetensors model"),
        ("a.mp4", b"x", "detector", "not a detector file: expected .pt"),
        ("a.onnx", b"x", "segmenter", "not a segmenter file: expected .pt, .pth, .safetensors"),
    ],
)
def test_a_file_that_is_no_model_is_told_so(
    tmp_path: Path, file_name: str, content: bytes, kind: Any, message: str
) -> None:
    (tmp_path / file_name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolve(str(tmp_path / file_name), kind)


def test_an_export_folder_needs_its_metadata_and_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "best_openvino_model"
    folder.mkdir()
    (folder / "best.xml").write_text("<net/>")
    with pytest.raises(ModelError, match=r"no metadata\.yaml"):
        resolve(str(folder), "detector")
    (folder / "metadata.yaml").write_text("names: {0: person}")
    model = resolve(str(folder), "detector")
    assert model.path == folder
    before = model_hash(model)
    (folder / "best.xml").write_text("<net>2</net>")
    assert model_hash(model) != before
    with pytest.raises(ModelError, match="must be in a folder whose name ends in _openvino_model"):
        resolve(str(folder.rename(tmp_path / "best")), "detector")


@pytest.mark.parametrize(("name", "image_size"), [("nano", 256), ("nano-512", 512)])
def test_the_bundled_segmenter_loads_without_network(tmp_path: Path, name: str, image_size: int) -> None:
    model = resolve(name, "segmenter")
    assert model.path.is_relative_to(DEMO)
    predictor = build_segmenter(model)
    assert predictor.image_size == image_size
    assert predictor.fill_hole_area == 0
    assert _track(predictor, tmp_path / "frames").shape == (2, 90, 120)


def test_nano_512_is_the_same_weights_and_another_model() -> None:
    nano, large = resolve("nano", "segmenter"), resolve("nano-512", "segmenter")
    assert nano.path == large.path
    assert model_hash(nano) != model_hash(large)
    assert model_hash(nano) == model_hash(resolve("nano", "segmenter"))


def test_names_need_neither_torch_nor_sam2() -> None:
    code = "import sys, flows.models as m; m.list_models(); print('torch' in sys.modules, 'sam2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- building


def _random_tiny() -> Any:
    """The predictor sam2 itself builds from its tiny configuration, at 256 px, with random weights."""
    from sam2.build_sam import build_sam2_video_predictor

    torch.manual_seed(0)
    model = build_sam2_video_predictor(TINY, None, device="cpu", hydra_overrides_extra=["++model.image_size=256"])
    model.fill_hole_area = 0
    return model


def _track(predictor: Any, folder: Path) -> np.ndarray:
    """Mask logits of one box prompt on two noisy frames, (2, 90, 120)."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(random.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    state = predictor.init_state(str(folder))
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, box=np.array([20, 20, 70, 60], dtype=np.float32))
    return np.stack([logits[0, 0].float().numpy() for _, _, logits in predictor.propagate_in_video(state)])


def test_the_official_tiny_model_is_built_as_sam2_builds_it(tmp_path: Path) -> None:
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    theirs = _random_tiny()
    torch.save({"model": theirs.state_dict()}, tmp_path / "fine_tuned.pt")
    expected = _track(theirs, tmp_path / "frames")
    model = resolve(str(tmp_path / "fine_tuned.pt"), "segmenter")
    assert model.config is None  # told from the checkpoint
    GlobalHydra.instance().clear()  # nothing may depend on hydra's global state, nor leave any behind
    try:
        ours = build_segmenter(model, image_size=256)
        assert not GlobalHydra.instance().is_initialized()
    finally:
        initialize_config_module("sam2", version_base="1.2")  # as importing sam2 had left it
    assert type(ours).__name__ == "SAM2VideoPredictor"
    assert ours.memory_attention.layers[0].self_attn.freqs_cis.shape[0] == 16 * 16
    np.testing.assert_array_equal(_track(ours, tmp_path / "frames"), expected)


def _nano_state(tmp_path: Path) -> Path:
    """Random weights of the bundled architecture, with its YAML beside them."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    (tmp_path / "mine.yaml").write_text((DEMO / "nano_segmenter.yaml").read_text())
    model = instantiate(OmegaConf.load(tmp_path / "mine.yaml")["model"])
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.mark.parametrize(
    ("left_out", "config", "message"),
    [
        (None, "box_hints: true", None),
        (None, "box_hints: false", "box_hints"),
        ("refiner.head.bias", "box_hints: true", "missing: refiner.head.bias"),
    ],
)
def test_weights_may_bring_a_refiner(tmp_path: Path, left_out: str | None, config: str, message: str | None) -> None:
    from flows.demo.nano import WEIGHTS_PATH, load_weights

    weights = {key: value for key, value in load_weights(WEIGHTS_PATH).items() if key != left_out}
    save_file(weights, tmp_path / "mine.safetensors")
    described = (DEMO / "nano_segmenter.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(described.replace("box_hints: true", config))
    model = resolve(str(tmp_path / "mine.safetensors"), "segmenter")

    if message is None:
        assert build_segmenter(model, image_size=64).refiner is not None
    else:
        with pytest.raises(ModelError, match=message):
            build_segmenter(model, image_size=64)


class Engine:
    """Mixed into the predictor below: what the engine's own class does."""

    engine = True


def test_a_subclass_is_built_at_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    # Tests are imported under a name of their own, so the class is put where a dotted path finds it.
    monkeypatch.setattr(flows.models, "Streaming", type("Streaming", (Engine, SAM2VideoPredictor), {}), raising=False)
    model = resolve(str(_nano_state(tmp_path)), "segmenter")
    assert model.config == str(tmp_path / "mine.yaml")
    predictor = build_segmenter(model, image_size=128, target="flows.models.Streaming")
    assert predictor.engine
    assert predictor.image_size == 128
    assert not predictor.training
    assert predictor.sam_prompt_encoder.input_image_size == (128, 128)
    assert predictor.memory_attention.layers[0].cross_attn_image.freqs_cis.shape[0] == 8 * 8
    assert _track(predictor, tmp_path / "frames").shape == (2, 90, 120)


def test_a_size_the_strides_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="multiple of 32, got 300; try 288"):
        build_segmenter(resolve(str(_nano_state(tmp_path)), "segmenter"), image_size=300)


def test_a_checkpoint_that_does_not_fit_names_a_few_keys(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = _nano_state(tmp_path)
    state = load_file(path)
    first = sorted(state)[0]
    save_file({f"x.{key}" if key == first else key: value for key, value in state.items()}, path)
    with pytest.raises(ModelError, match=f"missing: {first}; unexpected: x.{first}"):
        build_segmenter(resolve(str(path), "segmenter"))
    save_file({key: value.flatten()[:1] for key, value in state.items()}, path)
    with pytest.raises(ModelError, match=r"does not fit its architecture: size mismatch.*and \d+ more"):
        build_segmenter(resolve(str(path), "segmenter"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(2)}, "not a checkpoint of SAM 2 in one of its published sizes.*a.yaml"),
        ([torch.zeros(2)], "expected a state dict"),
        ({"model": {"epoch": 3}}, "expected a state dict"),
    ],
)
def test_weights_of_something_else_are_told_so(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=message):
        build_segmenter(resolve(str(tmp_path / "a.pt"), "segmenter"))


def test_a_truncated_checkpoint_is_told_so(tmp_path: Path) -> None:
    path = _nano_state(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="not readable as weights"):
        build_segmenter(resolve(str(path), "segmenter"))
