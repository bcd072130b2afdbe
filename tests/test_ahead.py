import pytest

from flows.ahead import ahead


def test_keeps_order_and_errors():
    def items():
        yield from range(100)
        raise OSError("disk gone")

    seen = []
    with pytest.raises(OSError, match="disk gone"):
        seen.extend(ahead(items(), 3))
    assert list(ahead(range(100), 3)) == list(range(100))


def test_stops_with_its_reader():
    made = []

    def items():
        for i in range(1000):
            made.append(i)
            yield i

    for item in ahead(items(), 3):
        if item == 10:
            break
    assert len(made) < 20
