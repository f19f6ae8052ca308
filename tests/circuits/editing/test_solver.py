"""The closed form against dense algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.editing.solver import RIDGE, KeyMetric, solve
from interp.errors import PlanError


def moment(d: int, n: int = 400, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    keys = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix
    return keys.T @ keys / n


def ridged(m: torch.Tensor) -> torch.Tensor:
    return m + RIDGE * m.diagonal().mean() * torch.eye(len(m))


def draw(d_in: int, d_out: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(d_in, n, generator=generator, dtype=torch.float64)
    return keys, torch.randn(d_out, n, generator=generator, dtype=torch.float64)


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 6), rho=st.floats(1e-3, 10), seed=st.integers(0, 99))
def test_woodbury_equals_the_dense_normal_equations(n: int, rho: float, seed: int):
    m = moment(12)
    keys, residuals = draw(12, 7, n, seed)
    up, down = solve(KeyMetric("inverse_moment", m), keys, residuals, rho)
    dense = residuals @ keys.T @ torch.linalg.inv(rho * 12 * ridged(m) + keys @ keys.T)
    torch.testing.assert_close(up @ down.T, dense, atol=1e-9, rtol=1e-7)


def test_the_solution_minimises_the_objective():
    m, metric = moment(8), KeyMetric("inverse_moment", moment(8))
    keys, residuals = draw(8, 5, 3, 1)
    up, down = solve(metric, keys, residuals, 0.3)

    def objective(delta: torch.Tensor) -> torch.Tensor:
        kept = torch.einsum("oi,ij,oj->", delta, ridged(m), delta)
        return 0.3 * 8 * kept + (delta @ keys - residuals).square().sum()

    best = up @ down.T
    for seed in range(5):
        step = 1e-3 * torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)).double()
        assert objective(best + step) > objective(best)


def test_rome_writes_one_key_exactly_and_leaves_orthogonal_ones():
    m = moment(10)
    metric = KeyMetric("inverse_moment", m)
    keys, residuals = draw(10, 6, 1, 2)
    up, down = solve(metric, keys, residuals, 0.0)
    torch.testing.assert_close(up @ (down.T @ keys), residuals, atol=1e-9, rtol=1e-9)
    away = metric.apply(keys)[:, 0]
    x = torch.randn(10, dtype=torch.float64)
    x = x - away * (x @ away) / (away @ away)  # C^-1 k-orthogonal
    assert float((up @ (down.T @ x)).norm()) < 1e-9


def test_a_large_lambda_changes_nothing():
    keys, residuals = draw(10, 6, 4, 3)
    up, down = solve(KeyMetric("inverse_moment", moment(10)), keys, residuals, 1e12)
    assert float((up @ down.T).abs().max()) < 1e-9


def test_preserved_keys_are_keys_with_residual_zero():
    metric = KeyMetric("inverse_moment", moment(12))
    keys, residuals = draw(12, 5, 2, 4)
    kept, _ = draw(12, 5, 3, 5)
    up, down = solve(metric, keys, residuals, 0.1, kept, 4.0)
    both = torch.cat([keys, 2 * kept], 1)
    zeros = torch.cat([residuals, torch.zeros(5, 3, dtype=torch.float64)], 1)
    want = solve(metric, both, zeros, 0.1)
    torch.testing.assert_close(up @ down.T, want[0] @ want[1].T)
    plain = solve(metric, keys, residuals, 0.1)
    moved, before = (up @ (down.T @ kept)).norm(), (plain[0] @ (plain[1].T @ kept)).norm()
    assert float(moved) < 0.5 * float(before)


def test_the_null_space_metric_does_not_touch_protected_directions():
    m = moment(12)
    metric = KeyMetric("null_space", m, protected=0.9)
    keys, residuals = draw(12, 5, 2, 6)
    up, down = solve(metric, keys, residuals, 0.05)
    values, vectors = torch.linalg.eigh(m)
    protected = vectors[:, values.cumsum(0) > 0.1 * values.sum()]
    assert 0 < protected.shape[1] < 12
    assert float((up @ (down.T @ protected)).norm()) < 1e-9 * float((up @ down.T).norm())
    # AlphaEdit's own form: [P (K K^T) + a 1] X = P K R^T, Delta = X^T
    p = metric.apply(torch.eye(12, dtype=torch.float64))
    a = 0.05 * metric.typical
    x = torch.linalg.solve(p @ keys @ keys.T + a * torch.eye(12), p @ keys @ residuals.T)
    torch.testing.assert_close(up @ down.T, x.T, atol=1e-9, rtol=1e-7)


def test_lambda_is_in_units_of_a_typical_key():
    m = moment(9, n=20_000)
    assert KeyMetric("inverse_moment", m).typical == 9
    assert KeyMetric("identity", m).typical == pytest.approx(float(m.trace()))


def test_dependent_keys_and_missing_numbers_are_refused():
    metric = KeyMetric("inverse_moment", moment(6))
    keys, residuals = draw(6, 4, 1, 7)
    with pytest.raises(PlanError, match="rho > 0"):
        solve(metric, keys.expand(6, 2), residuals.expand(4, 2), 0.0)
    with pytest.raises(PlanError, match="not finite"):
        solve(metric, keys * torch.nan, residuals, 0.1)


@pytest.mark.parametrize(("name", "by"), [("null_space", "eigh"), ("inverse_moment", "cholesky")])
def test_a_moment_is_decomposed_once_for_all_edits(name, by, monkeypatch):
    plain, calls = getattr(torch.linalg, by), []
    monkeypatch.setattr(torch.linalg, by, lambda x: calls.append(len(x)) or plain(x))
    m, keys = moment(7), torch.randn(7, 2, dtype=torch.float64)
    first = KeyMetric(name, m, 0.9).apply(keys)
    assert torch.equal(KeyMetric(name, m, 0.9).apply(keys), first) and calls == [7]
    assert torch.equal(KeyMetric(name, m.clone(), 0.9).apply(keys), first) and calls == [7, 7]
    m.add_(torch.eye(7).double(), alpha=5)
    changed = KeyMetric(name, m, 0.9).apply(keys)
    assert torch.equal(changed, KeyMetric(name, m.clone(), 0.9).apply(keys))
    assert not torch.allclose(changed, first)
