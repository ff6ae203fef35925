"""What memory a training will take, compared with what there is before anything large is allocated.

The parts of an estimate, each the most that is held at a time:

    features    dense ones are copied by the split, the standardisation and a solver; those of a file stay there
    parameters  as many arrays (D+1,K) as the optimiser says that a training with it holds, see Optimizer.copies
    rows        scores and their derivatives (N,K) of the blocks that are at work, and what a solver keeps of them
    names       D texts, and D means and scales as text, when the model and the record are written
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.chain.strategies import numbers_per_row
from trainer.data.features import Features, is_sparse, numbers_a_row
from trainer.data.rows import Data
from trainer.errors import FileError
from trainer.objective.blocks import blocks
from trainer.objective.preconditioner import DENSE, FACTORS
from trainer.objective.problem import Problem
from trainer.objective.view import COPIED, KEPT, SAMPLE
from trainer.optimizers.cross_validation import KEPT as STACKED

if TYPE_CHECKING:
    from trainer.optimizers import Optimizer

SMALL = 64 << 20  # bytes below which nobody asks
NAMED = 250  # bytes of a feature in the files of a run: its name and numbers as objects and as text
TEXT = 100  # bytes of a number in a table that is being written: the object, and its text twice
TEMPORARIES = 10  # arrays (B,K) of a block at work
SQUARES = 8  # arrays (D,D) with which a solver takes the second moment apart
UNLIMITED = 1 << 62


def check(needed: int, what: str, way: str) -> None:
    """FileError where this many bytes are not to be had."""
    if not has(needed):
        raise FileError(f"{what} takes about {_gib(needed)} of memory, and {_gib(available())} are available. {way}")


def has(needed: int) -> bool:
    """Whether this many bytes are to be had."""
    return needed <= SMALL or needed <= available()


def check_fit(problem: Problem, optimizer: "Optimizer", dtype: Any, batch: int | None, beside: int = 0) -> None:
    """FileError where a training, and so many bytes beside it, would not fit."""
    (rows, features), classes = problem.data.x.shape, len(problem.data.classes)
    what = f"Training on {rows:,} rows of {features:,} features in {classes:,} classes by optimizer={optimizer.name}"
    way = "Take fewer features, rows or classes, a first-order optimizer such as sgd, or free some memory."
    check(of_fit(problem, optimizer, dtype, batch) + beside, what, way)


def of_fit(problem: Problem, optimizer: "Optimizer", dtype: Any, batch: int | None) -> int:
    """Bytes that ``fit`` takes beside the data, which are to be in dtype; batch is the rows of a step, None all."""
    data, threads = problem.data, problem.objective.threads
    (rows, features), classes = data.x.shape, len(data.classes)
    item = np.dtype(dtype).itemsize
    width = max(classes, numbers_per_row(problem.objective.gradient, classes))
    parts = blocks(data, width)
    at_work = min(len(parts), threads) * (parts[0].rows.stop - parts[0].rows.start)
    copies = optimizer.copies(problem, classes) + (len(parts) if threads > 1 else 1)  # a gradient of each block
    taken = copies * (features + 1) * classes * (8 if optimizer.full_batch else item) + 32 * rows
    taken += at_work * item * (TEMPORARIES * width + (0 if isinstance(data.x, np.ndarray) else numbers_a_row(data.x)))
    if batch is not None:
        taken += 3 * min(batch, rows) * numbers_a_row(data.x) * item  # one is made while another is there
    if optimizer.full_batch:
        numbers = rows * numbers_a_row(data.x)
        taken += 24 * min(rows * classes, KEPT)  # scores, those of the certificate, and slopes
        taken += 4 * numbers if numbers <= COPIED and not isinstance(data.x, Features) else 0
        sample = min(rows, max(SAMPLE, 2 * features))
        if features <= DENSE:
            taken += 8 * (SQUARES * features**2 + min(FACTORS, classes * features**2) + 3 * sample * features)
        else:
            taken += 24 * sample * numbers_a_row(data.x) + 8 * min(FACTORS, sample**2 if sample <= DENSE else 0)
    return int(taken)


def of_run(data: Data, strengths: int) -> int:
    """Bytes that a run takes beside ``fit``: to prepare the data, to keep the path, and to write its files."""
    parameters = (data.x.shape[1] + 1) * len(data.classes)
    return int(3 * _held(data) + 16 * len(data) + NAMED * data.x.shape[1] + strengths * parameters * (8 + TEXT))


def of_folds(data: Data, folds: int, threads: int) -> int:
    """Bytes that cross-validation takes beside a fit: rows held out, and what a stack keeps and works on."""
    scores = folds * len(data) * len(data.classes)
    at_work = 8 * threads * TEMPORARIES * min(scores, 1 << 17)
    return _held(data) + 24 * folds * len(data) + 24 * min(scores, STACKED) + at_work


def _held(data: Data) -> int:
    """Bytes of the features that are in memory."""
    return 0 if isinstance(data.x, Features) else len(data) * numbers_a_row(data.x) * (12 if is_sparse(data.x) else 8)


def of_predictions(rows: int, classes: int) -> int:
    """Bytes of the predictions (N,K) and of the table of them."""
    return rows * (classes + 1) * (3 * 8 + TEXT)


def available(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: the least that the system, its control groups and its limit leave."""
    return max(0, min([_of_system(root), _of_limit(root), *_of_groups(root)]))


def _of_system(root: Path) -> int:
    """What the system calls available; elsewhere than on Linux all that is built in."""
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNLIMITED


def _of_limit(root: Path) -> int:
    """What RLIMIT_AS, that is ulimit -v, leaves of addresses."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return UNLIMITED
    used = _text(root / "proc/self/statm").split()
    return limit - (int(used[0]) * resource.getpagesize() if used else 0)


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group of the process leaves, of both versions; what files take of it can be given back."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version = {"": ("", "memory.max", "anon"), "memory": ("memory", "memory.limit_in_bytes", "total_rss")}
        if controllers not in version:
            continue
        mount, limit, key = version[controllers]
        base = root / "sys/fs/cgroup" / mount
        here = base / path.lstrip("/")
        for folder in [here, *here.parents][: len(here.parts) - len(base.parts) + 1]:
            if (most := _text(folder / limit).strip()).isdigit():
                used = dict(
                    words for row in _text(folder / "memory.stat").splitlines() if len(words := row.split()) == 2
                )
                yield int(most) - int(used.get(key, 0))


def _text(path: Path) -> str:
    """The file, or nothing where it is not there or not to be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"
