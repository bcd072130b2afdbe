"""Pools that fit: on a laptop, on GPUs, on a cluster that starts from nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.config import RunSettings
from flows.errors import UsageError
from flows.pools import Machines, size_pools

GPU_NODE = {"CPU": 16.0, "GPU": 1.0, "memory": 60e9}


def _sizes(nodes, chunks=1000, kinds=(), **settings):
    detect, track = size_pools(Machines.of(nodes, kinds), RunSettings(**settings), chunks)
    return (detect.size, detect.num_gpus, detect.num_cpus), (track.size, track.num_gpus, track.num_cpus)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([{"CPU": 2, "memory": 16e9}], ((1, None, 0.4), (2, None, 0.7))),
        ([{"CPU": 8, "memory": 9e9}], ((2, None, 0.8), (2, None, 2.0))),
        ([{"CPU": 4, "GPU": 1}], ((1, 0.25, None), (1, 0.75, None))),
        ([{"CPU": 64, "GPU": 8}] * 2, ((16, 0.25, None), (16, 0.75, None))),
    ],
)
def test_pools_follow_from_what_there_is(nodes, expected):
    assert _sizes(nodes) == expected


def test_an_autoscaler_at_zero_counts_with_what_it_may_start():
    sizes = _sizes([{"CPU": 0}], kinds=[(GPU_NODE, 24), ({"CPU": 16}, 8)])
    assert sizes == ((24, 0.25, None), (24, 0.75, None))


def test_shares_and_sizes_can_be_told():
    assert _sizes([GPU_NODE], track_gpus=0.4, detect_gpus=0.2)[1] == (2, 0.4, None)
    assert _sizes([GPU_NODE], detect_gpus=0) == ((1, None, 1.0), (1, 0.75, None))
    # Whole GPUs each: the detectors have one for themselves.
    assert _sizes([{"GPU": 4, "CPU": 8}], detect_gpus=0.5, track_gpus=1) == ((2, 0.5, None), (3, 1.0, None))
    assert _sizes([{"GPU": 4, "CPU": 8}], detect_workers=3, track_workers=5)[0][0] == 3
    with pytest.raises(UsageError, match="do not fit the one GPU"):
        _sizes([GPU_NODE], detect_gpus=0.5)
    detect, track = size_pools(Machines.of([GPU_NODE]), RunSettings(track_labels={"gpu": "big"}), 1)
    assert (detect.labels, track.labels) == ({}, {"gpu": "big"})


@given(st.lists(st.integers(1, 96), min_size=1, max_size=20), st.integers(1, 500))
def test_every_actor_fits_a_node_and_all_fit_the_cluster(cores, chunks):
    detect, track = size_pools(Machines.of([{"CPU": n} for n in cores]), RunSettings(), chunks)
    for pool in (detect, track):
        assert 1 <= pool.size <= max(chunks, 1)
        assert 0 < pool.num_cpus <= max(cores)
        assert 1 <= pool.threads <= max(cores)
    assert detect.num_cpus * detect.size + track.num_cpus * track.size <= sum(cores)
