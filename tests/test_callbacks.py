import pytest

from trainer.callbacks import EarlyStopping
from trainer.errors import ConfigError
from trainer.fit import Report

COLUMNS = ["epoch", "loss", "val_loss"]


def stops_at(callback, losses):
    """The first epoch, from one, at which the callback answers true."""
    call = callback.start(COLUMNS)
    return next((n for n, loss in enumerate(losses, 1) if call(Report(None, {"val_loss": loss}))), None)


def test_early_stopping_waits_for_its_patience_after_the_best():
    assert stops_at(EarlyStopping(patience=2), [3, 2, 2.5, 2.1, 1]) == 4


def test_early_stopping_goes_on_while_the_loss_falls():
    assert stops_at(EarlyStopping(patience=1), [5, 4, 3, 2, 1]) is None


def test_a_fall_by_less_than_min_delta_is_no_fall():
    assert stops_at(EarlyStopping(patience=2, min_delta=0.5), [3, 2.8, 2.6, 2.4]) == 3


def test_every_start_counts_afresh():
    callback = EarlyStopping(patience=2)
    assert stops_at(callback, [1, 2]) is None
    assert stops_at(callback, [1, 2]) is None


def test_a_column_that_will_not_be_there_is_refused_before_the_training():
    with pytest.raises(ConfigError, match=r"early_stopping\.monitor=val_loss is not known; did you mean loss"):
        EarlyStopping().start(["epoch", "loss"])


@pytest.mark.parametrize("settings", [{"patience": 0}, {"min_delta": -1.0}, {"min_delta": float("nan")}])
def test_ranges_are_checked(settings):
    with pytest.raises(ConfigError, match=r"callbacks\.early_stopping"):
        EarlyStopping(**settings)
