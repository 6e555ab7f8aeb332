"""Pictures that may be illegal: recorded as hidden first, then filed as a takedown request by their hashes.

docs/legal.md says what an operator does with such a request. The request has neither a URL nor the picture.
"""

from dataset.formats.takedowns import Entry
from dataset.label.labels import Labels
from dataset.label.sessions import LabelItem
from dataset.store.store import Store
from dataset.takedown.requests import file_request

REASON = "suspected illegal content"
FILED_BY = "an annotator of dataset label"
_SHA256_DIGITS = 64


def report_illegal(store: Store, labels: Labels, item: LabelItem, annotator: str) -> None:
    """Hide a picture for ever, and file a request that waits for a decision.

    Raises: StoreError when the request cannot be filed; the picture stays hidden, and `file_missing` files it later.
    """
    if item.id not in labels.reported:
        labels.report(item.id, annotator, None)
    entries = [Entry(kind="hash", value=str(item.hash))]
    if item.sha256 and len(item.sha256) == _SHA256_DIGITS:
        entries.append(Entry(kind="sha256", value=item.sha256))
    request = file_request(store, entries, REASON, by=FILED_BY, pending=True)
    labels.report(item.id, annotator, request.id)


def file_missing(store: Store, labels: Labels, items: list[LabelItem]) -> None:
    """File the requests of pictures that were hidden before their request could be filed.

    Raises: StoreError.
    """
    for item in items:
        if item.id in labels.reported and labels.reported[item.id] is None:
            report_illegal(store, labels, item, "")
