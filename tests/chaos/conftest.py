"""Lets the tests of the chaos suite run a few at a time, since most of each is waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.reviews import review_texts
from tests.fakes.checkpoint import make_checkpoint

AT_ONCE = 3

Job = Callable[[Path, Path], Any]
"""Runs in a folder of its own, with a checkpoint; what it returns has `to_json`."""


@pytest.fixture(scope="session")
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Job], Any]]:
    """What a job returned. Those of all tests selected are begun in their order, when the first is asked for."""
    folder = tmp_path_factory.mktemp("chaos")
    checkpoint = make_checkpoint(folder / "random", review_texts())
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    jobs: list[Job] = [params["job"] for params in calls if "job" in params]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = []
        for number, job in enumerate(jobs):
            own = folder / str(number)
            own.mkdir()
            running.append(pool.submit(job, own, checkpoint))

        def returned(job: Job) -> Any:
            found = running[jobs.index(job)].result()
            print(found.to_json())  # which pytest shows of a failure
            return found

        yield returned
        pool.shutdown(cancel_futures=True)
