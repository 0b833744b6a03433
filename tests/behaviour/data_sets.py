"""The data sets of the OCI conformance suite's pull side, with its names. Source: distribution-spec, conformance/."""

from __future__ import annotations

import base64
from typing import NamedTuple

from tests.kit.content import blob
from tests.kit.layout import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Layout, descriptor, dump, image

REGISTRY = "registry.example"
EMPTY_JSON = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


class DataSet(NamedTuple):
    """One tagged manifest or index of the suite, the manifests below it, and the blobs they name."""

    name: str
    manifest: bytes
    media_type: str = OCI_MANIFEST
    below: tuple[tuple[str, bytes], ...] = ()
    blobs: tuple[bytes, ...] = ()
    algorithm: str = "sha256"

    @property
    def repository(self) -> str:
        """Where it is served."""
        return f"conformance/{self.name}"

    @property
    def manifests(self) -> tuple[tuple[str, bytes], ...]:
        """Media type and bytes of the tagged manifest and of those below it."""
        return ((self.media_type, self.manifest), *self.below)

    def write(self, layout: Layout) -> None:
        """Put it into a layout under the tag ``v1``."""
        content = [*self.blobs, *(manifest for _, manifest in self.below)]
        name = f"{REGISTRY}/{self.repository}:v1"
        layout.add_image(name, self.manifest, content, self.media_type, self.algorithm)


def _index(*manifests: tuple[str, bytes], **more: object) -> bytes:
    platforms = ("amd64", "arm64", "s390x")
    entries = [
        descriptor(media_type, content, platform={"os": "linux", "architecture": platforms[number]})
        for number, (media_type, content) in enumerate(manifests)
    ]
    return dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **more})


def _artifact() -> DataSet:
    content = b"an artifact that is no image"
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.thing",
        "config": descriptor(_EMPTY_TYPE, EMPTY_JSON),
        "layers": [descriptor("application/vnd.example.part", content)],
    }
    return DataSet("artifact", dump(document), blobs=(EMPTY_JSON, content))


def _data_field() -> DataSet:
    layer = blob(512, 11)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, EMPTY_JSON, data=base64.b64encode(EMPTY_JSON).decode()),
        "layers": [descriptor(OCI_LAYER, layer, data=base64.b64encode(layer).decode())],
    }
    return DataSet("data-field", dump(document), blobs=(EMPTY_JSON, layer))


def _custom_fields() -> DataSet:
    config = dump({"architecture": "amd64", "os": "linux", "org.example.custom": {"deep": [1, None, "x"]}})
    manifest, blobs = image([blob(700, 12)], config=config, **{"org.example.field": [True, {"a": 1}], "newKey": "v"})
    return DataSet("custom-fields", manifest, blobs=tuple(blobs))


def _nondistributable() -> DataSet:
    config, layer = dump({"architecture": "amd64", "os": "windows"}), blob(300, 13)
    foreign = descriptor(_NONDISTRIBUTABLE, blob(9, 14), urls=["https://store.example/layer"])
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": [foreign, descriptor(OCI_LAYER, layer)],
    }
    return DataSet("nondistributable", dump(document), blobs=(config, layer))


def _sha512() -> DataSet:
    config, layer = dump({"architecture": "amd64", "os": "linux"}), blob(2048, 15)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config, "sha512"),
        "layers": [descriptor(OCI_LAYER, layer, "sha512")],
    }
    return DataSet("sha512", dump(document), blobs=(config, layer), algorithm="sha512")


def make() -> list[DataSet]:
    """All of them; always the same."""
    first, first_blobs = image([blob(2048, 1), blob(100_000, 2)])
    second, second_blobs = image([blob(2048, 3)])
    both = (OCI_MANIFEST, first), (OCI_MANIFEST, second)
    inner = _index(*both)
    blobs = (*first_blobs, *second_blobs)
    annotations = {f"annotation-{number}": "a" * 10_000 for number in range(390)}
    large, large_blobs = image([blob(64, 4)], annotations=annotations)
    empty_layer, empty_blobs = image([b""])
    no_layers, config_only = image([])
    return [
        DataSet("image", first, blobs=tuple(first_blobs)),
        DataSet("index", inner, OCI_INDEX, both, blobs),
        DataSet("nested-index", _index((OCI_INDEX, inner)), OCI_INDEX, ((OCI_INDEX, inner), *both), blobs),
        DataSet("empty-index", _index(), OCI_INDEX),
        DataSet("large-manifest", large, blobs=tuple(large_blobs)),
        _artifact(),
        _data_field(),
        DataSet("no-layers", no_layers, blobs=tuple(config_only)),
        _custom_fields(),
        _nondistributable(),
        _sha512(),
        DataSet("empty-blob", empty_layer, blobs=tuple(empty_blobs)),
    ]
