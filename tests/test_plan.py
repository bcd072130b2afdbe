"""A plan that is no further ahead than work needs, and says what was there before."""

import itertools
import os
import threading
import time

import fsspec
import pytest

from flows.config import Settings
from flows.plan import in_batches, plan_run, watch_videos
from flows.schema import ChunkState
from flows.store import Store, open_store
from tests.stores import make_result
from tests.videos import write_video

SECOND = {"plan": {"chunk_seconds": 0.5, "overlap_seconds": 0.1}}


def _plan(store: Store, uris, **more):
    flags = {**SECOND, **more.pop("flags", {})}
    return plan_run(uris, Settings.load(flags=flags), store, settle_s=0, **more)


def test_a_video_is_probed_when_it_is_come_to(tmp_path, store_url):
    videos = [write_video(tmp_path / f"{name}.mp4", frames=25 + index) for index, name in enumerate("abc")]
    asked = []
    with open_store(store_url) as store:
        summary, todo = _plan(store, (asked.append(video) or str(video) for video in videos))
        assert store.ledger().num_rows == 0
        first = next(todo)
        assert (asked, first.video.source_id) == (videos[:1], "a")
        assert (summary.planned, summary.is_planned) == (2, False)
        rest = list(todo)
        assert (summary.planned, summary.is_planned, len(rest)) == (6, True, 5)
        assert summary.sources == {"a", "b", "c"}


def test_what_was_done_or_failed_before_is_counted_and_not_open(tmp_path, store_url):
    video = str(write_video(tmp_path / "a.mp4", frames=38))
    with open_store(store_url) as store:
        done, failed, opened = _plan(store, [video])[1]
        store.commit(make_result(done, 0))
        for _ in range(2):
            assert store.begin(failed, 1) == (store.ledger([failed.chunk_id])["state"][0].as_py() != "failed")
        summary, todo = _plan(store, [video])
        assert [chunk.chunk_id for chunk in todo] == [opened.chunk_id]
        assert (summary.skipped, summary.failed, summary.planned) == (1, 1, 3)
        ((end, name, error),) = summary.errors
        assert (end, name) == ("failed", failed.chunk_id)
        assert "began 1 times" in error
        assert len(list(_plan(store, [video], retry_failed=True)[1])) == 2


def test_what_was_asked_for_last_is_shown(tmp_path, store_url):
    """Settings of an earlier run, asked for again, have nothing to do, and are the newest."""
    video = str(write_video(tmp_path / "a.mp4", frames=10))
    newer = {"detect": {"detect_every": 7}}
    with open_store(store_url) as store:

        def shown() -> str:
            rows = [row for row in store.ledger().to_pylist() if row["state"] == ChunkState.DONE]
            return max(rows, key=lambda row: row["updated_at"])["chunk_id"]

        (old,) = _plan(store, [video])[1]
        store.commit(make_result(old, 0))
        (new,) = _plan(store, [video], flags=newer)[1]
        store.commit(make_result(new, 0))
        assert shown() == new.chunk_id
        stamp = store.stamp("a")
        assert list(_plan(store, [video], flags=newer)[1]) == []
        assert store.stamp("a") == stamp
        assert list(_plan(store, [video])[1]) == []
        assert shown() == old.chunk_id
        assert store.stamp("a") != stamp


def test_a_file_that_grows_is_left_for_later(tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=10)
    settings = Settings.load(flags=SECOND)
    with open_store(str(tmp_path / "store")) as store:
        whole = threading.Event()

        def grow() -> None:
            while not whole.wait(0.01):
                with video.open("ab") as file:
                    file.write(b"\0" * 8)

        growing = threading.Thread(target=grow)
        growing.start()
        summary, todo = plan_run([str(video)], settings, store, settle_s=0.5)
        assert list(todo) == []
        whole.set()
        growing.join()
        ((end, name, error),) = summary.errors
        assert (end, name) == ("rejected", str(video))
        assert "still being written" in error
        summary, todo = plan_run([str(video)], settings, store, settle_s=0.1)
        assert len(list(todo)) == 1
        # What was rejected is taken back.
        assert set(store.ledger()["state"].to_pylist()) == {ChunkState.PLANNED}


def test_a_file_that_goes_while_it_is_looked_at_is_rejected(tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=10)
    with open_store(str(tmp_path / "store")) as store:
        summary, todo = plan_run([str(video)], Settings.load(flags=SECOND), store, settle_s=0.5)
        going = threading.Timer(0.1, video.unlink)
        going.start()
        assert list(todo) == []
        going.join()
    ((end, _, error),) = summary.errors
    assert end == "rejected"
    assert "no such file" in error


def test_a_name_that_is_not_utf_8_costs_its_video_alone(tmp_path, store_url):
    """Recorders of old wrote names in the code page of their country."""
    old = os.fsdecode(os.fsencode(write_video(tmp_path / "caf.mp4", frames=10)).replace(b"caf", b"caf\xe9"))
    (tmp_path / "caf.mp4").rename(old)
    good = str(write_video(tmp_path / "good.mp4", frames=10))
    with open_store(store_url) as store:
        summary, todo = _plan(store, [old, good])
        assert [chunk.video.uri for chunk in todo] == [good]
        ((end, name, error),) = summary.errors
        assert (end, name) == ("rejected", str(tmp_path / "caf\\xe9.mp4"))
        assert "not UTF-8" in error
        assert {row["source_id"] for row in store.ledger().to_pylist()} == {"caf\\xe9", "good"}


def test_what_was_rejected_at_an_address_is_taken_back(tmp_path):
    """Its source has the same name in the ledger, readable or not."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/rejected/gate%203.mp4", b"not yet")
    with open_store(str(tmp_path / "store")) as store:
        assert list(_plan(store, ["memory://rejected/gate%203.mp4"])[1]) == []
        assert store.ledger()["state"].to_pylist() == [ChunkState.FAILED]
        memory.pipe("/rejected/gate%203.mp4", write_video(tmp_path / "a.mp4", frames=10).read_bytes())
        assert len(list(_plan(store, ["memory://rejected/gate%203.mp4"])[1])) == 1
        assert store.ledger()["state"].to_pylist() == [ChunkState.PLANNED]


def test_watching_finds_what_comes_once_it_is_whole(tmp_path):
    watched = watch_videos([str(tmp_path)], 0.05)
    old = time.time() - 60
    (tmp_path / "copying.mp4").write_bytes(b"half")
    os.utime(tmp_path / "copying.mp4", (old + 3600, old + 3600))
    (tmp_path / "a.mp4").write_bytes(b"whole")
    os.utime(tmp_path / "a.mp4", (old, old))
    assert next(watched).endswith("a.mp4")
    os.utime(tmp_path / "copying.mp4", (old, old))
    assert next(watched).endswith("copying.mp4")
    # The same name with other content is another video.
    (tmp_path / "a.mp4").write_bytes(b"another")
    os.utime(tmp_path / "a.mp4", (old + 1, old + 1))
    assert next(watched).endswith("a.mp4")


def test_a_path_where_nothing_is_yet_keeps_no_other_waiting(tmp_path, caplog):
    watched = watch_videos([str(tmp_path / "gate-1"), str(tmp_path / "gate-2")], 0.05)
    for gate in ("gate-2", "gate-1"):
        (tmp_path / gate).mkdir()
        (tmp_path / gate / "a.mp4").write_bytes(b"whole")
        os.utime(tmp_path / gate / "a.mp4", (1, 1))
        assert next(watched) == str(tmp_path / gate / "a.mp4")
    # What is misspelt must be seen, and not every ten seconds.
    assert [message.split(": ")[1] for message in caplog.messages] == [str(tmp_path / "gate-1")]


def test_batches_hold_what_is_there_and_errors_come_through():
    made = []

    def items():
        for number in itertools.count():
            if number == 25:
                raise ValueError("the twenty-sixth")
            made.append(number)
            yield number

    batches = in_batches(items(), 4, 60)
    assert next(batches) == [0, 1, 2, 3]
    time.sleep(0.2)
    assert len(made) <= 10, "made ahead of the need"
    assert [number for batch in itertools.islice(batches, 6) for number in batch] == list(range(4, 25))
    with pytest.raises(ValueError, match="twenty-sixth"):
        next(batches)
    assert list(in_batches([], 4, 60)) == []


def test_a_batch_does_not_wait_for_its_fill():
    gate = threading.Event()

    def items():
        yield 1
        gate.wait(60)
        yield 2

    batches = in_batches(items(), 4, 0.05)
    assert next(batches) == [1]
    gate.set()
    assert list(batches) == [[2]]
