"""A sample of the mutated inputs: each is read, or refused in one short line."""

import logging

import pytest

from tests.faults import mutate

EACH = 40


@pytest.fixture(autouse=True)
def quiet():
    """Mutated tables give many warnings."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", mutate.READERS)
def test_every_reader_reads_or_refuses_what_was_mutated(name, tmp_path):
    counts = mutate.read_some(name, 0, EACH, seed=1, keep=tmp_path)
    faults = [path.read_text() for path in sorted(tmp_path.glob("*.message"))]
    assert faults == []
    assert counts["read"] + counts["refused"] == EACH


def test_a_tenth_of_the_inputs_must_still_be_read():
    counts = [mutate.read_some(name, 0, 10, seed=2) for name in mutate.READERS]
    assert sum(count["read"] for count in counts) >= len(counts)


def test_faults_are_told_apart(tmp_path):
    def reader(read, text=False):
        return mutate.Reader(mutate.file("a.csv", "x\n"), read, text)

    def refuse(message):
        raise mutate.UserError(message)

    cases = {
        "read": reader(lambda path: 2, text=True),
        "silent": reader(lambda path: 1, text=True),
        "crashed": reader(lambda path: int("x")),
        "refused": reader(lambda path: refuse("no")),
    }
    for result, case in cases.items():
        assert mutate.outcome(case, tmp_path, b"a,b\n1,2\n3,4\n")[0] == result
