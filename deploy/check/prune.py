#!/usr/bin/env python3
"""Makes schemas/KIND.json of published CustomResourceDefinitions: names, types, enums and what is required.

Usage: prune.py CRD.yaml...   (files may hold other documents as well)

Sources of what is there now, all Apache-2.0: agones-dev/agones install/yaml/install.yaml (676cc64, 1.61.0-dev);
kedacore/keda config/crd/bases/keda.sh_{scaledobjects,triggerauthentications}.yaml (8b4f083);
GoogleCloudPlatform/prometheus-engine charts/operator/crds/monitoring.googleapis.com_{podmonitorings,rules}.yaml;
kubernetes-sigs/gateway-api config/crd/standard/gateway.networking.k8s.io_{gateways,httproutes}.yaml (v1.4.0);
GoogleCloudPlatform/gke-gateway-api config/crd/networking.gke.io_{gcpbackendpolicies,healthcheckpolicies}.yaml (fc40d60).

schemas/GCPHTTPFilter.json is written by hand after Google's documentation: that definition is in no public repository.
"""
import json
import pathlib
import sys

import yaml

WANTED = {
    "Fleet", "FleetAutoscaler", "ScaledObject", "TriggerAuthentication", "PodMonitoring", "Rules",
    "Gateway", "HTTPRoute", "GCPBackendPolicy", "HealthCheckPolicy",
}
KEPT = {"type", "enum", "required", "minimum", "maximum", "pattern"}
# A pod inside a custom resource is checked as a pod.
FREE = {"PodTemplateSpec", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"}


def prune(schema, path=()):
    if path[-2:] == ("template", "template"):
        return {"type": "object"}
    out = {key: value for key, value in schema.items() if key in KEPT}
    free = any(schema.get(key) for key in FREE)
    if "properties" in schema:
        out["properties"] = {
            name: prune(sub, path + ((name,) if name in ("template",) else ())) for name, sub in schema["properties"].items()
        }
        # What the schema does not know the API server drops without a word.
        out["additionalProperties"] = free
    elif isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = prune(schema["additionalProperties"], path)
    if "items" in schema:
        out["items"] = prune(schema["items"], path)
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
    return out


def main():
    folder = pathlib.Path(__file__).with_name("schemas")
    for name in sys.argv[1:]:
        for document in yaml.load_all(pathlib.Path(name).read_text(), Loader=yaml.CSafeLoader):
            if not document or document.get("kind") != "CustomResourceDefinition":
                continue
            kind = document["spec"]["names"]["kind"]
            if kind not in WANTED:
                continue
            version = next(version for version in document["spec"]["versions"] if version["storage"])
            schema = prune(version["schema"]["openAPIV3Schema"])
            for common in ("apiVersion", "kind", "metadata"):
                schema.setdefault("properties", {})[common] = {"type": "object" if common == "metadata" else "string"}
            schema["additionalProperties"] = False
            api = f"{document['spec']['group']}/{version['name']}"
            schema["properties"]["apiVersion"] = {"type": "string", "enum": [api]}
            (folder / f"{kind}.json").write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
