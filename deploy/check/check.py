#!/usr/bin/env python3
"""Builds the base and every overlay, each overlay with every component as well, and judges them: Kubernetes' own schemas in strict mode, the custom resources'
published schemas (schemas/, made by prune.py), and the guards without which a platform cuts its own streams.

Usage: check.py [KUBERNETES_VERSION]   needs `kubectl` or `kustomize`, and requirements.txt
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import yaml

HERE = pathlib.Path(__file__).parent
DEPLOY = HERE.parent
complaints = []


def complain(where, what):
    complaints.append(f"{where}: {what}")


def build_with(overlay, component):
    """The overlay with a component, as an operator's own kustomization would name them."""
    with tempfile.TemporaryDirectory() as folder:
        # kustomize takes relative paths only.
        relative = {path: os.path.relpath(path, os.path.realpath(folder)) for path in (overlay, component)}
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [relative[overlay]],
            "components": [relative[component]],
        }
        (pathlib.Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return build(pathlib.Path(folder))


def build(folder):
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{folder}: {done.stderr}")
            if done.stderr:
                complain(folder.name, done.stderr.strip())
            return [document for document in yaml.safe_load_all(done.stdout) if document]
    sys.exit("check: neither kustomize nor kubectl is installed")


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


# --- schemas ----------------------------------------------------------------------------------------------------------


def validate(overlay, documents, version):
    """Core resources by kubernetes-validate, custom ones by their pruned schemas, pods within those as pods."""
    core = []
    for document in documents:
        schema = HERE / "schemas" / f"{document['kind']}.json"
        if schema.exists():
            validator = jsonschema.Draft202012Validator(json.loads(schema.read_text()))
            for error in validator.iter_errors(document):
                path = ".".join(str(part) for part in error.absolute_path)
                complain(f"{overlay} {name_of(document)}", f"{path}: {error.message}")
        elif "." in document["apiVersion"].split("/")[0] and not document["apiVersion"].split("/")[0].endswith(".k8s.io"):
            complain(f"{overlay} {name_of(document)}", "no schema to check it by")
        else:
            core.append(document)
        if document["kind"] == "Fleet":
            pod = document["spec"]["template"]["spec"]["template"]
            core.append({"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "name": "fleet"}})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(core, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version, file.name], capture_output=True, text=True
        )
    if done.returncode:
        complain(overlay, (done.stdout + done.stderr).strip())


# --- guards -----------------------------------------------------------------------------------------------------------


def workloads(documents):
    """(name, pod metadata, pod spec, container) of everything that runs."""
    for document in documents:
        if document["kind"] == "Deployment":
            template = document["spec"]["template"]
        elif document["kind"] == "Fleet":
            template = document["spec"]["template"]["spec"]["template"]
        else:
            continue
        yield document, template["metadata"], template["spec"], template["spec"]["containers"][0]


def variable(container, name, default=None):
    return next((entry["value"] for entry in container.get("env", []) if entry["name"] == name), default)


def settings(documents, container):
    """The environment of a container: config maps, then its own variables."""
    maps = {d["metadata"]["name"]: d.get("data", {}) for d in documents if d["kind"] == "ConfigMap"}
    variables = {}
    for source in container.get("envFrom", []):
        variables |= maps[source["configMapRef"]["name"]]
    return variables | {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def secrets_at(spec, container):
    """The Secrets that are mounted, by folder: those without which the pod does not start."""
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounted = {}
    for mount in container.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        sources = [source["secret"] for source in volume.get("projected", {}).get("sources", []) if "secret" in source]
        names = [source["name"] for source in sources if not source.get("optional")]
        if "secret" in volume and not volume["secret"].get("optional"):
            names.append(volume["secret"]["secretName"])
        mounted[mount["mountPath"]] = names
    return mounted


# A publisher without any of these is somebody from the internet; an encoder without any listens for itself alone.
IDENTITIES = ("ENCODER_PUBLISH_KEYS", "ENCODER_PUBLISH_JWKS", "ENCODER_PUBLISH_HOOK")


def guard_listeners(documents, spec, container, want, where):
    """Publishers are known and reach the pod, and so do probes."""
    chosen = settings(documents, container)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    want(any(chosen.get(name) for name in IDENTITIES), where, "no source says who may publish: it listens on loopback only")
    want("ENCODER_PUBLISH_ANYONE" not in chosen, where, "anybody may publish")
    host, _, port = chosen.get("ENCODER_ADMIN_LISTEN", "127.0.0.1:9090").rpartition(":")
    want(host in ("0.0.0.0", "[::]") and int(port) == ports["admin"], where, "probes do not reach its admin port")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe in container:
            want(container[probe]["httpGet"]["port"] == "admin", where, f"its {probe} asks another port")
    mounted = secrets_at(spec, container)
    for name, path in chosen.items():
        if name in (*IDENTITIES, "ENCODER_TLS_CERT", "ENCODER_TLS_KEY") and path.startswith("/"):
            want(mounted.get(path.rpartition("/")[0]), where, f"{name} is in no Secret that the pod waits for")


def mebibytes(text):
    units = {"Mi": 1, "Gi": 1024}
    return int(text[:-2]) * units[text[-2:]]


def cores(text):
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def guard(overlay, documents):
    def want(truth, where, what):
        if not truth:
            complain(f"{overlay} {where}", what)

    by_kind = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
        want(document["metadata"].get("namespace", "live") == "live", name_of(document), "is in another namespace")
        if document["kind"] not in ("Namespace", "ClusterRole"):
            want("AlwaysAllow" not in json.dumps(document), name_of(document), "AlwaysAllow evicts every busy encoder")

    encoders = 0
    for document, metadata, spec, container in workloads(documents):
        where = name_of(document)
        want(spec.get("enableServiceLinks") is False, where, "service links become ENCODER_… variables")
        context, pod = container["securityContext"], spec["securityContext"]
        want(pod["runAsNonRoot"] is True and pod["runAsUser"] != 0, where, "runs as root")
        want(pod["seccompProfile"] == {"type": "RuntimeDefault"}, where, "no seccomp profile")
        want(context["allowPrivilegeEscalation"] is False, where, "privilege escalation")
        want(context["readOnlyRootFilesystem"] is True, where, "root is writable")
        want(context["capabilities"] == {"drop": ["ALL"]}, where, "capabilities")
        want(metadata["labels"].get("encoder/takes") == "publishers", where, "is not behind the balancer")
        ready = container["readinessProbe"]
        want(ready["httpGet"]["path"] == "/readyz", where, "readiness asks something else")
        want(ready["periodSeconds"] == 1 and ready["failureThreshold"] == 1, where, "busy for more than two seconds before it is out")
        want(ready.get("successThreshold", 1) == 1 and ready.get("timeoutSeconds", 1) == 1, where, "slow readiness")
        want(container["startupProbe"]["httpGet"]["path"] == "/startupz", where, "no startup probe")
        guard_listeners(documents, spec, container, want, where)
        request, limit = container["resources"]["requests"], container["resources"].get("limits", {})
        want("cpu" not in limit or cores(limit["cpu"]) > cores(request["cpu"]), where, "throttled CPU drops frames")
        want("memory" in limit, where, "memory without a limit takes the node along")
        if container["args"] != ["serve"]:
            live = container["livenessProbe"]
            want(live["httpGet"]["path"] == "/livez", where, "liveness asks something else")
            continue

        encoders += 1
        guard_rtmps(documents, metadata, container, want, where)
        # One budget for all workers of a stream, and the supervisor with its window of segments and what waits for the store.
        workers = int(variable(container, "ENCODER_WORKER_MEMORY", "1536")) * int(variable(container, "ENCODER_CAPACITY", "1"))
        want(mebibytes(limit["memory"]) >= workers + 1024, where, "the kernel kills the pod before a worker reaches its limit")
        drain = float(variable(container, "ENCODER_DRAIN_TIMEOUT", "3600"))
        # Five seconds seal what is left, and the kubelet's clock started earlier.
        want(spec["terminationGracePeriodSeconds"] >= drain + 30, where, "killed before its drain is over")
        want(variable(container, "ENCODER_WHEN_FULL") == "refuse", where, "a full encoder holds up who comes")
        want(variable(container, "ENCODER_LOG_FORMAT") == "json", where, "logs are not structured")
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        want("/media" in mounts and "/tmp" in mounts, where, "nowhere to write")
        if document["kind"] == "Fleet":
            template = document["spec"]["template"]["spec"]
            want(template["eviction"]["safe"] == "Never", where, "may be evicted")
            want(variable(container, "ENCODER_FLEET") == "agones", where, "does not tell Agones")
            want("livenessProbe" not in container, where, "recycling would look like a crash")
            want(template["health"]["periodSeconds"] * template["health"]["failureThreshold"] >= 15, where, "impatient health")
            want(template["ports"][0]["portPolicy"] == "None", where, "host ports by-pass the balancer")
            policies = [p["spec"] for p in by_kind["NetworkPolicy"] if p["spec"]["podSelector"]["matchLabels"].items() <= metadata["labels"].items()]
            out = [block["ipBlock"] for p in policies for rule in p.get("egress", []) if any(port["port"] == 443 for port in rule["ports"]) for block in rule["to"] if "ipBlock" in block]
            want(any(block["cidr"] == "10.0.0.0/8" for block in out), where, "its sidecar does not reach the API server")
            continue
        annotation = "cluster-autoscaler.kubernetes.io/safe-to-evict"
        want(metadata["annotations"].get(annotation) == "false", where, "the cluster autoscaler may take it")
        live = container["livenessProbe"]
        want(live["httpGet"]["path"] == "/livez", where, "liveness asks something else")
        want(live["terminationGracePeriodSeconds"] <= 30, where, "who is stuck is waited for as long as a stream lasts")
        want(live["periodSeconds"] * live["failureThreshold"] >= 30, where, "impatient liveness")
        want(document["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, where, "a rollout takes encoders away")
        want(variable(container, "ENCODER_RECYCLE_AFTER") == "0", where, "a restart after each stream runs into back-off")
        selector = document["spec"]["selector"]["matchLabels"].items()
        budgets = [b for b in by_kind.get("PodDisruptionBudget", []) if b["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()]
        want(len(budgets) == 1 and budgets[0]["spec"]["maxUnavailable"] == 0, where, "may be evicted")
        want(selector <= metadata["labels"].items(), where, "does not select its own pods")
    want(encoders == 1, "encoders", f"{encoders} workloads take streams")

    services = {service["metadata"]["name"]: service["spec"] for service in by_kind["Service"]}
    rtmp = services["rtmp"]
    want(rtmp["type"] == "LoadBalancer" and rtmp["externalTrafficPolicy"] == "Cluster", "Service/rtmp", "Local loses streams and drops publishers")
    want(not rtmp.get("publishNotReadyAddresses"), "Service/rtmp", "readiness would steer nothing")
    want(rtmp.get("sessionAffinity", "None") == "None", "Service/rtmp", "affinity sends publishers to busy encoders")
    want(services["encoders"]["publishNotReadyAddresses"] is True, "Service/encoders", "the lobby sees free encoders only")
    want(services["origin"]["publishNotReadyAddresses"] is True, "Service/origin", "viewers lose busy encoders")
    for document in by_kind["Service"]:
        selected = [
            name_of(workload)
            for workload, metadata, _, _ in workloads(documents)
            if document["spec"]["selector"].items() <= metadata["labels"].items()
        ]
        want(selected, name_of(document), "selects nothing")

    for scaled in by_kind.get("ScaledObject", []):
        where, trigger = name_of(scaled), scaled["spec"]["triggers"][0]
        want(trigger["metricType"] == "AverageValue" and trigger["metadata"]["threshold"] == "1", where, "not one pod per stream")
        want(trigger["metadata"]["ignoreNullValues"] == "false", where, "without metrics all encoders would be told to leave")
        down = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        want(down["stabilizationWindowSeconds"] >= 600, where, "hasty scale-down")
        deployment = next(d for d in by_kind["Deployment"] if d["metadata"]["name"] == scaled["spec"]["scaleTargetRef"]["name"])
        want("replicas" not in deployment["spec"], where, "every apply would reset the number of encoders")
        steer(where, trigger["metadata"]["query"], scaled["spec"]["minReplicaCount"], want)
    for scaler in by_kind.get("FleetAutoscaler", []):
        policy = scaler["spec"]["policy"]
        want(policy["type"] == "Buffer" and policy["buffer"]["bufferSize"] >= 1, name_of(scaler), "no free encoders")
        want(policy["buffer"]["minReplicas"] >= policy["buffer"]["bufferSize"], name_of(scaler), "fewer than the buffer")


def guard_rtmps(documents, metadata, container, want, where):
    """A port for RTMPS is reached through the Service and the policy, or is nowhere."""
    listens = "ENCODER_RTMPS_LISTEN" in settings(documents, container)
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    if listens:
        port = settings(documents, container)["ENCODER_RTMPS_LISTEN"].rpartition(":")[2]
        want(named.get("rtmps") == int(port), where, "its RTMPS port has no name")
    service = next(d for d in documents if d["kind"] == "Service" and d["metadata"]["name"] == "rtmp")
    leads = any(port["targetPort"] == "rtmps" for port in service["spec"]["ports"])
    want(leads == listens, where, "the Service does not lead to its RTMPS port, or to none")
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    rules = [
        rule
        for policy in policies
        if policy["podSelector"]["matchLabels"].items() <= metadata["labels"].items()
        for rule in policy.get("ingress", [])
    ]
    admits = any("from" not in rule and {"port": "rtmps"} in rule["ports"] for rule in rules)
    want(admits == listens, where, "the policy does not admit RTMPS, or admits it to nothing")


def steer(where, query, least, want):
    """The autoscaler's own arithmetic (replica_calculator.go): within a tenth of the present size it does nothing."""
    factor, buffer = query.split(" * sum(")[0], query.rsplit("+ ", 1)[1]
    for busy in range(0, 400):
        metric = float(factor) * busy + float(buffer)
        replicas = max(least, busy)
        for _ in range(20):
            if abs(metric / replicas - 1) > 0.1:
                replicas = max(least, -(-int(metric * 1000) // 1000))
        if replicas - busy < 1:
            want(False, where, f"no free encoder beside {busy} busy ones")
            return


def metrics(file):
    """Whatever is asked for is said by the encoder."""
    if file.suffix == ".json":
        panels = json.loads(file.read_text())["panels"]
        text = "\n".join(target["expr"] for panel in panels for target in panel.get("targets", []))
    else:
        text = "\n".join(line for line in file.read_text().splitlines() if "expr:" in line or "query:" in line or "encoder_" in line)
    sources = [DEPLOY.parent / "encoder/src/telemetry.rs", DEPLOY.parent / "probes/src/metrics.rs"]
    known = set(re.findall(r'"(encoder_[a-z_]+)"', "".join(source.read_text() for source in sources)))
    for name in sorted(set(re.findall(r"\bencoder_[a-z_]+", text))):
        if re.sub("_(bucket|sum|count)$", "", name) not in known:
            complain(file.name, f"{name} is no metric of the encoder")


def main():
    version = sys.argv[1] if len(sys.argv) > 1 else "1.34"
    overlays = sorted((DEPLOY / "overlays").iterdir())
    builds = [(folder.name, build(folder)) for folder in [DEPLOY / "base", *overlays]]
    for component in sorted((DEPLOY / "components").iterdir()):
        builds += [(f"{overlay.name} with {component.name}", build_with(overlay, component)) for overlay in overlays]
    for name, documents in builds:
        validate(name, documents, version)
        guard(name, documents)
        print(f"deploy: {name}: {len(documents)} resources")
    for text in [*(DEPLOY / "dashboard").glob("*.json"), DEPLOY / "base/alerts.yaml", *(DEPLOY / "overlays").glob("*/*.yaml")]:
        metrics(text)
    if complaints:
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
