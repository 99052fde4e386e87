"""Manifests on disk: written while they are as they were read; and which folders may become exports."""

from pathlib import Path

import pytest

from finer_ray.errors import ExportError, LeaseError
from finer_ray.store.export import open_export
from finer_ray.store.files import Folder
from finer_ray.store.manifest import EXPORT, PLAN, ManifestFile, check_vacant, pending


def test_of_two_runs_that_read_the_same_one_writes(demo_like: Path, tmp_path: Path) -> None:
    made = open_export(str(demo_like / "demo_export")).manifest
    folder = Folder(str(tmp_path))
    first, second = ManifestFile(folder, PLAN), ManifestFile(folder, PLAN)
    assert first.manifest is None
    first.write(made)
    with pytest.raises(LeaseError, match=r"another run has written .*plan\.json"):
        second.write(made.model_copy(update={"revision": 7}))
    # What it has read, it may write; and what it has written itself.
    second = ManifestFile(folder, PLAN)
    second.write(made.model_copy(update={"revision": 7}))
    second.write(made.model_copy(update={"revision": 8}))
    with pytest.raises(LeaseError):
        first.remove()
    second.remove()
    assert folder.read(PLAN) is None


def test_a_plan_of_another_state_is_left_over(demo_like: Path) -> None:
    made = open_export(str(demo_like / "demo_export")).manifest
    assert made.revision == 0
    plan = {base: made.model_copy(update={"base": base}) for base in (-1, 0, 1)}
    assert pending(None, made) is None
    assert pending(plan[-1], None) is plan[-1]
    assert pending(plan[-1], made) is None
    assert pending(plan[0], made) is plan[0]
    assert pending(plan[1], made) is None
    # An earlier version's plan says nothing of it, and is believed.
    assert pending(made, made) is made


def test_a_folder_becomes_an_export_if_it_is_empty_or_one(demo_like: Path, tmp_path: Path) -> None:
    check_vacant(Folder(str(demo_like / "demo_export")))
    check_vacant(Folder(str(tmp_path / "none")))
    folder = Folder(str(tmp_path))
    check_vacant(folder)
    # What a run leaves that was killed right after it began; and what people's tools leave.
    for name in ("lease/00000001.json", "lease/lock", "lease/00000002.json.0a1b2c3d.tmp", ".DS_Store"):
        folder.write(name, b"")
    check_vacant(folder)
    folder.write("lease/contract.pdf", b"")
    with pytest.raises(ExportError, match=r"holds other files \(lease/contract\.pdf\)"):
        check_vacant(folder)
    for number in range(9):
        folder.write(f"photo{number}.jpg", b"")
    with pytest.raises(ExportError, match=r"photo0\.jpg, .*, \.\.\.\).*choose an empty or new folder"):
        check_vacant(folder)
    folder.write(EXPORT, b"{}")
    with pytest.raises(ExportError, match=r"export\.json is no manifest of finer_ray"):
        check_vacant(folder)
