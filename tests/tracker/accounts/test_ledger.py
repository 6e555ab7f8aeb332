"""Folding never changes a sum, and the law of conservation shows how many links are missing."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.tracker.filling import fill_pool, new_run, scalar
from tracker.accounts.ledger import PLACES, Account, accounts, fold, total
from tracker.database.database import Connection

counts = st.integers(min_value=0, max_value=10**10)


@given(st.lists(st.tuples(counts, counts, counts, st.dictionaries(st.sampled_from(["gone", "success"]), counts))))
def test_the_law_holds_exactly_when_every_link_is_in_one_place(
    rows: list[tuple[int, int, int, dict[str, int]]],
) -> None:
    of = {
        (str(i), "en"): Account(pool + again + leased + sum(ends.values()), pool, again, leased, ends)
        for i, (pool, again, leased, ends) in enumerate(rows)
    }
    assert all(account.missing == 0 for account in of.values())
    whole = total(of)
    assert whole.missing == 0
    whole.came_in += 3
    assert whole.missing == 3


def sums(admin: Connection) -> Counter[tuple[object, ...]]:
    found: Counter[tuple[object, ...]] = Counter()
    for row in admin.execute("SELECT run_id, account::text, label, subset::text, leaf, n FROM tracker.tally"):
        found[row["run_id"], row["account"], row["label"], row["subset"], row["leaf"]] += row["n"]
    return found


def test_folding_twice_changes_no_sum_and_empties_the_ledger(admin: Connection) -> None:
    run_id = new_run(admin)
    for n in (10, 20):
        fill_pool(admin, run_id, n)
    before = sums(admin)
    assert fold(admin) == 4
    fill_pool(admin, run_id, 5)
    assert fold(admin) == 2
    assert fold(admin) == 0
    assert scalar(admin, "SELECT count(*) FROM tracker.ledger") == 0
    after = sums(admin)
    assert {key: n - before[key] for key, n in after.items()} == dict.fromkeys(after, 5)
    (of,) = accounts(admin).values()
    assert (of.came_in, [getattr(of, place) for place in PLACES]) == (35, [35, 0, 0])
