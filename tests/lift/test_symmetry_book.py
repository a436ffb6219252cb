"""Labels that have to be one are one class, and what must stay is class 0."""

import numpy as np

from jaxcomp.lift.symmetry_book import FREE, STILL, Book, mixed, salt


def test_classes_are_what_was_written():
    book = Book({"w": (3, 4), "b": (4,)})
    w, b = book.role("w", "writer", {-1, -2}), book.role("b", "writer", [-1])
    assert w.labels.shape == (3, 4) and book.role("w", "writer", (-2, -1)) is w
    book.same(w.labels, b.labels)  # every column of w is one channel
    book.still(b.labels[:1])
    book.same(b.labels[1:2], np.int32([FREE]))
    classes = book.classes()
    assert (classes[w.labels[:, 0]] == STILL).all()
    assert len(set(classes[b.labels])) == 4 and (classes[w.labels] == classes[b.labels]).all()
    book.used("w", "one way")
    book.settle()
    np.testing.assert_array_equal(book.classes(), classes)
    book.used("w", "another")
    book.settle()
    assert not book.classes().any()


def test_what_is_lost_stays():
    book = Book({"w": (2,), "v": (2,)})
    roles = [book.role(path, "writer", [-1]) for path in "wv"]
    book.lost("w")
    book.settle()
    found = [book.classes()[role.labels] for role in roles]
    assert not found[0].any() and found[1].all()


def test_ids_are_one_for_one_tuple():
    a, b = (np.arange(1000, dtype=np.uint64) % n for n in (10, 7))
    assert len(np.unique(mixed(a, b))) == 70
    assert len(np.unique([mixed(salt()), mixed(salt())])) == 2
    assert mixed(a, b)[3] != mixed(b, a)[12] and mixed(a[3], b[3]) == mixed(a, b)[3]
