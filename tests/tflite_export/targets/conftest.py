"""Files for a target, of one model for all tests here."""

import pytest


@pytest.fixture(scope="session")
def export_for(sparse_convolutions, export_grid_model, tmp_path_factory):
    def export(target, **options):
        folder = tmp_path_factory.mktemp(target)
        return export_grid_model(
            *sparse_convolutions, folder, target=target, **options
        ).result

    return export


@pytest.fixture(scope="session")
def dense_path(export_for):
    return export_for("litert").path
