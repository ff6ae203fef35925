"""What the group sweep of the configuration chooses: how many processes, how long, how many jobs."""

import math
from dataclasses import dataclass

from trainer.errors import choose, require


@dataclass(frozen=True)
class Grid:
    """Every combination of the values on the command line.

    timeout    seconds that a job may take before its process is ended; null for ever
    fail_fast  whether the first job that fails ends the sweep
    workers    processes; null is one a core. A run in one of them takes one thread unless threads says otherwise
    stack      auto trains jobs that differ in numbers alone side by side in a worker; off trains each by itself
    max_jobs   a sweep of more is refused before it starts
    """

    timeout: float | None = None
    fail_fast: bool = False
    workers: int | None = None
    stack: str = "auto"
    max_jobs: int = 10_000

    def __post_init__(self) -> None:
        limit, count = self.timeout, self.workers
        ok = limit is None or (math.isfinite(limit) and limit > 0)
        require(ok, f"sweep.timeout must be finite and greater than 0, or null for no limit, got {limit}.")
        require(count is None or count >= 1, f"sweep.workers must be at least 1, or null for every core, got {count}.")
        choose("sweep.stack", ("auto", "off"), self.stack)
        require(self.max_jobs >= 1, f"sweep.max_jobs must be at least 1, got {self.max_jobs}.")
