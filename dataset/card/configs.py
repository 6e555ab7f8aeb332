"""The configurations of a release: sets of files with the same columns, as the Hub and Croissant name them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from dataset.formats.releases import SUBSETS, FileKind, ReleaseFile, ReleaseRecord, data_schema, extended_schema


@dataclass(frozen=True, slots=True)
class Config:
    """The files of a kind and subset (and of one variant), in the order of their ids."""

    name: str
    """`en`, `research-safe-en`, `extended-en`."""
    folder: str
    subset: str
    kind: FileKind
    files: tuple[ReleaseFile, ...]
    schema: pa.Schema

    @property
    def pattern(self) -> str:
        """The files' paths in the release, as a glob."""
        return f"{self.folder}/*/*.parquet"

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)


def configs_of(record: ReleaseRecord) -> Iterator[Config]:
    """Yield the configurations that have files: data, variants and extended, each by subset."""
    sets: list[tuple[FileKind, str, str]] = [(FileKind.DATA, "", "")]
    sets += [(FileKind.VARIANT, variant, f"{variant}-") for variant in sorted(record.options.variants)]
    sets.append((FileKind.EXTENDED, "", "extended-"))
    for kind, variant, prefix in sets:
        for subset in SUBSETS:
            files = tuple(
                file
                for file in record.files
                if file.kind is kind and file.subset == subset and (file.variant or "") == variant
            )
            if files:
                folder = "/".join(part for part in (kind.value, variant, subset) if part)
                schema = (
                    extended_schema(record.columns)
                    if kind is FileKind.EXTENDED
                    else data_schema(subset, aesthetic=record.aesthetic)
                )
                yield Config(f"{prefix}{subset}", folder, subset, kind, files, schema)
