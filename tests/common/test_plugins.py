"""What installed packages announce is found wherever Python finds packages, and cheaply where there is nothing."""

import sys
import zipfile
from importlib import metadata

import pytest

from fairseq_signals_ext.common.plugins import from_others

GROUP = "fairseq_signals_ext.only_here"
ABOUT = "Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n"
POINTS = f"[{GROUP}]\npi = math:pi\n"


def leave(folder, about):
    (folder / about).mkdir(parents=True)
    (folder / about / ("METADATA" if about.endswith("dist-info") else "PKG-INFO")).write_text(ABOUT)
    (folder / about / "entry_points.txt").write_text(POINTS)


@pytest.mark.parametrize("about", ["some_package-1.0.dist-info", "some_package.egg-info"])
def test_found_in_any_folder_of_packages(tmp_path, monkeypatch, about):
    leave(tmp_path, about)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "absent"), str(tmp_path)])
    assert [package for package, _ in from_others(GROUP, float)] == ["some-package"]


def test_found_in_an_egg(tmp_path, monkeypatch):
    leave(tmp_path / "some_package-1.0.egg", "EGG-INFO")
    monkeypatch.syspath_prepend(str(tmp_path / "some_package-1.0.egg"))
    assert [package for package, _ in from_others(GROUP, float)] == ["some-package"]


def test_found_in_a_zip_file(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "packages.zip", "w") as packed:
        packed.writestr("some_package-1.0.dist-info/METADATA", ABOUT)
        packed.writestr("some_package-1.0.dist-info/entry_points.txt", POINTS)
    monkeypatch.syspath_prepend(str(tmp_path / "packages.zip"))
    assert [package for package, _ in from_others(GROUP, float)] == ["some-package"]


def test_found_by_a_finder_of_its_own(tmp_path, monkeypatch):
    class Finder(metadata.DistributionFinder):
        def find_spec(self, *arguments):
            return None

        def find_distributions(self, context=None):
            yield metadata.Distribution.at(tmp_path / "some_package-1.0.dist-info")

    leave(tmp_path, "some_package-1.0.dist-info")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert [package for package, _ in from_others(GROUP, float)] == ["some-package"]


def test_packages_are_not_looked_through_where_none_announces_anything(monkeypatch):
    def look_through():
        raise AssertionError("slow")

    monkeypatch.setattr(metadata, "distributions", look_through)
    assert from_others(GROUP, float) == []
