"""CKA against its kernel form, what it must not see, and its bias."""

import numpy as np
import pytest

from accdistill_jax.evaluation.embedding_health import linear_cka


def _kernels(first, second):
    """CKA and its debiased form from N x N kernels: Kornblith 2019, equation 4; Song 2012, equation 5."""
    n = len(first)
    k, m = first @ first.T, second @ second.T
    h = np.eye(n) - 1 / n
    hsic = lambda a, b: np.trace(a @ h @ b @ h)

    def unbiased(a, b):
        a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
        one = np.ones(n)
        total = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return (np.trace(a @ b) + total - 2 / (n - 2) * (one @ a @ b @ one)) / (n * (n - 3))

    return tuple(f(k, m) / np.sqrt(f(k, k) * f(m, m)) for f in (hsic, unbiased))


@pytest.mark.parametrize(("n", "block"), [(5, 2), (40, 16384), (97, 10)])
def test_equals_the_kernel_form(n, block):
    rng = np.random.default_rng(n)
    first = 5.0 + rng.standard_normal((n, 7))
    second = first[:, :4] @ rng.standard_normal((4, 11)) + rng.standard_normal((n, 11)) - 40.0
    found = linear_cka(first, second, block=block)
    cka, debiased = _kernels(first, second)
    assert (found.cka, found.debiased) == (pytest.approx(cka, rel=1e-9), pytest.approx(debiased, rel=1e-8))
    assert found.segments == n
    back = linear_cka(second, first)
    assert (back.cka, back.debiased) == (pytest.approx(cka, rel=1e-9), pytest.approx(debiased, rel=1e-8))


def test_rotation_scale_and_shift_are_not_seen_and_other_maps_are():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)) * np.logspace(-1, 1, 12)
    other = x + rng.standard_normal(x.shape)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    before = linear_cka(x, other)
    for changed in (
        x @ turn,
        1e-6 * x,
        1e5 * x @ turn - 3e4,
        -x,
        np.concatenate([x, np.zeros((200, 3))], axis=1),
    ):
        after = linear_cka(changed, other)
        assert (after.cka, after.debiased) == (
            pytest.approx(before.cka, rel=1e-6),
            pytest.approx(before.debiased, rel=1e-6),
        )
        same = linear_cka(x, changed)
        assert (same.cka, same.debiased) == (pytest.approx(1.0), pytest.approx(1.0))
    assert linear_cka(x / x.std(axis=0), x).cka < 0.7


def test_unrelated_embeddings_are_alike_by_bias_alone():
    rng = np.random.default_rng(0)
    found = [linear_cka(rng.standard_normal((60, 64)), rng.standard_normal((60, 64))) for _ in range(30)]
    assert np.mean([f.cka for f in found]) > 0.4
    assert abs(np.mean([f.debiased for f in found])) < 0.02
    many = linear_cka(rng.standard_normal((4000, 64)), rng.standard_normal((4000, 64)))
    assert many.cka == pytest.approx(64 / 4000, rel=0.2)
    assert abs(many.debiased) < 0.005


def test_constant_and_few():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 5))
    for constant in (np.zeros((30, 4)), np.full((30, 4), 7.3, np.float32)):
        assert linear_cka(x, constant)[:2] == (None, None)
    few = linear_cka(x[:3], x[:3])
    assert few.cka == pytest.approx(1.0) and few.debiased is None
    for rows in (1, 29):
        with pytest.raises(ValueError, match="same segments"):
            linear_cka(x[:rows], x[: 30 if rows == 29 else 1])
