"""Learning-rate schedules: their formulas, and that their state is all they need to go on."""

import json
import math

import pytest

import fastrnn as fr
from fastrnn.schedules import Constant, CosineWithWarmup, ReduceOnPlateau, StepLR

MAKE = {
    "constant": lambda o: Constant(o, warmup_steps=4),
    "cosine": lambda o: CosineWithWarmup(o, 12, warmup_steps=3, min_lr=0.01),
    "step": lambda o: StepLR(o, 3, gamma=0.3),
    "plateau": lambda o: ReduceOnPlateau(o, 0.3, patience=1, cooldown=1, min_lr=0.002),
}
LOSSES = [3.0, 2.0, 2.0, 2.1, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0]


def optimizer_of(lr=0.5):
    return fr.optim.SGD(fr.Linear(1, 1, seed=0), lr=lr)


def rates(schedule, losses):
    """The rate of each update or epoch, up to the one after the last loss."""
    seen = [schedule.optimizer.lr]
    for loss in losses:
        schedule.step(loss)
        seen.append(schedule.optimizer.lr)
    return seen


def test_steps_are_powers_of_gamma():
    expected = [0.5 * 0.3 ** (epoch // 3) for epoch in range(17)]
    assert rates(MAKE["step"](optimizer_of()), LOSSES) == pytest.approx(expected, rel=1e-14)


def test_the_cosine_rises_linearly_falls_to_its_least_and_stays_there():
    got = rates(MAKE["cosine"](optimizer_of()), LOSSES)
    assert got[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    falling = [0.01 + 0.49 * (1 + math.cos(math.pi * k / 9)) / 2 for k in range(10)]
    assert got[3:13] == pytest.approx(falling, rel=1e-14)
    assert got[12:] == pytest.approx([0.01] * 5)


def test_a_cosine_without_warm_up_is_the_one_of_torch():
    # CosineAnnealingLR(lr=1, T_max=4, eta_min=0.2): cos(pi/4) is the root of 1/2
    expected = [1.0, 0.8828427124746191, 0.6, 0.3171572875253809, 0.2]
    got = rates(CosineWithWarmup(optimizer_of(1.0), 4, min_lr=0.2), LOSSES[:4])
    assert got == pytest.approx(expected, rel=1e-14)


def test_a_constant_rate_only_rises():
    got = rates(MAKE["constant"](optimizer_of()), LOSSES[:6])
    assert got == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5])


def test_a_plateau_is_more_than_patience_epochs_without_improvement():
    got = rates(ReduceOnPlateau(optimizer_of(), 0.5, patience=2), [2, 2, 2, 1.9, 2, 2, 2, 2, 2, 2])
    assert got == [0.5] * 7 + [0.25] * 3 + [0.125]


def test_after_a_reduction_the_cooldown_is_not_counted():
    got = rates(ReduceOnPlateau(optimizer_of(), 0.5, patience=0, cooldown=2), [1] * 8)
    assert got == [0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125, 0.0625]


@pytest.mark.parametrize(("loss", "improves"), [(0.9998, True), (0.99995, False)])
def test_an_improvement_below_the_threshold_is_none(loss, improves):
    schedule = ReduceOnPlateau(optimizer_of(), 0.5, patience=0)
    assert (rates(schedule, [1.0, loss])[-1] == 0.5) == improves


@pytest.mark.parametrize(("loss", "improves"), [(-1.0002, True), (-1.00005, False)])
def test_a_negative_loss_has_to_fall_by_the_threshold_too(loss, improves):
    schedule = ReduceOnPlateau(optimizer_of(), 0.5, patience=0)
    assert (rates(schedule, [-1.0, loss])[-1] == 0.5) == improves


def test_a_plateau_does_not_go_below_the_least_rate():
    assert min(rates(MAKE["plateau"](optimizer_of()), [1.0] * 40)) == 0.002


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("stop", [0, 1, 5, 9])
def test_a_schedule_goes_on_where_its_state_was_taken_bit_for_bit(kind, stop):
    unbroken = rates(MAKE[kind](optimizer_of()), LOSSES)
    first = MAKE[kind](optimizer_of())
    before = rates(first, LOSSES[:stop])
    second = MAKE[kind](optimizer_of(0.7))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + rates(second, LOSSES[stop:])[1:] == unbroken


@pytest.mark.parametrize("kind", MAKE)
def test_another_base_rate_scales_the_rates_that_follow(kind):
    one, other = MAKE[kind](optimizer_of()), MAKE[kind](optimizer_of())
    if kind != "constant":
        one.min_lr = other.min_lr = 0.0
    rates(one, LOSSES[:6]), rates(other, LOSSES[:6])
    other.base_lr = 1.0
    doubled = [2 * rate for rate in rates(one, LOSSES[6:])]
    assert rates(other, LOSSES[6:]) == pytest.approx(doubled, rel=1e-14)


def test_the_state_of_another_schedule_is_refused():
    saved = MAKE["step"](optimizer_of()).state_dict()
    with pytest.raises(ValueError, match="schedule: expected the state of Constant, got that of S"):
        MAKE["constant"](optimizer_of()).load_state_dict(saved)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: StepLR(o, 0), "step_size: expected an integer of at least 1, got 0"),
        (lambda o: StepLR(o, 1, -1), "gamma: expected a number above 0, got -1"),
        (lambda o: Constant(o, 1.5), "warmup_steps: expected an integer of at least 0, got 1.5"),
        (lambda o: CosineWithWarmup(o, 9, 9), "from 0 to total_steps - 1 = 8, got 9"),
        (lambda o: CosineWithWarmup(o, 9, min_lr=-1), "min_lr: expected a number of at least 0"),
        (lambda o: ReduceOnPlateau(o, 1), "factor: expected a number above 0 and below 1, got 1"),
        (lambda o: ReduceOnPlateau(o).step(), "loss: expected a number, got None"),
        (lambda o: ReduceOnPlateau(o).step(math.nan), "loss: expected a number, got nan"),
    ],
)
def test_what_makes_no_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(optimizer_of())


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(
    "wrong", [{"base_lr": -1.0}, {"steps": math.nan}, {"steps": -1}, {"base_lr": math.inf}]
)
def test_a_state_that_makes_no_rate_changes_nothing(kind, wrong):
    schedule = MAKE[kind](optimizer_of())
    before = schedule.state_dict(), schedule.optimizer.lr
    later = MAKE[kind](optimizer_of())
    rates(later, LOSSES[:5])
    with pytest.raises((ValueError, TypeError)):
        schedule.load_state_dict(later.state_dict() | wrong)
    assert (schedule.state_dict(), schedule.optimizer.lr) == before


def test_a_plateau_whose_own_rate_is_wrong_changes_nothing():
    schedule = MAKE["plateau"](optimizer_of())
    before = schedule.state_dict()
    with pytest.raises(ValueError, match=r"^lr: "):
        schedule.load_state_dict(before | {"steps": 3, "lr": -1.0})
    assert schedule.state_dict() == before


def test_the_rate_from_which_a_plateau_counts_may_be_set_twice():
    optimizer = fr.optim.SGD(fr.Linear(1, 1), 1.0)
    schedule = ReduceOnPlateau(optimizer, factor=0.5, patience=0)
    for loss in 1.0, 2.0:
        schedule.step(loss)
    once = optimizer.lr
    for rate in 4.0, 2.0:
        schedule.base_lr = rate
    assert once == 0.5 and optimizer.lr == 2.0 * once


@pytest.mark.parametrize("factor", ["0.5", None, math.nan])
def test_a_factor_that_is_no_number_is_refused(factor):
    with pytest.raises(ValueError, match=r"^factor: expected a number above 0 and below 1"):
        ReduceOnPlateau(optimizer_of(), factor)
