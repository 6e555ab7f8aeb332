"""croissant.json: a release for programs, in Croissant 1.1 with the fields for responsible AI.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html.
Paths are relative to the file, so the file is also valid for a copy of the release at another place.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from dataset import strict_json
from dataset.card.columns import meaning
from dataset.card.configs import Config
from dataset.card.front_matter import hub_languages
from dataset.card.licenses import license_of
from dataset.card.responsible_ai import responsible_ai
from dataset.formats.releases import FileKind, ReleaseRecord
from dataset.stats.figures import Figures
from dataset.stats.listed import ALL

PARQUET = "application/x-parquet"
"""The type that the Hub writes and mlcroissant reads; mlcroissant refuses the registered
application/vnd.apache.parquet.
"""
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
TYPES = {
    "bool": "sc:Boolean", "int8": "cr:Int8", "int16": "cr:Int16", "int32": "cr:Int32", "int64": "cr:Int64",
    "uint8": "cr:UInt8", "uint16": "cr:UInt16", "uint32": "cr:UInt32", "uint64": "cr:UInt64",
    "float": "cr:Float32", "double": "cr:Float64",
}  # fmt: skip
"""Other types are sc:DateTime, or sc:Text."""


def render_croissant(record: ReleaseRecord, configs: Sequence[Config], figures: Figures) -> bytes:
    """Return croissant.json; equal records give equal bytes."""
    card, license_ = record.card, license_of(record.card)
    languages = [each["language"] for each in figures[ALL]["languages"] if each["language"]]
    description = card.description or f"{sum(record.rows.values()):,} URLs of pictures with their texts, rated by CLIP."
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": record.name,
        "alternateName": card.title or record.name,
        "description": description,
        "version": record.version,
        "datePublished": record.published,
        "license": license_.url or license_.name,
        "citeAs": ", ".join(
            part for part in (card.creator, card.title or record.name, f"version {record.version}") if part
        ),
        "isLiveDataset": False,
        "inLanguage": hub_languages(languages),
        "keywords": ["image-text pairs", "Common Crawl", "CLIP"],
        **({"url": card.url} if card.url else {}),
        **({"creator": {"@type": "sc:Organization", "name": card.creator}} if card.creator else {}),
        "prov:wasDerivedFrom": [one.run for one in record.inputs],
        **responsible_ai(record),
        "distribution": [*_objects(record), *map(_file_set, configs)],
        "recordSet": [_record_set(config) for config in configs],
    }
    return (strict_json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _objects(record: ReleaseRecord) -> Iterator[Mapping[str, Any]]:
    """Yield each public table as a FileObject, so that programs know its sha256."""
    for file in record.files:
        if file.kind in (FileKind.DATA, FileKind.VARIANT, FileKind.EXTENDED):
            yield {
                "@type": "cr:FileObject",
                "@id": file.path,
                "name": file.path,
                "contentUrl": file.path,
                "contentSize": f"{file.bytes} B",
                "encodingFormat": PARQUET,
                "sha256": file.sha256,
            }


def _file_set(config: Config) -> Mapping[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{config.name}-files",
        "name": f"{config.name}-files",
        "description": f"The files of the configuration {config.name}.",
        "encodingFormat": PARQUET,
        "includes": config.pattern,
    }


def _record_set(config: Config) -> Mapping[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": config.name,
        "name": config.name,
        "description": f"{config.rows:,} rows.",
        "key": {"@id": f"{config.name}/id"},
        "field": [_field(config, field) for field in config.schema],
    }


def _field(config: Config, field: pa.Field) -> Mapping[str, Any]:
    is_list = pa.types.is_list(field.type)
    kind = field.type.value_type if is_list else field.type
    data_type = "sc:URL" if field.name == "URL" else TYPES.get(str(kind), "sc:Text")
    return {
        "@type": "cr:Field",
        "@id": f"{config.name}/{field.name}",
        "name": field.name,
        "description": meaning(field.name),
        "dataType": "sc:DateTime" if pa.types.is_timestamp(kind) else data_type,
        **({"isArray": True, "arrayShape": "-1"} if is_list else {}),
        "source": {"fileSet": {"@id": f"{config.name}-files"}, "extract": {"column": field.name}},
    }
