"""The interface held to its OpenAPI document."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from flows.store import open_store
from serve.api import make_api
from serve.clip import Clip, Event
from serve.keys import new_key
from serve.settings import ServeSettings
from tests.dashboard.filled import fill
from tests.serve.local import listening

METHODS = ("get", "post", "put", "delete", "patch")


async def _said(clip: Clip) -> AsyncGenerator[Event, None]:
    yield {"event": "accepted"}
    yield {"event": "summary"}
    yield {"event": "done"}


def _make_settings(folder: Path, **overrides: Any) -> ServeSettings:
    with open_store(str(folder / "store")) as store:
        fill(store)
    archives = (str(folder / "archive"),)
    return ServeSettings(store=str(folder / "store"), uploads=folder, archives=archives, **overrides)


def test_every_route_says_what_it_is_and_how_it_fails(tmp_path):
    document = make_api(_said, _make_settings(tmp_path)).openapi()
    assert document["components"]["securitySchemes"]
    for path, methods in document["paths"].items():
        for method in METHODS & methods.keys():
            route = methods[method]
            assert route["description"], path
            problems = {s: a for s, a in route["responses"].items() if int(s) >= 400}
            assert {"401", "422", "503"} <= problems.keys()
            assert {kind for a in problems.values() for kind in a["content"]} == {"application/problem+json"}


def _checks(schemathesis: Any) -> Any:
    """All checks; but what fits the schema may be refused for what no schema can say."""
    fine = [200, 202, 401, 403, 404, 406]
    meant = {
        "POST /v1/clips": [413, 415, 422],  # whether bytes are a video, an address leads anywhere
        "POST /v1/jobs": [422],  # which models there are
        "GET /v1/reports/{name}": [422],  # which parameters a report has, which sources the store, t0 before t1
        "GET /v1/tracks": [422],
    }
    operations = [
        {"include-name": name, "checks": {"positive_data_acceptance": {"expected-statuses": fine + more}}}
        for name, more in meant.items()
    ]
    return schemathesis.Config.from_dict({"operations": operations})


def test_nothing_it_allows_or_forbids_breaks_it(tmp_path):
    """Schemathesis, all checks: a heavy package that nothing else needs, so it is no part of the environment."""
    schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis, to check the OpenAPI document")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    key, hashed = new_key()
    with listening(make_api(_said, _make_settings(tmp_path, keys=(hashed,)))) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=_checks(schemathesis))
        for result in schema.get_all_operations():
            operation = result.ok()
            cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode))

            @given(case=cases)
            @settings(
                max_examples=20,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )
            def check(case):
                case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, timeout=120)

            check()
