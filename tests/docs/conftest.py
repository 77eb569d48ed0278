"""The site, built once."""

from __future__ import annotations

import pages
import pytest
from site_build import Site, build


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return build(pages.ROOT / "docs", tmp_path_factory.mktemp("site"))
