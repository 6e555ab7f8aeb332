"""Write the card of a release: README.md, its plots, and croissant.json."""

import hashlib
from collections.abc import Mapping

from dataset.card.configs import configs_of
from dataset.card.croissant import render_croissant
from dataset.card.indexes import read_indexes
from dataset.card.plots import draw_plots
from dataset.card.readme import render_readme
from dataset.formats.releases import CROISSANT, PLOTS, README, Release
from dataset.formats.side_tables import read_side_tables
from dataset.stats.domains import most_frequent_domains
from dataset.stats.duplicates import read_duplicates
from dataset.stats.figures import all_figures
from dataset.stats.gather import gather
from dataset.stats.units import units_of_release


def write_card(release: Release) -> Mapping[str, str]:
    """Write the card, and return the sha256 of each of its files by its path in the release.

    Raises: StatsError when a data file cannot be counted; StoreError when the store cannot be written.
    """
    digests = {}
    for path, data in render_card(release).items():
        release.store.put(release.path(path), data)
        digests[path] = hashlib.sha256(data).hexdigest()
    return digests


def render_card(release: Release) -> Mapping[str, bytes]:
    """Return the card's files by their paths in the release.

    Raises: StatsError when a data file cannot be counted; SearchIndexError when an index is damaged.
    """
    gathered = gather(release.store, units_of_release(release))
    tables = read_side_tables(release)
    figures = all_figures(gathered, domains=most_frequent_domains(release), duplicates=read_duplicates(release))
    configs, plots = list(configs_of(release.record)), list(draw_plots(figures))
    return {
        **{f"{PLOTS}/{plot.name}": plot.svg for plot in plots},
        README: render_readme(release.record, configs, figures, plots, tables, read_indexes(release)).encode(),
        CROISSANT: render_croissant(release.record, configs, figures),
    }
