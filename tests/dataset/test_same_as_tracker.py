"""Definitions that dataset and tracker both have, because neither imports the other, are the same in both."""

import pytest

from dataset.formats import deny_lists, embeddings, side_tables
from dataset.formats.release_embeddings import model_folder_name
from dataset.formats.webdataset import TAR_ENDINGS
from dataset.recipe import recipe
from dataset.safety import hash_lists
from dataset.tagging import options as tag_options
from dataset.tags import heads
from tracker.accounts import audit
from tracker.seeding import embed_jobs, tag_jobs
from tracker.seeding.embed_jobs import Model
from tracker.storage import deny_lists as tracker_deny_lists
from tracker.storage import hash_lists as tracker_hash_lists


def test_both_read_the_same_tar_endings() -> None:
    assert embed_jobs.TARS == TAR_ENDINGS


def test_both_name_models_of_the_hub_alike() -> None:
    assert embed_jobs.HUB_PREFIX == recipe.HUB_PREFIX


@pytest.mark.parametrize(
    "model", ["ViT-L-14", "ViT-B-32-quickgelu", "hf-hub:laion/CLIP-ViT-B-32", "hf-hub:_a/b_", "hf-hub:a//b ç.", "x_"]
)
def test_both_name_a_models_folder_alike(model: str) -> None:
    pretrained = None if model.startswith(recipe.HUB_PREFIX) else "tag"
    assert Model.checked(model, pretrained, None).name == model_folder_name(model)


def test_hash_lists_have_the_same_head_in_both() -> None:
    assert (tracker_hash_lists.MAGIC, tracker_hash_lists.HEAD_BYTES) == (hash_lists.MAGIC, hash_lists.HEAD_BYTES)
    assert tracker_hash_lists.KINDS == hash_lists.KINDS


def test_deny_lists_lie_in_one_place_and_have_one_set_of_kinds_in_both() -> None:
    assert tracker_deny_lists.FOLDER == deny_lists.FOLDER
    assert set(deny_lists.DenyKind) == tracker_deny_lists.KINDS


def test_rows_that_takedowns_have_removed_are_noted_where_the_audit_looks() -> None:
    assert embeddings.REMOVED_KEY.encode() == audit.REMOVED_KEY


def test_heads_are_read_and_divided_into_units_alike() -> None:
    assert (tag_jobs.UNIT_ROWS, tag_jobs.UNIT_PICTURES) == (tag_options.UNIT_ROWS, tag_options.UNIT_PICTURES)
    assert tag_jobs.METADATA_KEY == heads.METADATA_KEY
    assert {tag_jobs.EMBEDDING, tag_jobs.PICTURE} == {*heads.Kind}
    assert tag_jobs.TABLE == side_tables.TAGS
