"""Which jobs of a sweep go to a worker together, to train side by side: those that differ in numbers alone."""

from collections.abc import Iterable
from itertools import pairwise

from trainer.runs.config import Settings
from trainer.sweeps.worker import Job

LARGEST = 64  # jobs of a stack: each has three files open, and more of them would save next to nothing


def stacked(jobs: Iterable[Job], workers: int) -> list[list[Job]]:
    """The jobs in stacks, each for a worker: of a kind about as many for each worker, and at most LARGEST in a stack.

    Those on the same rows stand beside each other, so that the rows are prepared once.
    """
    kinds: dict[str, list[Job]] = {}
    for job in jobs:
        kinds.setdefault(kind(job.settings) or f"alone {job.number}", []).append(job)
    found = []
    for some in kinds.values():
        some.sort(key=lambda job: (job.settings.seed is None, job.settings.seed, repr(job.settings.data), job.number))
        count = -(-len(some) // LARGEST)  # stacks
        count = min(len(some), -(-count // workers) * workers)
        edges = [len(some) * number // count for number in range(count + 1)]
        found += [some[start:stop] for start, stop in pairwise(edges)]
    return found


def kind(settings: Settings) -> str | None:
    """What jobs of a stack have in common; None for one that trains alone.

    They differ in seed, epochs and label_smoothing, and in the numbers of optimizer, schedule, penalty and data.
    Whether their shapes agree is seen once their data are there; see optimizers.together.
    """
    from trainer.optimizers import OPTIMIZERS  # numpy comes with it

    joins = hasattr(OPTIMIZERS[settings.optimizer["name"]], "moved")
    several = settings.folds or isinstance(settings.penalty.get("strength"), list)  # trainings in one job
    if not joins or settings.experiment is not None or several or settings.device != "cpu":
        return None
    alike = dict(vars(settings), seed=None, epochs=None, label_smoothing=settings.label_smoothing > 0)
    for group in ("optimizer", "schedule", "penalty"):
        alike[group] = {key: value for key, value in alike[group].items() if type(value) not in (int, float)}
    alike["data"] = {key: value for key, value in settings.data.items() if type(value) is not float}  # integers: shapes
    return repr(alike)
