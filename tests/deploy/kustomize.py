"""What `kubectl apply -k` would send, without kustomize: as much of it as deploy/kubernetes uses."""

from pathlib import Path
from typing import Any

import yaml

Objects = list[dict[str, Any]]


def build(folder: Path) -> Objects:
    """The objects of a kustomization: its resources, and JSON 6902 patches on those that a target names."""
    return _build(folder, [], {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"})


def with_component(folder: Path, objects: Objects) -> Objects:
    """What a component adds to the objects of whoever names it, which its patches change, too."""
    return _build(folder, objects, {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"})


def _build(folder: Path, objects: Objects, header: dict[str, str]) -> Objects:
    written = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(written) <= {"apiVersion", "kind", "resources", "patches"}
    assert header.items() <= written.items()
    for name in written["resources"]:
        place = folder / name
        objects += build(place) if place.is_dir() else list(yaml.safe_load_all(place.read_text()))
    for patch in written.get("patches", []):
        targets = [each for each in objects if fits(each, patch["target"])]
        assert targets, f"{folder.name}: no object is {patch['target']}"
        for target in targets:
            for step in yaml.safe_load((folder / patch["path"]).read_text()):
                apply(target, step)
    keys = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(keys) == len(set(keys)), f"{folder.name}: an object is there twice"
    return objects


def fits(item: dict[str, Any], target: dict[str, str]) -> bool:
    group, _, version = item["apiVersion"].rpartition("/")
    known = {"group": group, "version": version, "kind": item["kind"], "name": item["metadata"]["name"]}
    return all(known[key] == value for key, value in target.items())


def apply(document: Any, step: dict[str, Any]) -> None:
    """One step of JSON 6902; what it goes through has to be there, as the standard asks."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    for part in parents:
        document = document[int(part) if isinstance(document, list) else part]
    if isinstance(document, list) and last == "-":
        assert step["op"] == "add"
        document.append(step["value"])
        return
    key = int(last) if isinstance(document, list) else last
    if step["op"] == "add" and isinstance(document, list):
        document.insert(key, step["value"])
    elif step["op"] == "add":
        document[key] = step["value"]
    elif step["op"] == "replace":
        assert document[key] is not None
        document[key] = step["value"]
    elif step["op"] == "remove":
        del document[key]
    else:
        assert step["op"] == "test"
        assert document[key] == step["value"], step
