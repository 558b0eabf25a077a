"""The verdict on a container's health."""

import threading
import time
from collections.abc import Callable

from kedge.containers.health import Health, command_of, merged
from kedge.model.image import Healthcheck

MS = 1_000_000


def judged(
    codes: list[int | None], check: Healthcheck, enough: Callable[[list[str]], bool]
) -> tuple[Health, list[str]]:
    """The health after probes that end with these codes, the last one for ever, until the verdicts are enough."""
    told: list[str] = []
    left = list(codes)

    def probe(_: threading.Event) -> tuple[int, bytes] | None:
        code = left.pop(0) if len(left) > 1 else left[0]
        return None if code is None else (code, b"said")

    health = Health(check, probe, lambda verdict: told.append(verdict))
    deadline = time.monotonic() + 60
    while not enough(told):
        assert time.monotonic() < deadline, told
        time.sleep(0.005)
    health.end()
    return health, told


def test_failures_in_a_row_make_it_unhealthy_and_one_success_heals() -> None:
    check = Healthcheck(("CMD", "x"), interval=2 * MS, timeout=1000 * MS, retries=2)
    _, told = judged([1, 0, 1, 1, 0], check, lambda told: len(told) == 3)
    assert told == ["healthy", "unhealthy", "healthy"]


def test_failures_while_it_starts_do_not_count() -> None:
    check = Healthcheck(("CMD", "x"), 2 * MS, 1000 * MS, start_period=3_600_000 * MS, start_interval=2 * MS, retries=1)
    health, told = judged([1, 1, 1, 0, 1], check, lambda told: len(told) == 2)
    assert told == ["healthy", "unhealthy"]
    assert health.probes[0].output == "said"


def test_a_probe_that_cannot_be_made_now_is_none() -> None:
    check = Healthcheck(("CMD", "x"), interval=2 * MS, timeout=1000 * MS, retries=1)
    health, _ = judged([None, None, 0], check, lambda told: told == ["healthy"])
    assert {each.exit_code for each in health.probes} == {0}


def test_a_probe_that_takes_too_long_fails() -> None:
    def probe(late: threading.Event) -> tuple[int, bytes]:
        assert late.wait(60)
        return 0, b"half"

    told: list[str] = []
    changed = threading.Event()
    check = Healthcheck(("CMD", "x"), interval=MS, timeout=5 * MS, retries=1)
    health = Health(check, probe, lambda verdict: (told.append(verdict), changed.set()))
    assert changed.wait(60)
    health.end()
    assert told == ["unhealthy"]
    assert "exceeded timeout (0.005s): half" in health.probes[0].output


def test_a_containers_words_stand_over_its_images() -> None:
    image = Healthcheck(("CMD-SHELL", "image"), interval=5 * MS, retries=7)
    assert merged(None, None) is None
    assert merged(Healthcheck(("NONE",)), image) is None
    both = merged(Healthcheck(interval=9 * MS), image)
    assert both is not None
    assert (both.test, both.interval, both.retries, both.timeout) == (image.test, 9 * MS, 7, 30_000 * MS)
    assert command_of(both, ("/bin/bash", "-c")) == ("/bin/bash", "-c", "image")
    assert command_of(Healthcheck(("CMD", "a", "b")), None) == ("a", "b")
