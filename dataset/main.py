"""The command `dataset`. This module only wires up the subcommands; each group has its module in dataset/commands/.

Data goes to stdout, messages go to stderr. Exit code 0, 1 (failed) or 2 (usage).
"""

import io
import os
import sys

import typer

from dataset.command_help import PlainGroup, Version
from dataset.commands.dedup import dedup_app
from dataset.commands.embed import embed_command
from dataset.commands.embeddings import embeddings_command
from dataset.commands.heads import heads_app, safety_app
from dataset.commands.index import index_app
from dataset.commands.label_task import label_task_command
from dataset.commands.match import match_command
from dataset.commands.models import models_app
from dataset.commands.options import messages
from dataset.commands.publish import publish_command
from dataset.commands.recipe import recipe_command
from dataset.commands.report import report_command
from dataset.commands.reshard import reshard_command
from dataset.commands.search import search_command
from dataset.commands.select import select_command
from dataset.commands.serve import serve_command
from dataset.commands.side_tables import captions_app, similarity_command, tags_app
from dataset.commands.stats import stats_command
from dataset.commands.tag import tag_command
from dataset.commands.tags_report import tags_report_command
from dataset.commands.takedown import takedown_app
from dataset.commands.trace import trace_command
from dataset.commands.train_classifier import train_classifier_command
from dataset.commands.training import calibrate_command, train_head_command
from dataset.errors import DatasetError

RUNS, RELEASES, MODELS = "Runs", "Releases", "Models and tags"
"""The groups of `dataset --help`, in the order of their first command."""

app = typer.Typer(cls=PlainGroup, no_args_is_help=True, pretty_exceptions_enable=False)

app.command("recipe", rich_help_panel=RUNS)(recipe_command)
app.command("report", rich_help_panel=RUNS)(report_command)

app.command("publish", rich_help_panel=RELEASES)(publish_command)
app.command("stats", rich_help_panel=RELEASES)(stats_command)
app.command("select", rich_help_panel=RELEASES)(select_command)
app.command("reshard", rich_help_panel=RELEASES)(reshard_command)
app.command("embeddings", rich_help_panel=RELEASES)(embeddings_command)
app.add_typer(dedup_app, name="dedup", rich_help_panel=RELEASES)
app.command("match", rich_help_panel=RELEASES)(match_command)
app.add_typer(index_app, name="index", rich_help_panel=RELEASES)
app.command("search", rich_help_panel=RELEASES)(search_command)
app.command("serve", rich_help_panel=RELEASES)(serve_command)
app.command("trace", rich_help_panel=RELEASES)(trace_command)
app.add_typer(takedown_app, name="takedown", rich_help_panel=RELEASES)
app.command("similarity", rich_help_panel=RELEASES)(similarity_command)
app.command("tag", rich_help_panel=RELEASES)(tag_command)
tags_app.command("report")(tags_report_command)
app.add_typer(tags_app, name="tags", rich_help_panel=RELEASES)
app.add_typer(captions_app, name="captions", rich_help_panel=RELEASES)

app.command("label", rich_help_panel=MODELS)(label_task_command)
app.command("embed", rich_help_panel=MODELS)(embed_command)
app.command("calibrate", rich_help_panel=MODELS)(calibrate_command)
app.command("train-head", rich_help_panel=MODELS)(train_head_command)
app.command("train-classifier", rich_help_panel=MODELS)(train_classifier_command)
app.add_typer(models_app, name="models", rich_help_panel=MODELS)
app.add_typer(heads_app, name="heads", rich_help_panel=MODELS)
app.add_typer(safety_app, name="safety", rich_help_panel=MODELS)


@app.callback()
def dataset(version: Version = False) -> None:
    """Recipes, models, reports and releases of image-text datasets."""
    del version  # printed by its callback


def main() -> None:
    """Run the command; an error is one sentence on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # print ? for a character that the terminal cannot show
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except DatasetError as error:
        # A terminal would break the line within a word; in a file it stays one line.
        whole = not messages.is_terminal
        messages.print(str(error), style="red", markup=False, highlight=False, soft_wrap=whole)
        sys.exit(1)


if __name__ == "__main__":
    main()
