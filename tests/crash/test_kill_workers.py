"""kill -9 of workers of a cluster at random moments of a fit; it goes on, to the bits of one that nobody disturbs."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.test_cluster import FITS, digest, kill, paths, pids, prepared  # noqa: F401 - a fixture
from trainer.objective.cluster import Dask

pytest.importorskip("distributed")
pytestmark = pytest.mark.processes
KILLS = 20 if os.environ.get("TRAINER_SLOW") == "1" else 2


def test_workers_that_are_killed_change_no_bit(paths):  # noqa: F811
    engine, random = Dask(workers=2).connect(), np.random.default_rng()
    wanted = {name: digest(prepared(paths), name) for name in FITS}
    over = threading.Event()

    def killer():
        killed = 0
        while killed < KILLS and not over.wait(random.uniform(0, 1)):
            if there := pids(engine):
                kill(int(random.choice(there)))
                killed += 1

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(killer)
        try:
            while not killing.done():
                name = str(random.choice(list(FITS)))
                assert digest(prepared(paths, engine), name) == wanted[name], name
        finally:
            over.set()
    killing.result()
