"""What meets a compressed weight: operations that keep it packed, and those that do not."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxcomp as jc
from tests.lift.cases import check_law, normal, rows, scaled

X = normal(3, 8)

LAYOUTS = {
    "transposed": ((6, 8), (-1,), lambda w, x: x @ w.T),
    "left operand": ((8, 6), (-2,), lambda w, x: w.T @ x.T),
    "summed over the free axis": ((8, 6), (-2,), lambda w, x: x[:, :6] @ w.T),
    "reshaped": ((8, 6), (-2,), lambda w, x: x @ w.reshape(2, 4, 6).reshape(8, 3, 2).reshape(8, 6)),
    "heads": ((8, 6), (-2,), lambda w, x: jnp.einsum("bi,ihd->hbd", x, w.reshape(8, 2, 3))),
    "swapped": ((8, 6), (-2,), lambda w, x: x @ w.reshape(8, 2, 3).swapaxes(1, 2).reshape(8, 6)),
    "expanded": ((8, 6), (-2,), lambda w, x: jnp.matmul(x[:, None, None], w[None])),
    "repeated": ((8, 6), (-2,), lambda w, x: x @ jnp.repeat(w[:, :, None], 2, 2).reshape(8, 12)),
    "summed twice": ((8, 6), (-2,), lambda w, x: x[:, :4] @ w.reshape(2, 4, 6).sum(0) * 0 + x @ w),
    "wider": ((8, 6), (-2,), lambda w, x: x @ jnp.broadcast_to(w, (4, 8, 6))),
    "sliced": ((8, 6), (-2,), lambda w, x: x @ w[:, 1:4]),
    "fused": ((8, 6), (-2,), lambda w, x: [x @ part for part in jnp.split(w, 3, -1)]),
    "fused heads": ((8, 12), (-2,), lambda w, x: x @ w.reshape(8, 2, 3, 2)[:, :, 1].reshape(8, 4)),
    "blocks": (
        (8, 12),
        (-2,),
        lambda w, x: x @ w.reshape(8, 2, 6).swapaxes(0, 1).reshape(16, 6)[8:],
    ),
    "every second": ((8, 6), (-2,), lambda w, x: x @ w[:, 1::2]),
    "backwards": ((8, 6), (-2,), lambda w, x: x @ w[:, ::-1]),
    "half float": ((8, 6), (-2,), lambda w, x: x.astype(jnp.float32) @ w.astype(jnp.bfloat16)),
    "one input row": ((1, 8, 6), (-2,), lambda w, x: x @ w[0]),
    "one expert": ((1, 8, 6), (-2,), lambda w, x: jnp.einsum("ebi,eio->ebo", x[None], w)),
    "integers": ((8, 6), (-2,), lambda w, x: x.astype(jnp.int32) @ w),
    "one input": ((1, 6), (-2,), lambda w, x: x[:, :1] @ w),
    "one output": ((8, 1), (-2,), lambda w, x: (x @ w)[:, 0]),
    "copied": ((8, 6), (-2,), lambda w, x: x @ jnp.copy(lax.optimization_barrier(w))),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_keep_a_weight_packed(name):
    shape, axes, fn = LAYOUTS[name]
    made = ["0"] if name == "summed twice" else []
    # A weight that was rounded to bfloat16 on its way is multiplied as it is stored.
    tolerance = 2**-8 if name == "half float" else 1e-5
    params = [scaled(*shape, axes=axes)]
    check_law(lambda p, x: fn(p[0], x), params, X, materialised=made, tolerance=tolerance)


JOINED = {
    "columns": lambda p, x: x @ jnp.concatenate([p[0], p[1][:, :3]], -1),
    "transposed": lambda p, x: x @ jnp.concatenate([p[0].T, p[1].T], 0).T,
    "layers": lambda p, x: lax.scan(lambda x, w: (jnp.tanh(x @ w)[:, :8], None), x, jnp.stack(p))[
        0
    ],
}


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("shared", [False, True])
def test_weights_are_joined_along_a_free_axis(name, shared):
    params = [scaled(8, 16, seed=seed, shared=shared) for seed in (0, 1)]
    found = check_law(JOINED[name], params, X)
    assert [row.path for row in found.rows] == ["0 + 1"]
    assert found.rows[0].nbytes == sum(leaf.nbytes for leaf in params)


UNPACKED = {
    "arithmetic": ("mul", lambda w, x: x @ (2 * w)),
    "summed over both axes": ("dot_general", lambda w, x: jnp.vdot(jnp.resize(x, w.shape), w)),
    "part of the packed axis": ("slice", lambda w, x: x[:, :4] @ w[:4]),
    "half of a product": (
        "dot_general",
        lambda w, x: jnp.einsum("ba,aco->bco", x[:, :4], w.reshape(4, 2, 6)),
    ),
    "joined to an array": ("concatenate", lambda w, x: x @ jnp.concatenate([w, x.T], -1)),
    "joined along the packed axis": (
        "concatenate",
        lambda w, x: jnp.concatenate([x, x], -1) @ jnp.concatenate([w, w], 0),
    ),
    "reshaped across": ("reshape", lambda w, x: x @ w.reshape(3, 16)[:, :8].T),
    "times itself": ("dot_general", lambda w, x: x @ (w @ w.T)),
    "complex numbers": (
        "dot_general",
        lambda w, x: jnp.abs(lax.dot_general(x + 1j, w, (((1,), (0,)), ((), ())))),
    ),
    "returned": ("return", lambda w, x: (w.T, x)),
}


@pytest.mark.parametrize("name", UNPACKED)
def test_anything_else_makes_it_dense_and_says_so(name):
    operation, fn = UNPACKED[name]
    params = {"w": scaled(8, 6)}
    found = check_law(lambda p, x: fn(p["w"], x), params, X, materialised=["w"])
    assert operation in {row.operation for row in found.materialised}
    assert all(row.why for row in found.materialised)
    with pytest.raises(jc.MaterialisedLeaf, match=rf"{operation} on w \(scaled\)"):
        jc.lift(lambda p, x: fn(p["w"], x), strict=True)(params, X)


def test_effects_happen_once_and_in_order(capfd):
    seen = []

    def fn(w, x):
        x = x @ w
        jax.debug.print("{}", x.shape[0])
        for i in range(3):
            lax.cond(
                x.sum() < 1e9,
                lambda i=i: jax.experimental.io_callback(
                    lambda: seen.append(i), None, ordered=True
                ),
                lambda: None,
            )
        return x

    jc.lift(fn)(scaled(8, 6), X)
    jax.effects_barrier()
    assert seen == [0, 1, 2] and capfd.readouterr().out == "3\n"
    jc.lift(fn).report(scaled(8, 6), X)
    assert seen == [0, 1, 2]


def test_gradients_go_through_layouts_and_stop_where_they_are_told():
    w = scaled(8, 6)

    def fn(scales, stop):
        leaf = type(w)(w.codes, scales, w.dtype, w.packed)
        other = lax.stop_gradient if stop else lambda w: w
        return (jc.lift(lambda w: X @ other(w.T).T[:, 1:])(leaf) ** 2).sum()

    def plain(scales):
        return ((X @ (w.codes * scales)[:, 1:]) ** 2).sum()

    got = jax.jit(jax.grad(fn), static_argnums=1)(w.scales, False)
    assert jnp.allclose(got, jax.jit(jax.grad(plain))(w.scales), rtol=1e-4)
    assert not jax.jit(jax.grad(fn), static_argnums=1)(w.scales, True).any()


def test_rows_are_one_per_leaf_and_operation():
    def fn(p, x):
        return x @ p["w"] + x @ p["w"], p["w"][:, jnp.array([0])]

    assert rows(fn, {"w": scaled(8, 6)}, X) == {
        ("w", "dot_general"): "scaled on cpu",
        ("w", "gather"): "take",
    }
