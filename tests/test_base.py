"""The page of types and laws: its errors are one family, its records are what the docs say."""

import pytest

from jaxcomp import base


@pytest.mark.parametrize("name", ["CorruptStream", "CapacityError", "UnsupportedInput"])
def test_one_except_clause_catches_every_refusal(name):
    error = getattr(base, name)
    assert issubclass(error, base.JaxcompError) and issubclass(base.JaxcompError, ValueError)
    assert error.__doc__


def test_records_are_plain_tuples_in_the_documented_order():
    assert base.Codec._fields == ("init", "apply", "encode", "decode", "name")
    assert base.Payload._fields == ("header", "sections")
