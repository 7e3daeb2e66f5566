"""A process that stands still, or is told to stop, is noticed by the others."""

import time

import jax
import pytest

from ferjax import peers, preemption


class Ended(Exception):
    """What ends a process."""


class Service:
    """Stands for the coordination service of two processes, of which the other may count."""

    def __init__(self, values=(), counts=True):
        self.values, self.counts, self.reads = dict(values), counts, 0

    def key_value_set(self, key, value, allow_overwrite):
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        self.reads += 1
        other = {f"{prefix}1": str(self.reads if self.counts else 0)}
        return list((self.values | other).items())

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("NOT_FOUND: Config key not found.")
        return self.values[key]


@pytest.fixture
def service(monkeypatch):
    """Makes a service the one of this process, the first of two."""

    def use(service):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(peers.parallel, "coordination", lambda: service)
        return service

    return use


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        ((0, 99), "process 1 gave no sign for 30 s"),
        ((99, 99), "process 0 gave no sign for 30 s"),  # nothing comes back from where it counts
    ],
)
def test_a_silent_process_is_named(monkeypatch, ago, words):
    def end(reason):
        raise Ended(reason)

    monkeypatch.setattr(peers, "_end", end)
    monkeypatch.setattr(peers.time, "sleep", lambda seconds: None)
    now = time.monotonic()
    with pytest.raises(Ended, match=words):
        peers._judge({number: now - seconds for number, seconds in enumerate(ago)}, 30.0)


@pytest.mark.parametrize(("counts", "times"), [(True, 4), (False, 1)])
def test_a_process_is_heard_of_only_while_it_counts(service, monkeypatch, counts, times):
    turns, heard_of = iter(range(3)), []

    class Heard(dict):
        def __setitem__(self, process, moment):
            heard_of.append(process)

    def pause(seconds):
        if next(turns, None) is None:
            raise Ended

    service(Service(counts=counts))
    monkeypatch.setattr(peers.time, "sleep", pause)
    with pytest.raises(Ended):
        peers._listen(Heard(), 1.0)
    assert (heard_of.count(0), heard_of.count(1)) == (4, times)


def test_a_notice_to_any_process_is_noticed_by_all(service):
    service(Service())
    assert not preemption.noticed()
    service(Service({preemption.NOTICE: "2026"}))
    assert preemption.noticed()


def test_one_process_alone_notices_its_own_signal(monkeypatch):
    monkeypatch.setattr(preemption, "requested", lambda: True)
    assert preemption.noticed()
