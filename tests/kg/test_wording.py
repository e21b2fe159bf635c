import pytest

from kg.wording import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 edges"), (1, "1 edge"), (2, "2 edges")])
def test_one_is_told_in_the_singular(number, text):
    assert counted(number, "edge") == text
