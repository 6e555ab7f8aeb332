"""Croissant's fields for responsible AI: how the data were made, their limits, and their intended use.

Source: https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dataset.formats.releases import ReleaseRecord

FIXED: Mapping[str, Any] = {
    "rai:dataCollection": (
        "Links and alt texts of web pages in Common Crawl, or links of a list, were fetched once by a crawler that "
        "says who it is."
    ),
    "rai:dataCollectionType": ["Web Scraping"],
    "rai:dataCollectionRawData": (
        "WAT files of Common Crawl, or link lists. Pictures were downloaded; they are not part of the release."
    ),
    "rai:dataCollectionMissingData": (
        "Links that could not be fetched, links that opted out, and pairs below the threshold are missing."
    ),
    "rai:dataPreprocessingProtocol": [
        "White space of texts is cleaned; their language is detected with CLD3.",
        "One pair of each URL and text is kept; URLs with credentials, tokens or signatures are dropped.",
    ],
    "rai:dataManipulationProtocol": "Published values are not changed; a removal makes a new major version.",
    "rai:dataBiases": [
        "The web over-represents some languages, countries and people, and alt texts carry its prejudices.",
        "CLIP models and tag heads err, and not equally for all groups of people, styles and languages.",
    ],
    "rai:dataLimitations": [
        "Links die and pictures change: sha256 shows whether a picture is the one that was rated.",
        "The opt-out file /.well-known/tdmrep.json is not read; response headers and page metas are.",
        "No person has reviewed the links, and punsafe does not find everything.",
    ],
    "rai:dataUseCases": [
        "Research on large-scale training with pictures and texts, and on the data themselves; not products as it is.",
    ],
    "rai:dataSocialImpact": "Models trained on it can reproduce harmful content and prejudices of the web.",
}


def responsible_ai(record: ReleaseRecord) -> Mapping[str, Any]:
    """Return the fields for a release."""
    contacts = {kind: sum(batch.contacts.get(kind, 0) for batch in record.batches) for kind in ("email", "phone")}
    requests = f" Requests for removal: {record.card.contact}" if record.card.contact else ""
    return {
        **FIXED,
        "rai:machineAnnotationTools": sorted(set(_tools(record))),
        "rai:personalSensitiveInformation": [
            "Pictures and texts may show and name people.",
            f"{contacts['email']:,} texts have an e-mail address, {contacts['phone']:,} a phone number.",
        ],
        "rai:dataReleaseMaintenancePlan": (
            f"An addition makes a new minor version, a removal a new major one; ids never change.{requests}"
        ),
    }


def _tools(record: ReleaseRecord) -> Iterator[str]:
    for one in record.inputs:
        yield from (str(model.get("model")) for model in one.models.values())
        for tags in one.tags.values():
            yield from (str(head.get("head")) for head in tags.values() if head)
