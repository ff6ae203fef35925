"""Which losses stand wrong labels?  python examples/wrong_labels.py

One label in five of the training rows is replaced by another class, and a linear model has features enough to learn the
wrong ones by heart. Clean is the accuracy on other rows, whose labels are right; noisy that on the labels it was
trained with; and seen through the share of the wrong labels that are predicted as their true class.
"""

import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

from trainer import SoftmaxRegression

LOSSES = ("ce", "gce", "mae", "brier", "focal")
CLASSES = 4


def with_wrong_labels(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The labels 0..K-1 (N,), this share of them replaced by one of the other classes."""
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.integers(1, CLASSES, size=len(wrong))) % CLASSES
    return noisy


def accuracies(loss: str, seed: int, share: float = 0.2, epochs: int = 50) -> tuple[float, float, float]:
    """Clean, noisy, and seen through, of one training by sgd."""
    x, y = make_classification(1000, 100, n_informative=10, n_classes=CLASSES, class_sep=3.0, random_state=seed)
    x, clean_x, y, clean_y = train_test_split(x, y, test_size=0.5, random_state=seed)
    noisy = with_wrong_labels(y, share, np.random.default_rng(seed))
    model = SoftmaxRegression(loss=loss, optimizer="sgd", penalty=None, max_iter=epochs, random_state=seed)
    predicted = model.fit(x, noisy).predict(x)
    wrong = noisy != y
    return model.score(clean_x, clean_y), np.mean(predicted == noisy), np.mean(predicted[wrong] == y[wrong])


def main(seeds: range = range(3), **settings: float) -> None:
    """Prints a row a loss: means over the seeds and their standard deviations."""
    print(f"{'loss':<8}{'clean':>16}{'noisy':>16}{'seen through':>16}")
    for loss in LOSSES:
        found = np.array([accuracies(loss, seed, **settings) for seed in seeds])
        cells = zip(found.mean(axis=0), found.std(axis=0), strict=True)
        print(f"{loss:<8}" + "".join(f"{f'{mean:.3f} ± {std:.3f}':>16}" for mean, std in cells))


if __name__ == "__main__":
    main()
