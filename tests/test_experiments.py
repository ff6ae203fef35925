import csv
import re
from dataclasses import replace
from math import nan

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.testing import assert_allclose, assert_array_equal

from tests.test_run import SETTINGS
from trainer.chain.activations import ACTIVATIONS, Identity, LogSoftmax, Softmax
from trainer.chain.losses import LOSSES, CrossEntropy, NegativeLogLikelihood, SquaredError
from trainer.chain.strategies import GRADIENTS, auto, has_strategy
from trainer.errors import ConfigError
from trainer.objective.objective import Objective
from trainer.objective.penalties import NoPenalty
from trainer.runs.experiments import (
    EXPERIMENTS,
    CompareLosses,
    CompareStrategies,
    Question,
    SparseProbabilities,
    compare_losses,
    compare_strategies,
    sparse_probabilities,
)
from trainer.runs.experiments.compare_losses import Curve, with_wrong_labels
from trainer.runs.experiments.compare_strategies import MEBI, Point, bytes_of, seconds_of, sizes_up_to, slope
from trainer.runs.experiments.sparse_probabilities import Quality, quality
from trainer.runs.experiments.tables import against_spread, aligned, named, with_spread
from trainer.runs.run import run

DRAWN = replace(SETTINGS, epochs=2, plots=True)
SOFTMAX_CE = (Softmax(), CrossEntropy())


def lines_of(experiment, pair, folder, settings=SETTINGS):
    lines = []
    experiment(settings, Objective(*pair, auto, NoPenalty()), folder, lines.append)
    return lines


def cells(line):
    """The cells of a line of a table, which stand two blanks or more apart."""
    return re.split(r" {2,}", line.strip())


def csv_of(folder, experiment):
    with (folder / f"{experiment.name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------- question


def test_the_question_is_answered_for_every_strategy_in_a_table_and_two_lines(tmp_path):
    lines = lines_of(Question(repeats=1), SOFTMAX_CE, tmp_path)
    assert "N=100, D=2, K=4" in lines[0]
    table = {line.split()[0]: line.split()[1:] for line in lines[2:-2]}
    assert set(table) == set(GRADIENTS)
    for name, (deviation, _, unit, _, size) in table.items():
        assert float(deviation) < (1e-8 if name == "numeric" else 1e-14)
        assert (unit, size) == ("us", "KiB")
    assert "einsum('nj,njk->nk', dE/da, da/dz)" in lines[-2]
    assert "a * (g - sum(a * g))" in lines[-1]
    assert int(re.search(r"(\d+) times as fast as the loop", lines[-2])[1]) > 1


def test_a_strategy_that_the_pair_lacks_is_said_to_be_missing(tmp_path):
    lines = lines_of(Question(repeats=1), (LogSoftmax(), NegativeLogLikelihood()), tmp_path)
    missing = [line for line in lines if "no formula for this pair" in line]
    assert [line.split()[0] for line in missing] == ["log"]


# ------------------------------------------------------------------------------------------ every experiment


SMALL = {
    CompareStrategies(samples=4, most_classes=12, repeats=1): "strategy",
    CompareLosses(seeds=2, samples=60, features=12): "loss",
    SparseProbabilities(seeds=1): "activation",
}


@pytest.mark.parametrize("experiment", SMALL, ids=lambda experiment: experiment.name)
def test_an_experiment_leaves_a_csv_and_a_picture_unless_plots_are_off(experiment, tmp_path):
    for plots in (True, False):
        folder = tmp_path / str(plots)
        folder.mkdir()
        lines_of(experiment, SOFTMAX_CE, folder, replace(DRAWN, plots=plots))
        pictures = {f"{experiment.name}.png"} if plots else set()
        assert {path.name for path in folder.iterdir()} == {f"{experiment.name}.csv"} | pictures
        assert next(iter(csv_of(folder, experiment)[0])) == SMALL[experiment]
    picture = imread(tmp_path / "True" / f"{experiment.name}.png")
    assert 0.01 < (picture[..., :3].min(axis=2) < 0.99).mean() < 0.5  # the share of ink


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Question(samples=0),
        lambda: CompareStrategies(samples=0),
        lambda: CompareStrategies(most_classes=7),
        lambda: CompareStrategies(repeats=0),
        lambda: CompareStrategies(time_limit=0.0),
        lambda: CompareStrategies(time_limit=nan),
        lambda: CompareStrategies(memory_limit=float("inf")),
        lambda: CompareLosses(noise=0.0),
        lambda: CompareLosses(noise=1.0),
        lambda: CompareLosses(noise=nan),
        lambda: CompareLosses(seeds=0),
        lambda: CompareLosses(samples=39),
        lambda: CompareLosses(features=9),
        lambda: SparseProbabilities(seeds=0),
    ],
)
def test_what_is_out_of_range_is_refused_by_a_sentence(wrong):
    with pytest.raises(ConfigError, match=r"^experiment\.\w+ must be .*, got .*\.$"):
        wrong()


@pytest.mark.parametrize("name", ["compare_losses", "sparse_probabilities"])
def test_an_experiment_that_trains_needs_an_epoch(name, tmp_path):
    with pytest.raises(ConfigError, match="epochs must be at least 1 for an experiment that trains, got 0"):
        lines_of(EXPERIMENTS[name](), SOFTMAX_CE, tmp_path, replace(SETTINGS, epochs=0))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_file_that_an_experiment_would_not_read_is_refused(name, tmp_path):
    settings = replace(SETTINGS, experiment={"name": name}, data={"name": "file", "path": "x.npy", "in_memory": False})
    with pytest.raises(ConfigError, match=f"experiment={name} makes its own data and would not read data=file"):
        run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------- compare_strategies


@pytest.mark.parametrize(
    "pair",
    [
        SOFTMAX_CE,
        (LogSoftmax(), NegativeLogLikelihood()),
        (Identity(), SquaredError()),
        (ACTIVATIONS["sparsemax"](), LOSSES["fenchel_young"]()),
    ],
    ids=repr,
)
def test_the_tables_of_the_strategies_are_the_csv(pair, tmp_path):
    experiment = CompareStrategies(samples=4, most_classes=12, repeats=1)
    lines = lines_of(experiment, pair, tmp_path, DRAWN)
    rows = csv_of(tmp_path, experiment)
    names = [name for name in GRADIENTS if name != "auto" and has_strategy(name, *pair)]
    assert list(dict.fromkeys(row["strategy"] for row in rows)) == names
    for start, corner, column, unit in ((1, "time in ms", "seconds", 1e-3), (6, "memory in MiB", "bytes", MEBI)):
        header, *body = (cells(line) for line in lines[start : start + 5])
        assert header == [corner, *names]
        assert [line[0] for line in body] == ["K=4", "K=8", "K=12", "grows as"]
        for k, *printed in body[:-1]:
            measured = [float(row[column]) / unit for row in rows if f"K={row['classes']}" == k]
            assert printed == [f"{value:.3f}" for value in measured]
    assert len(lines) == 11 + 3


def test_what_could_take_too_long_or_too_much_is_left_out_and_said_to_be(tmp_path):
    lines = lines_of(CompareStrategies(samples=4, most_classes=8, time_limit=1e-9), SOFTMAX_CE, tmp_path)
    said = [line for line in lines if "is left out from K=8 on" in line]
    assert len(said) == 6
    assert all("more than experiment.time_limit=1e-09." in line for line in said)
    assert lines[-3].startswith("Time grows with a power of K that is not known; fused, log, vjp, jacobian, loop")
    lines = lines_of(CompareStrategies(samples=64, most_classes=64, memory_limit=1.0), SOFTMAX_CE, tmp_path, DRAWN)
    (said,) = [line for line in lines if "is left out" in line]
    assert re.match(r"jacobian is left out from K=\d+ on: a call could take \d+ MiB, more than", said)
    assert "-" in cells(next(line for line in lines if line.startswith("K=64")))


def test_the_sizes_are_powers_of_two_and_the_last_one():
    assert sizes_up_to(8) == [4, 8]
    assert sizes_up_to(9) == [4, 8, 9]
    assert sizes_up_to(1000) == [4, 8, 16, 32, 64, 128, 256, 512, 1000]


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_slope_is_the_power_of_a_power_law_and_ignores_an_overhead_at_small_sizes(power):
    points = [Point(k, 1e-6 * k**power + (1 if k < 30 else 0), 3 * k**2) for k in sizes_up_to(1000)]
    assert_allclose(slope(points, seconds_of), power, rtol=1e-9)
    assert_allclose(slope(points, bytes_of), 2, rtol=1e-9)
    assert_allclose(slope(points[-2:], seconds_of), power, rtol=1e-9)
    assert np.isnan(slope(points[:1], seconds_of))


def test_the_conclusion_on_strategies_follows_the_numbers():
    sizes = [4, 8, 16, 32]
    flat = [Point(k, 1e-3 * k, 1024 * k) for k in sizes]
    steep = [Point(k, 1e-3 * k**2, 1024 * k**2) for k in sizes[:-1]]
    time, memory, best = compare_strategies.conclusion({"one": flat, "two": steep})
    assert time == "Time grows with a power of K that is nearer to 1 in one K^1.00, but nearer to 2 in two K^2.00."
    assert memory.startswith("Memory grows with a power of K that is nearer to 1 in one K^1.00, but")
    assert best == (
        "At K=16, the largest that all were measured at, one is the fastest with 16 ms, "
        "and two takes 16 times as long; one takes the least memory, 0.0156 MiB, and two 16 times as much."
    )
    time, *_ = compare_strategies.conclusion({"one": flat, "two": flat})
    assert time == "Time grows with a power of K that is nearer to 1 in one K^1.00, two K^1.00."
    *_, best = compare_strategies.conclusion({"one": steep, "two": flat})
    assert "two is the fastest" in best
    assert "one takes 16 times" in best


# --------------------------------------------------------------------------------------------- compare_losses


def test_the_table_of_the_losses_is_the_csv(tmp_path):
    experiment = CompareLosses(seeds=2, samples=60, features=12)
    lines = lines_of(experiment, SOFTMAX_CE, tmp_path, DRAWN)
    rows = csv_of(tmp_path, experiment)
    assert len(rows) == 5 * 2 * DRAWN.epochs
    assert "seeds 3 to 4" in lines[0]
    assert len(lines) == 1 + 6 + 3
    for line in lines[2:7]:
        name, *printed = cells(line)
        runs = [[row for row in rows if (row["loss"], row["seed"]) == (name, seed)] for seed in ("3", "4")]
        assert printed == [
            with_spread([float(run[-1]["val_accuracy"]) for run in runs]),
            with_spread([max(float(row["val_accuracy"]) for row in run) for run in runs]),
            with_spread([float(run[-1]["accuracy"]) for run in runs]),
            with_spread([float(run[-1]["recovered"]) for run in runs]),
        ]


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(tmp_path):
    experiment = CompareLosses(seeds=1, samples=60, features=12)
    one, two = (lines_of(experiment, SOFTMAX_CE, tmp_path) for _ in range(2))
    assert one == two
    assert one[2:] != lines_of(experiment, SOFTMAX_CE, tmp_path, replace(SETTINGS, seed=4))[2:]


def test_wrong_labels_are_as_many_as_asked_for_and_uniform_over_the_other_classes():
    labels = np.arange(40_000) % 4
    noisy, wrong = with_wrong_labels(labels, 4, 0.3, seed=1)
    assert_array_equal(np.flatnonzero(noisy != labels), wrong)
    assert len(wrong) == 12_000
    counts = np.bincount((noisy - labels)[wrong] % 4, minlength=4)
    assert counts[0] == 0
    assert_allclose(counts[1:], 4000, atol=5 * np.sqrt(12_000 * 2 / 9))  # five standard deviations
    assert len(with_wrong_labels(labels[:10], 4, 0.01, seed=1)[1]) == 1


def curves(finals, bests=None, seen=(0.5, 0.5)):
    """A curve for each seed that rises to its best and ends with its final."""
    return [
        Curve([best, final], [0.0, 0.9], [0.0, share])
        for final, best, share in zip(finals, bests or finals, seen, strict=True)
    ]


def test_the_conclusion_on_losses_follows_the_numbers():
    end, way, noise = compare_losses.conclusion(
        {
            "ce": curves([0.5, 0.6], [0.7, 0.8], seen=(0.1, 0.3)),
            "gce": curves([0.7, 0.8], seen=(0.5, 0.7)),
            "mae": curves([0.6, 0.6], [0.65, 0.65]),
        }
    )
    assert end == (
        "At the end gce is best with a clean accuracy of 0.750, 0.200 above ce's 0.550: "
        "more than twice the spread of that difference over 2 seeds, 0.0000."
    )
    assert way == "From its best epoch to the end ce loses the most (0.200) and gce the least (0.000)."
    assert "gce predicts 60% as their true class, the largest share; ce predicts 20%, the smallest." in noise


def test_where_ce_is_best_it_is_held_against_the_runner_up_and_a_small_lead_is_called_so():
    end, way, _ = compare_losses.conclusion(
        {"ce": curves([0.9, 0.7]), "gce": curves([0.5, 0.5]), "mae": curves([0.7, 0.8])}
    )
    assert end.startswith("At the end ce is best with a clean accuracy of 0.800, 0.050 above mae's 0.750: no more than")
    assert way == "Every loss ends at its best epoch."


def test_one_seed_says_nothing_of_the_spread():
    assert against_spread([0.3]) == "one seed says nothing of the spread, so take experiment.seeds=3 or more"
    assert against_spread([0.1, 0.3]).startswith("no more than twice")
    assert against_spread([0.1, 0.11]).startswith("more than twice")


# --------------------------------------------------------------------------------------- sparse_probabilities


def test_the_table_of_the_activations_is_the_csv_and_shows_what_sparsity_is(tmp_path):
    experiment = SparseProbabilities(seeds=2)
    lines = lines_of(experiment, SOFTMAX_CE, tmp_path, replace(DRAWN, epochs=3))
    rows = csv_of(tmp_path, experiment)
    assert [row["activation"] for row in rows] == ["softmax"] * 2 + ["entmax"] * 2 + ["sparsemax"] * 2
    assert len(lines) == 1 + 4 + 3
    specs = {"accuracy": ".4f", "ece": ".4f", "zeros": ".4f", "support": ".2f", "ruled_out": ".4f"}
    for line in lines[2:5]:
        name, *printed = cells(line)
        of = [row for row in rows if row["activation"] == name]
        assert printed == [with_spread([float(row[key]) for row in of], spec) for key, spec in specs.items()]
    for row in rows:
        assert float(row["accuracy"]) > 0.9
        assert_allclose(float(row["support"]), 10 * (1 - float(row["zeros"])), rtol=1e-12)
        assert (float(row["zeros"]) > 0) == (row["activation"] != "softmax")


def test_the_quality_of_predictions_that_one_can_count():
    a = np.array([[1.0, 0, 0], [1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.2, 0.6]])
    found = quality(a, np.array([0, 1, 0, 2]))
    assert_allclose(found.ece, (abs(1 - 2) + 0.5 + 0.4) / 4)  # hits less confidences in the bins of 1, 0.5 and 0.6
    assert found._replace(ece=0.0) == Quality(0.75, 0.0, 5 / 12, 7 / 4, 0.25)


def test_the_conclusion_on_sparse_probabilities_follows_the_numbers():
    dense = [Quality(0.9, 0.02, 0.0, 10.0, 0.0), Quality(0.92, 0.02, 0.0, 10.0, 0.0)]
    sparse = [Quality(0.8, 0.05, 0.8, 2.0, 0.03), Quality(0.9, 0.01, 0.9, 1.0, 0.05)]
    first, second, third = sparse_probabilities.conclusion({"softmax": dense, "sparsemax": sparse})
    assert first == (
        "softmax has the best accuracy, 0.9100, 0.0600 above sparsemax's: "
        "no more than twice the spread of that difference over 2 seeds, 0.0566."
    )
    assert second.startswith("softmax has the smallest calibration error, 0.0200, 0.0100 below sparsemax's: no more")
    assert third == (
        "sparsemax is the sparsest, with 85.0% exact zeros, which leave 1.50 classes a row; "
        "it rules the true class out in 4.0% of the rows."
    )
    better = [q._replace(accuracy=0.99, ece=0.001) for q in sparse]
    first, second, _ = sparse_probabilities.conclusion({"softmax": dense, "sparsemax": better})
    assert first.startswith("sparsemax has the best accuracy, 0.9900, 0.0800 above softmax's: more than twice")
    assert second.startswith("sparsemax has the smallest calibration error, 0.0010, 0.0190 below softmax's: more than")
    assert sparse_probabilities.conclusion({"softmax": dense, "b": dense})[-1] == "No activation gives an exact zero."


def test_seeds_are_named_as_a_person_would():
    assert (named([3]), named(range(3, 6))) == ("seed 3", "seeds 3 to 5")


def test_tables_are_aligned_to_the_left_and_then_to_the_right():
    assert aligned([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc   d"]
