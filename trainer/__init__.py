"""A training framework for linear classifiers: the activation, the loss and the gradient strategy are three choices."""

__version__ = "0.1.0"
