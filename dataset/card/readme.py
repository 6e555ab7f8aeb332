"""README.md: the record and the statistics of a release, in the text of card.md."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from dataset.card.columns import meaning
from dataset.card.configs import Config
from dataset.card.front_matter import front_matter
from dataset.card.indexes import describe_indexes
from dataset.card.licenses import license_of
from dataset.card.plots import Plot
from dataset.formats.index_files import IndexRecord
from dataset.formats.releases import PLOTS, FileKind, ReleaseRecord
from dataset.formats.side_tables import SideTable
from dataset.stats.figures import Figures
from dataset.stats.listed import ALL
from dataset.stats.markdown import escape, table
from dataset.stats.tables import markdown

SHOWN_CRAWLS = 50


def render_readme(
    record: ReleaseRecord,
    configs: Sequence[Config],
    figures: Figures,
    plots: Sequence[Plot],
    tables: Mapping[str, SideTable],
    indexes: Sequence[IndexRecord],
) -> str:
    """Return README.md with its YAML; `tables` are the release's side tables."""
    card, license_ = record.card, license_of(record.card)
    languages = [each["language"] for each in figures[ALL]["languages"] if each["language"]]
    first = next(config for config in configs if config.kind is FileKind.DATA)
    folder = first.files[-1].path.rpartition("/")[0]
    text = Template(files("dataset.card").joinpath("card.md").read_text(encoding="utf-8")).substitute(
        title=escape(card.title or record.name),
        description=card.description,
        rows=f"{sum(record.rows.values()):,}",
        version=record.version,
        published=record.published,
        configurations=_configurations(configs),
        columns=_columns(configs),
        crawls=_crawls(record),
        models=_models(record),
        heads=_heads(record, tables),
        batches=_batches(record),
        rules=_rules(record),
        statistics=markdown(figures).strip(),
        plots="\n\n".join(f"{plot.shows}:\n\n![{plot.shows}]({PLOTS}/{plot.name})" for plot in plots),
        indexes=describe_indexes(indexes),
        license=f"[{escape(license_.name)}]({license_.url})" if license_.url else escape(license_.name),
        shoal_command=_fenced("bash", _shoal_command(record, first.folder)),
        img2dataset_command=_fenced("bash", _img2dataset_command(folder)),
        datasets_command=_fenced("python", _datasets_command(card.url, first.name)),
        removal=_removal(card.contact),
    )
    return front_matter(record, configs, languages) + "\n" + _without_gaps(text)


def _configurations(configs: Sequence[Config]) -> str:
    rows = [
        (f"`{config.name}`", f"`{config.pattern}`", str(len(config.files)), f"{config.rows:,}", _size(config.bytes))
        for config in configs
    ]
    return table(("configuration", "path", "files", "rows", "size"), rows, left=2)


def _columns(configs: Sequence[Config]) -> str:
    """Describe each column once, with the kinds of configurations that have it."""
    found: dict[str, tuple[str, str]] = {}
    for config in configs:
        for field in config.schema:
            found.setdefault(field.name, (str(field.type).replace("[pyarrow]", ""), config.folder.split("/")[0]))
    rows = [(f"`{name}`", f"`{where}/`", kind, meaning(name)) for name, (kind, where) in found.items()]
    return table(("column", "first in", "type", "meaning"), rows, left=4)


def _crawls(record: ReleaseRecord) -> str:
    rows = [
        (escape(one.run), f"{one.parts:,}", f"{one.rows:,}", f"`{one.recipe[:16] or 'unknown'}`")
        for one in record.inputs[:SHOWN_CRAWLS]
    ]
    more = len(record.inputs) - SHOWN_CRAWLS
    if more > 0:
        rows.append((f"and {more} more, in `release.json`", "", "", ""))
    return table(("crawl", "parts", "pairs kept by the filter", "recipe (sha256 begins)"), rows)


def _models(record: ReleaseRecord) -> str:
    """List the different models of all crawls, by the pairs that they rated."""
    found = _once(
        f"- {_texts(role)}: {_named(model, 'model', 'pretrained')}, threshold {model.get('threshold')}; sha256 of the "
        f"weights {_checksum(model.get('sha256'))}, of the configuration {_checksum(model.get('config_sha256'))}"
        for one in record.inputs
        for role, model in one.models.items()
    )
    return "\n".join(found) or "The parts do not name the models that rated them."


def _heads(record: ReleaseRecord, tables: Mapping[str, SideTable]) -> str:
    """List the different heads of all crawls, by tag, and those that tagged the release itself."""
    found = _once(
        f"- `{tag}`, {_texts(role)}: {_named(head, 'head')}, sha256 {_checksum(head.get('sha256'))}"
        for one in record.inputs
        for role, tags in one.tags.items()
        for tag, head in tags.items()
        if head
    )
    found += [
        f"- `{table.name}/`, column `{column}`: {escape(head.head)}, sha256 {_checksum(head.sha256)}, "
        f"[model card]({head.card}); {head.rows:,} pairs. The statistics count it in place of the column in `data/`."
        for table in tables.values()
        for column, head in table.heads.items()
    ]
    return "\n".join(found) or "No model tagged the pairs."


def _batches(record: ReleaseRecord) -> str:
    rows = []
    for batch in record.batches:
        dropped = ", ".join(f"{reason.replace('_', ' ')}: {n:,}" for reason, n in batch.dropped.items() if n)
        contacts = ", ".join(f"{kind}: {n:,}" for kind, n in batch.contacts.items() if n)
        added = f"{sum(subset.rows for subset in batch.subsets.values()):,}"
        rows.append((batch.name, batch.version, added, dropped or "–", contacts or "–"))
    return table(("batch", "version", "pairs added", "dropped", "texts with contacts"), rows, left=2)


def _rules(record: ReleaseRecord) -> str:
    options = record.options
    rules = ["One pair of each URL and text is kept, the one with the highest similarity."]
    if options.unique:
        rules.append(f"Also, one pair is kept for each {' and each '.join(options.unique)}.")
    rules.append("URLs with credentials, tokens or signatures are dropped.")
    rules.append(
        "Texts with an e-mail address or a phone number are dropped."
        if options.drop_contacts
        else "Texts with an e-mail address or a phone number are counted above, and kept."
    )
    if options.mixed:
        rules.append("The crawls differ in models, tags or columns: values that a crawl lacks are null.")
    rules += [f"`{name}` holds the pairs with `{rule}`." for name, rule in sorted(options.variants.items())]
    rules += [f"Removed since: {n:,} ({escape(reason)})." for reason, n in sorted(record.removed.items()) if n]
    return "\n".join(f"- {rule}" for rule in rules)


def _shoal_command(record: ReleaseRecord, folder: str) -> str:
    return (
        f"tracker seed {folder} --run {record.name}-pictures \\\n"
        "    --url-col URL --caption-col TEXT --sha256-col sha256 --extra-cols id,similarity,punsafe,pwatermark \\\n"
        "    --keep-duplicates\n"
        "worker ingest &\n"
        "worker download"
    )


def _img2dataset_command(folder: str) -> str:
    return (
        f"img2dataset --url_list {folder} --input_format parquet --url_col URL --caption_col TEXT \\\n"
        '    --verify_hash \'["sha256","sha256"]\' \\\n'
        '    --save_additional_columns \'["id","similarity","hash","punsafe","pwatermark"]\' \\\n'
        "    --output_format webdataset --output_folder pictures --processes_count 16 --thread_count 64 \\\n"
        "    --image_size 256 --resize_only_if_bigger True --resize_mode keep_ratio --skip_reencode True"
    )


def _datasets_command(url: str, config: str) -> str:
    hub = "https://huggingface.co/datasets/"
    place = url.removeprefix(hub).strip("/") if url.startswith(hub) else "."
    return (
        "from datasets import load_dataset\n\n"
        f'pairs = load_dataset("{place}", "{config}", split="train", streaming=True)\n'
        "print(next(iter(pairs)))"
    )


def _removal(contact: str) -> str:
    if not contact:
        return (
            "This release names no address for requests: ask those from whom you have it. Name the URL, the `id` or "
            "the sha256 of the picture."
        )
    return (
        f"Write to {contact}. Name the URL, the `id` or the sha256 of the picture; a reason is not needed. "
        "What is removed stays away from later versions, too."
    )


def _texts(role: str) -> str:
    return "English texts" if role == "en" else "other texts"


def _once(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def _named(model: Mapping[str, Any], *keys: str) -> str:
    return escape(" ".join(str(model[key]) for key in keys if model.get(key)))


def _checksum(value: Any) -> str:
    return f"`{value}`" if value else "unknown"


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _without_gaps(text: str) -> str:
    """Remove the gaps that empty sections leave."""
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text
