"""Kubernetes documents and the schemas that are published for them."""

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

SCHEMAS = Path(__file__).parent / "schemas"
NEWEST = kubernetes_validate.latest_version().removesuffix(".0")
# From the oldest release where a pod that is not ready can be left out of a disruption budget.
RELEASES = ["1.27", "1.30", "1.34", NEWEST]

Document = dict[str, Any]


def documents(source: str) -> dict[tuple[str, str], Document]:
    """Every document of a YAML stream by kind and name."""
    found: dict[tuple[str, str], Document] = {}
    for document in yaml.safe_load_all(source):
        key = document["kind"], document["metadata"]["name"]
        assert key not in found, f"{key} is there twice"
        found[key] = document
    return found


def problems(document: Document, release: str = NEWEST) -> list[str]:
    """What the schema of the document's kind says against it."""
    own = SCHEMAS / f"{document['kind'].lower()}.yaml"
    if not own.exists():
        try:
            kubernetes_validate.validate(document, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [error.message]
        return []
    schema = yaml.safe_load(own.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]
