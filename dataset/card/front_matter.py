"""The YAML at the head of README.md, by which the Hugging Face Hub finds, filters, loads and gates a dataset.

Source: https://huggingface.co/docs/hub/datasets-cards and the specification of `DatasetCardData`. Texts are written as
JSON strings, which are valid YAML, so no text of a publisher can become a key.
"""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from dataset import strict_json
from dataset.card.configs import Config
from dataset.card.licenses import license_of
from dataset.formats.releases import ReleaseRecord

SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip
RELICS = {"iw": "he", "jw": "jv", "in": "id", "ji": "yi"}
"""Withdrawn ISO 639 codes, which CLD3 returns and the Hub refuses, with the present ones."""
TASKS = ("text-to-image", "image-to-text", "zero-shot-image-classification")
TAGS = ("image-text-pairs", "common-crawl", "clip", "image-urls")


def front_matter(record: ReleaseRecord, configs: Sequence[Config], languages: Iterable[str]) -> str:
    """Return the YAML between its two lines of dashes; `languages` are CLD3's codes."""
    return "\n".join(["---", *_lines(record, configs, languages), "---", ""])


def _lines(record: ReleaseRecord, configs: Sequence[Config], languages: Iterable[str]) -> Iterator[str]:
    card, license_ = record.card, license_of(record.card)
    yield f"pretty_name: {_text(card.title or record.name)}"
    yield f"license: {license_.identifier or 'other'}"
    if license_.identifier is None:
        yield f"license_name: {_text(license_.name)}"
        if license_.url:
            yield f"license_link: {_text(license_.url)}"
    yield from _list("language", map(_text, hub_languages(languages)))
    yield from _list("size_categories", [_text(size_category(sum(record.rows.values())))])
    yield from _list("task_categories", TASKS)
    yield from _list("annotations_creators", ["machine-generated"])
    yield from _list("language_creators", ["found"])
    yield from _list("source_datasets", ["original"])
    yield from _list("tags", TAGS)
    yield "configs:"
    for at, config in enumerate(configs):
        yield f"- config_name: {_text(config.name)}"
        yield "  data_files:"
        yield "  - split: train"
        yield f"    path: {_text(config.pattern)}"
        if at == 0:
            yield "  default: true"
    yield "dataset_info:"
    for config in configs:
        yield f"- config_name: {_text(config.name)}"
        yield "  features:"
        for field in config.schema:
            yield from _feature(field)
        yield "  splits:"
        yield "  - name: train"
        # `datasets` ignores an entry without num_bytes. The number of bytes in memory is unknown, so the smaller size
        # of the files is given.
        yield f"    num_bytes: {config.bytes}"
        yield f"    num_examples: {config.rows}"
        yield f"  download_size: {config.bytes}"
        yield f"  dataset_size: {config.bytes}"
    if card.gate:
        yield f"extra_gated_prompt: {_text(card.gate)}"
        yield "extra_gated_fields:"
        yield "  Affiliation: text"
        yield "  Intended use: text"
        yield "  I agree to the conditions above: checkbox"


def hub_languages(languages: Iterable[str]) -> list[str]:
    """Return the ISO 639 codes that the Hub accepts for CLD3's codes, some of which are withdrawn or have a script (iw,
    ru-Latn).
    """
    bare = {language.partition("-")[0].lower() for language in languages}
    return sorted({RELICS.get(code, code) for code in bare if code and code != "und"})


def size_category(rows: int) -> str:
    """Return the Hub's name for a number of rows."""
    return next((name for limit, name in SIZES if rows < limit), "n>1T")


def _list(name: str, values: Iterable[str]) -> Iterator[str]:
    lines = [f"- {value}" for value in values]
    if lines:
        yield f"{name}:"
        yield from lines


def _feature(field: pa.Field) -> Iterator[str]:
    is_list = pa.types.is_list(field.type)
    yield f"  - name: {_text(field.name)}"
    yield f"    {'list' if is_list else 'dtype'}: {_text(_type(field.type.value_type if is_list else field.type))}"


def _type(kind: pa.DataType) -> str:
    """Return the name that the library `datasets` has for a type."""
    if pa.types.is_fixed_size_binary(kind):
        return "binary"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _text(value: str) -> str:
    """Write a text as a JSON string that is also valid YAML, which has no DEL and no C1 control characters."""
    written = strict_json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in written)
