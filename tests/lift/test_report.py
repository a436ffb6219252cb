"""The table of what ran: rows, totals, unused leaves."""

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from jaxcomp.lift.report import Report, Row, row
from tests.lift.cases import normal, scaled


def _fn(p, x):
    x = x @ p["used"] + p["bias"]
    return x @ p["used"].T, x @ jnp.abs(p["used"]).T, jnp.sum(p["sum"])


def _report():
    params = {"bias": normal(6), "sum": scaled(4, 4), "unused": scaled(2, 2), "used": scaled(8, 6)}
    return jc.lift(_fn).report(params, normal(3, 8)), params


def test_one_row_per_leaf_and_operation_and_one_for_what_is_not_used():
    found, params = _report()
    kinds = [(r.path, r.operation, r.ran) for r in found.rows]
    assert kinds == [
        ("used", "dot_general", "scaled on cpu"),
        ("used", "dot_general", "scaled on cpu"),
        ("used", "abs", "dense"),
        ("sum", "reduce_sum", "dense"),
        ("unused", "", "unused"),
    ]
    assert found.rows[0].nbytes == params["used"].nbytes and found.rows[0].size == 48
    assert [r.path for r in found.materialised] == ["used", "sum"]
    assert not found.rows[0].why and "packed along (-2,)" in found.rows[1].why
    assert "not an operation" in found.rows[2].why


def test_the_table_says_it_all_and_counts_each_leaf_once():
    found, params = _report()
    lines = str(found).splitlines()
    assert lines[0].split() == ["leaf", "format", "bytes", "bits", "operation", "ran", "why"]
    assert len(lines) == 7 and lines[1].startswith("used ")
    held = sum(params[name].nbytes for name in ("sum", "unused", "used"))
    assert lines[-1] == (
        f"3 compressed leaves, {held} bytes, {8 * held / 68:.3f} bits per weight, 2 made dense"
    )


def test_another_platform_may_be_asked_about():
    found = jc.lift(lambda w, x: x @ w).report(scaled(8, 6), normal(3, 8), platform="tpu")
    assert [r.ran for r in found.rows] == ["scaled on tpu"]
    with pytest.raises(jc.UnsupportedInput, match="cpu, cuda, gpu, tpu, got 'rocm'"):
        jc.lift(lambda x: x).report(normal(3), platform="rocm")


def test_a_kernel_is_named_only_where_it_runs():
    """There is none for a tied head: the transposed product is the gradient of another."""
    shape = jax.ShapeDtypeStruct((1024, 768), jnp.float32)
    w = jax.eval_shape(lambda w: jc.formats.quantize(w, jc.formats.INT4_G128), shape)

    def both(w, x):
        return (x @ w) @ w.T

    for platform in ("cuda", "gpu", "tpu"):
        first, last = jc.lift(both).report(w, normal(4, 1024), platform=platform).rows
        assert first[-2:] == ("quant_matmul", "")
        assert last[-2:] == ("blocked lax", "no kernel for the transposed product")


def test_a_bare_leaf_is_named_by_its_argument():
    fn = lambda w: jnp.abs(w)  # noqa: E731
    assert str(jc.lift(fn).report(scaled(4, 4))).splitlines()[1].startswith("argument 0 ")
    with pytest.raises(jc.MaterialisedLeaf, match="abs on argument 0"):
        jc.lift(fn, strict=True)(scaled(4, 4))
    with pytest.raises(jc.UnsupportedInput, match="met are argument 0 by abs"):
        jc.observe(lambda w, x: jnp.abs(w), normal(4, 4), [normal(4)])
    with pytest.raises(jc.UnsupportedInput, match=r"^argument 0: .*group=3"):
        jc.weights.compress(normal(4, 4), jc.formats.INT8._replace(group=3), axes=-2)


def test_a_report_of_nothing():
    found = jc.lift(lambda x: x + 1).report(normal(3))
    assert found == Report([], {})
    assert str(found).splitlines()[-1].startswith("0 compressed leaves, 0 bytes, 0.000 bits")
    assert isinstance(row("a", [scaled(2, 2)], "", "", ""), Row)
