"""A system is checked once, is a value afterwards, and is the same system in every form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given

from gramian.errors import (
    EmptySystemError,
    GramianError,
    NonFiniteSystemError,
    ShapeError,
    UnstableSystemError,
)
from gramian.systems.linear_system import LinearSystem, diagonal_if_accurate
from gramian.systems.norms import frequency_response, hinf_norm, impulse_response
from systems_zoo import changed_basis, delay_line, lag, normal, random_system, systems, term_size

OMEGA = torch.linspace(-3.1, 3.1, 23, dtype=torch.float64)
FORMS: dict[str, Callable[[], LinearSystem]] = {
    "real_part": lambda: random_system(4, seed=1, D=True),
    "complex": lambda: random_system(4, seed=2, kind="complex"),
    "real poles": lambda: random_system(3, seed=3, kind="real", D=True),
    "dense": lambda: changed_basis(random_system(4, seed=4)),
    "dense complex": lambda: changed_basis(random_system(4, seed=5, kind="complex")),
    "defective": lambda: LinearSystem(
        *(t.to(torch.float64) for t in (torch.tensor([[0.5, 1.0], [0.0, 0.5]]), torch.eye(2), torch.eye(2)))
    ),
}


def three(A: object = None, B: object = None, C: object = None, **more: object) -> LinearSystem:
    """A system with three states, two inputs and one output, of which a test spoils one part."""
    parts = {"A": torch.tensor([0.5, 0.2, -0.3]), "B": torch.ones(3, 2), "C": torch.ones(1, 3)}
    parts |= {k: v for k, v in (("A", A), ("B", B), ("C", C)) if v is not None}  # type: ignore[misc]
    return LinearSystem(**parts, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_everything_is_kept_in_double_precision(dtype: torch.dtype) -> None:
    system = LinearSystem(torch.full((2,), 0.5, dtype=dtype), torch.ones(2, 1, dtype=dtype), torch.ones(1, 2).to(dtype))
    wanted = torch.complex128 if dtype.is_complex else torch.float64
    assert {t.dtype for t in (system.A, system.B, system.C, system.D)} == {wanted}
    assert system.log_poles.dtype == torch.complex128


def test_one_complex_part_makes_all_parts_complex() -> None:
    system = three(B=torch.ones(3, 2, dtype=torch.complex64))
    assert {t.dtype for t in (system.A, system.B, system.C, system.D)} == {torch.complex128}


def test_a_system_does_not_change_when_the_tensors_it_was_made_of_do() -> None:
    A, B, C, D = (t.double() for t in (torch.tensor([0.5]), torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1)))
    logs = A.log()
    system = LinearSystem(A, B, C, D, logs)
    before = frequency_response(system, OMEGA)
    for tensor in (A, B, C, D, logs):
        tensor.fill_(0.1)
    assert torch.equal(frequency_response(system, OMEGA), before)


def test_a_system_is_frozen_and_outside_autograd() -> None:
    system = three(B=torch.ones(3, 2, requires_grad=True))
    assert not system.B.requires_grad
    with pytest.raises(dataclasses.FrozenInstanceError):
        system.A = system.B  # type: ignore[misc]


def test_feed_through_is_zero_unless_given() -> None:
    assert torch.equal(three().D, torch.zeros(1, 2, dtype=torch.float64))


def test_a_real_part_system_counts_every_mode_and_its_conjugate() -> None:
    system = random_system(5)
    assert system.order == 10
    assert system.poles.shape == (10,)
    assert torch.equal(system.poles[:5].conj(), system.poles[5:])


@pytest.mark.parametrize("form", ["augmented", "real_coordinates", "dense"])
def test_a_real_part_system_is_the_same_map_in_every_form(form: str) -> None:
    system = random_system(5, 3, 2, D=True)
    other = getattr(system, form)()
    assert (other.order, other.real_part) == (system.order, False)
    torch.testing.assert_close(
        impulse_response(other, 40).real, impulse_response(system, 40), rtol=1e-13, atol=1e-13 * term_size(system)
    )


def test_output_of_a_real_part_system_is_the_real_part_of_the_complex_output() -> None:
    system = random_system(5, 3, 2)
    complex_one = LinearSystem(system.A, system.B, system.C)
    torch.testing.assert_close(impulse_response(system, 40), impulse_response(complex_one, 40).real)
    plus, minus = frequency_response(complex_one, OMEGA), frequency_response(complex_one, -OMEGA)
    torch.testing.assert_close(frequency_response(system, OMEGA), (plus + minus.conj()) / 2, rtol=1e-12, atol=1e-12)


def test_real_coordinates_are_a_real_matrix_with_the_poles_of_the_system() -> None:
    system = random_system(4)
    real = system.real_coordinates()
    assert not real.A.is_complex()
    key = lambda z: (round(z.real, 9), round(z.imag, 9))  # noqa: E731
    found, wanted = (sorted(s.poles.tolist(), key=key) for s in (real, system))
    assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", ["dense", "dense complex", "real poles", "complex"])
def test_diagonalized_is_the_same_system(name: str) -> None:
    system = FORMS[name]()
    diagonal, condition = system.diagonalized()
    assert diagonal.is_diagonal
    assert float(condition) >= 1
    torch.testing.assert_close(
        frequency_response(diagonal, OMEGA), frequency_response(system, OMEGA), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("system", [delay_line(4), FORMS["defective"]()], ids=["delay line", "Jordan block"])
def test_a_system_without_a_basis_of_eigenvectors_is_not_diagonalized(system: LinearSystem) -> None:
    with pytest.raises(GramianError, match="no basis of eigenvectors"):
        system.diagonalized()
    assert diagonal_if_accurate(system) is system


@pytest.mark.parametrize("one", FORMS)
@pytest.mark.parametrize("two", FORMS)
def test_the_response_of_a_difference_is_the_difference_of_the_responses(one: str, two: str) -> None:
    first, second = FORMS[one](), FORMS[two]()
    wanted = frequency_response(first, OMEGA) - frequency_response(second, OMEGA)
    torch.testing.assert_close(frequency_response(first - second, OMEGA), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(frequency_response(first + (-second), OMEGA), wanted, rtol=1e-10, atol=1e-10)


@given(systems())
def test_a_system_minus_itself_is_zero(system: LinearSystem) -> None:
    assert hinf_norm(system - system) <= 1e-14 * term_size(system)


def test_systems_with_other_inputs_or_outputs_cannot_be_subtracted() -> None:
    with pytest.raises(ShapeError, match=r"maps 3 inputs to 2 outputs, .* 1 to 2\."):
        random_system(4, 3, 2) - random_system(4, 1, 2)


def test_logarithms_of_the_poles_say_more_than_the_poles() -> None:
    one, log = torch.ones(1, 1), torch.tensor([-1e-20], dtype=torch.float64)
    system = LinearSystem(torch.ones(1), one, one, log_poles=log)
    assert float(hinf_norm(system)) == pytest.approx(1e20, rel=1e-12)


def test_logarithms_are_taken_along_by_every_operation() -> None:
    log = torch.tensor([complex(-1e-18, 0.3)], dtype=torch.complex128)
    system = LinearSystem(torch.exp(log), torch.ones(1, 1), torch.ones(1, 1), log_poles=log, real_part=True)
    other = random_system(2, 1, 1, seed=1)
    for made in (-system, system + other, system - other, other - system, system.augmented()):
        assert float(made.log_poles.real.max()) == pytest.approx(-1e-18, rel=1e-12)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"A": torch.zeros(4)},
        {"A": torch.zeros(3, 2)},
        {"A": torch.zeros(2, 3)},
        {"A": torch.zeros(())},
        {"B": torch.zeros(4, 2)},
        {"B": torch.zeros(3)},
        {"C": torch.zeros(3)},
        {"C": torch.zeros(1, 4)},
        {"C": torch.zeros(2, 1, 3)},
        {"D": torch.zeros(2)},
        {"D": torch.zeros(2, 1)},
        {"D": torch.zeros(5, 1, 2)},
        {"log_poles": torch.zeros(2)},
        {"A": torch.zeros(3, 3), "log_poles": torch.zeros(3, 3)},
    ],
    ids=lambda spoilt: ", ".join(f"{k} {tuple(v.shape)}" for k, v in spoilt.items()),
)
def test_shapes_that_do_not_fit_are_named(spoilt: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ShapeError) as error:
        three(**spoilt, name="layers.0")
    for field, tensor in spoilt.items():
        assert f"{field} {tuple(tensor.shape)}" in str(error.value)
    assert "'layers.0'" in str(error.value)
    assert "Needed: A (..., N)" in str(error.value)


def test_a_dense_system_cannot_stand_for_the_real_part_of_a_complex_one() -> None:
    with pytest.raises(ShapeError, match="dense and has real_part=True"):
        three(A=torch.zeros(3, 3), real_part=True)


@pytest.mark.parametrize(("n", "n_in", "n_out"), [(0, 1, 1), (2, 0, 1), (2, 1, 0)])
def test_a_system_without_states_inputs_or_outputs_is_empty(n: int, n_in: int, n_out: int) -> None:
    with pytest.raises(EmptySystemError, match="at least one state, one input and one output"):
        LinearSystem(torch.zeros(n), torch.zeros(n, n_in), torch.zeros(n_out, n))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["A", "B", "C", "D", "log_poles"])
def test_entries_that_are_not_finite_are_counted_and_located(field: str, bad: float) -> None:
    parts = {"A": torch.zeros(3), "B": torch.ones(3, 2), "C": torch.ones(1, 3), "D": torch.ones(1, 2)}
    parts["log_poles"] = torch.full((3,), -1.0)
    parts[field].view(-1)[-2:] = bad
    index = tuple(int(i) for i in (~torch.isfinite(parts[field])).nonzero()[0])
    with pytest.raises(NonFiniteSystemError) as error:
        LinearSystem(**parts, name="layers.1")  # type: ignore[arg-type]
    given_line, why, cure = str(error.value).split("\n")
    assert f"2 of {parts[field].numel()} entries of {field} of 'layers.1'" in given_line
    assert f"index {index}" in given_line
    assert "diverged" in why
    assert "learning rate" in cure


def test_unstable_poles_are_counted_and_the_worst_is_named_with_the_cure() -> None:
    with pytest.raises(UnstableSystemError) as error:
        three(A=torch.tensor([1.0003, 0.2, -1.25]).double(), name="layers.0")
    assert str(error.value) == (
        "2 of 3 poles of 'layers.0' lie on or outside the unit circle\n"
        "    (largest |lambda| = 1.25, state 2), so its Gramians do not exist.\n"
        '    Constrain the poles in the layer, or leave it out: Energy(tau=0.01).except_for("layers.0").'
    )


@pytest.mark.parametrize("pole", [1.0, -1.0, 1j, -1j, 1.0 + 1e-15])
@pytest.mark.parametrize("dense", [False, True])
def test_a_pole_exactly_on_the_circle_is_unstable(pole: complex, dense: bool) -> None:
    A = torch.tensor([0.5, pole, 0.1], dtype=torch.complex128)
    with pytest.raises(UnstableSystemError, match="1 of 3 poles"):
        three(A=torch.diag(A) if dense else A)


def test_a_pole_is_unstable_if_its_logarithm_says_so() -> None:
    with pytest.raises(UnstableSystemError, match="1 of 3 poles"):
        three(log_poles=torch.tensor([-1.0, 0.0, -2.0]))


def test_the_state_of_an_unstable_pole_in_a_batch_is_counted_within_its_system() -> None:
    A = torch.full((2, 3), 0.5)
    A[1, 2] = 2.0
    with pytest.raises(UnstableSystemError, match=r"1 of 6 poles(.|\n)*state 2\)"):
        LinearSystem(A, torch.ones(2, 3, 1), torch.ones(2, 1, 3))


def test_the_largest_stable_pole_in_double_precision_is_stable() -> None:
    assert lag(1 - 2**-53).order == 1


def test_a_batch_holds_one_system_for_each_index() -> None:
    system = LinearSystem(torch.full((4, 2, 3), 0.5), normal(4, 2, 3, 1), normal(4, 2, 2, 3))
    assert system.batch_shape == (4, 2)
    assert (system.order, system.n_inputs, system.n_outputs) == (3, 1, 2)
    assert system.D.shape == (4, 2, 2, 1)
