"""Settings that would break the swarm are refused, with the bounds."""

from collections.abc import Callable

import pytest

from tests.tracker.filling import listed_pack, new_run, scalar
from tracker.accounts.controls import change_setting
from tracker.database.database import Connection
from tracker.errors import TrackerError
from tracker.protocol.session import Session

Register = Callable[[str], Session]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", -5),
        ("batch_size", 0),
        ("lease_seconds", 0),
        ("again_share", 1.5),
        ("bloom_rate", 1),
        ("bloom_slots", 2.5),
        ("max_attempts", 4.5),
    ],
)
def test_a_setting_out_of_its_bounds_is_refused(admin: Connection, name: str, value: float) -> None:
    before = scalar(admin, "SELECT value FROM tracker.setting WHERE name = %s", name)
    with pytest.raises(TrackerError, match=f"{name} cannot be"):
        change_setting(admin, name, value)
    assert scalar(admin, "SELECT value FROM tracker.setting WHERE name = %s", name) == before


def test_a_lease_is_not_made_shorter_under_workers_that_beat_by_it(admin: Connection, register: Register) -> None:
    worker = register("extract")
    change_setting(admin, "lease_seconds", 90)
    with pytest.raises(TrackerError, match="while 1 workers are alive: drain them first"):
        change_setting(admin, "lease_seconds", 30)
    worker.leave()
    change_setting(admin, "lease_seconds", 30)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_a_number_is_refused(admin: Connection, value: float) -> None:
    with pytest.raises(TrackerError, match="give a number"):
        change_setting(admin, "batch_size", value)


def test_the_filter_is_split_before_the_first_pack_and_never_after(admin: Connection) -> None:
    change_setting(admin, "bloom_slots", 4)
    assert scalar(admin, "SELECT array_agg(slot ORDER BY slot) FROM tracker.bloom") == [0, 1, 2, 3]
    listed_pack(admin, new_run(admin), 1)
    with pytest.raises(TrackerError, match="cannot change once there are packs"):
        change_setting(admin, "bloom_slots", 2)
    assert scalar(admin, "SELECT count(*) FROM tracker.bloom") == 4
