#!/usr/bin/env python3
"""Builds the base and every overlay, each overlay with every component as well, and judges them: Kubernetes' own
schemas in strict mode, the custom resources' published schemas (schemas/, made by prune.py), and the guards without
which a platform cuts its own streams or its viewers.

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


def build_with(overlay, *components):
    """The overlay with components, as an operator's own kustomization would name them."""
    with tempfile.TemporaryDirectory() as folder:
        # kustomize takes relative paths only.
        relative = {path: os.path.relpath(path, os.path.realpath(folder)) for path in (overlay, *components)}
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [relative[overlay]],
            "components": [relative[component] for component in components],
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


def derived(container, name):
    """Where a variable without a value of its own comes from."""
    return next((entry.get("valueFrom", {}) for entry in container.get("env", []) if entry["name"] == name), {})


def settings(documents, container):
    """The environment of a container: config maps, then its own variables."""
    maps = {d["metadata"]["name"]: d.get("data", {}) for d in documents if d["kind"] == "ConfigMap"}
    variables = {}
    for source in container.get("envFrom", []):
        variables |= maps[source["configMapRef"]["name"]]
    for entry in container.get("env", []):
        key = entry.get("valueFrom", {}).get("configMapKeyRef")
        if key:
            variables[entry["name"]] = maps[key["name"]][key["key"]]
        elif "value" in entry:
            variables[entry["name"]] = entry["value"]
    return variables


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
    want(any(chosen.get(name) for name in IDENTITIES), where, "no source says who may publish: it listens on loopback only")
    want("ENCODER_PUBLISH_ANYONE" not in chosen, where, "anybody may publish")
    guard_admin(chosen, spec, container, want, where)


# Files that are in a Secret.
SECRET_FILES = (*IDENTITIES, "ENCODER_TLS_CERT", "ENCODER_TLS_KEY", "ENCODER_EDGE_SECRET")


def guard_admin(chosen, spec, container, want, where):
    """Probes reach the pod, and it has the files that its settings name."""
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    host, _, port = chosen.get("ENCODER_ADMIN_LISTEN", "127.0.0.1:9090").rpartition(":")
    want(host in ("0.0.0.0", "[::]") and int(port) == ports["admin"], where, "probes do not reach its admin port")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe in container:
            want(container[probe]["httpGet"]["port"] == "admin", where, f"its {probe} asks another port")
    mounted = secrets_at(spec, container)
    for name, path in chosen.items():
        if name in SECRET_FILES and path.startswith("/"):
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

    guard_namespace(by_kind, want)
    encoders = 0
    for document, metadata, spec, container in workloads(documents):
        where = name_of(document)
        guard_pod(spec, container, want, where)
        guard_graces(spec, container, want, where)
        guard_collectors(documents, metadata, container, want, where)
        if container["args"] == ["edge"]:
            guard_edge(documents, document, metadata, spec, container, want)
            continue
        want(metadata["labels"].get("encoder/takes") == "publishers", where, "is not behind the balancer")
        ready = container["readinessProbe"]
        want(ready["httpGet"]["path"] == "/readyz", where, "readiness asks something else")
        want(ready["periodSeconds"] == 1 and ready["failureThreshold"] == 1, where, "busy for more than two seconds before it is out")
        want(ready.get("successThreshold", 1) == 1 and ready.get("timeoutSeconds", 1) == 1, where, "slow readiness")
        guard_listeners(documents, spec, container, want, where)
        limit = container["resources"]["limits"]
        if container["args"] != ["serve"]:
            guard_lobby(documents, document, container, want)
            continue

        encoders += 1
        guard_rtmps(documents, metadata, container, want, where)
        guard_origin(documents, metadata, spec, container, want, where)
        guard_budget(by_kind, document, metadata, want)
        guard_way_to_google(documents, metadata, want, where)
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
            guard_fleet(by_kind, document, metadata, spec, container, want)
            continue
        want(spec.get("automountServiceAccountToken") is False, where, "has a token of the cluster's API")
        annotation = "cluster-autoscaler.kubernetes.io/safe-to-evict"
        want(metadata["annotations"].get(annotation) == "false", where, "the cluster autoscaler may take it")
        live = container["livenessProbe"]
        want(live["httpGet"]["path"] == "/livez", where, "liveness asks something else")
        want(live["periodSeconds"] * live["failureThreshold"] >= 30, where, "impatient liveness")
        guard_rollout(document, want, where)
        want(variable(container, "ENCODER_RECYCLE_AFTER") == "0", where, "a restart after each stream runs into back-off")
        selector = document["spec"]["selector"]["matchLabels"].items()
        want(selector <= metadata["labels"].items(), where, "does not select its own pods")
    want(encoders == 1, "encoders", f"{encoders} workloads take streams")

    services = {service["metadata"]["name"]: service["spec"] for service in by_kind["Service"]}
    rtmp = services["rtmp"]
    want(rtmp["type"] == "LoadBalancer" and rtmp["externalTrafficPolicy"] == "Cluster", "Service/rtmp", "Local loses streams and drops publishers")
    want(not rtmp.get("publishNotReadyAddresses"), "Service/rtmp", "readiness would steer nothing")
    want(rtmp.get("sessionAffinity", "None") == "None", "Service/rtmp", "affinity sends publishers to busy encoders")
    blind = "the lobby sees free encoders only, and viewers lose busy ones"
    want(services["encoders"]["publishNotReadyAddresses"] is True, "Service/encoders", blind)
    for document in by_kind["Service"]:
        guard_service(documents, document, want)
    of_encoders = [
        name_of(service)
        for service in by_kind["Service"]
        if service["spec"]["selector"].get("app.kubernetes.io/component", "encoder") == "encoder"
    ]
    want(len(of_encoders) == 2, "encoders", f"{' and '.join(of_encoders)} are each written at every change of readiness")

    for scaled in by_kind.get("ScaledObject", []):
        where, trigger = name_of(scaled), scaled["spec"]["triggers"][0]
        if scaled["spec"]["scaleTargetRef"]["name"] == "edge":
            guard_edge_scaling(documents, scaled, want)
            continue
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
    guard_front(documents, want)


def guard_pod(spec, container, want, where):
    """What holds for every pod."""
    want(spec.get("enableServiceLinks") is False, where, "service links become ENCODER_… variables")
    context, pod = container["securityContext"], spec["securityContext"]
    want(pod["runAsNonRoot"] is True and pod["runAsUser"] != 0, where, "runs as root")
    want(pod["seccompProfile"] == {"type": "RuntimeDefault"}, where, "no seccomp profile")
    want(context["allowPrivilegeEscalation"] is False, where, "privilege escalation")
    want(context["readOnlyRootFilesystem"] is True, where, "root is writable")
    want(context["capabilities"] == {"drop": ["ALL"]}, where, "capabilities")
    want(container["startupProbe"]["httpGet"]["path"] == "/startupz", where, "no startup probe")
    request, limit = container["resources"]["requests"], container["resources"].get("limits", {})
    want("cpu" not in limit or cores(limit["cpu"]) > cores(request["cpu"]), where, "throttled CPU drops frames")
    want("memory" in limit, where, "memory without a limit takes the node along")


# A probe's failure counts with the pod's own grace above this many seconds; a stuck process does not exit by itself.
SHORT_GRACE = 30
# Namespaces of Google's collectors of metrics: on Standard and on Autopilot.
COLLECTORS = {"gmp-system", "gke-gmp-system"}
# Ports of Agones' sidecar in the pod: health, gRPC and HTTP.
SIDECAR_PORTS = {8080, 9357, 9358}
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def guard_namespace(by_kind, want):
    """The level of Pod Security: the strictest that admits every container, Agones' sidecar included."""
    for namespace in by_kind["Namespace"]:
        level = namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
        if "Fleet" in by_kind:
            want(level == "baseline", name_of(namespace), "refuses Agones' sidecar, or more than has to be is allowed")
        else:
            want(level == "restricted", name_of(namespace), "allows more than its pods need")


def guard_graces(spec, container, want, where):
    """A failed probe kills with the pod's grace unless the probe has its own. (The startup probe is asked again after a
    restart of the kubelet.)"""
    whole = spec.get("terminationGracePeriodSeconds", 30)
    for name in ("startupProbe", "livenessProbe"):
        grace = container.get(name, {}).get("terminationGracePeriodSeconds", whole)
        want(name not in container or grace <= SHORT_GRACE, where, f"a stuck process has {whole} s after its {name} failed")


def guard_collectors(documents, metadata, container, want, where):
    named = {name for peer in peers(documents, metadata, container, "admin") for name in namespaces(peer)}
    want(COLLECTORS <= named, where, f"the policy does not admit the collectors of {sorted(COLLECTORS - named)}")


def namespaces(peer):
    """The namespaces that a peer of a policy names."""
    selector = (peer or {}).get("namespaceSelector", {})
    found = {selector.get("matchLabels", {}).get("kubernetes.io/metadata.name")}
    for rule in selector.get("matchExpressions", []):
        if rule["key"] == "kubernetes.io/metadata.name" and rule["operator"] == "In":
            found |= set(rule["values"])
    return found - {None}


def guard_way_to_google(documents, metadata, want, where):
    """The metadata server, which gives out the account's tokens, and Google's APIs: all of them, or none but the private
    addresses (components/private-google-access)."""
    reached = {}
    for policy in policies_of(documents, metadata, "Egress"):
        for rule in policy.get("egress", []):
            for peer in rule["to"]:
                for port in rule["ports"]:
                    reached.setdefault(port["port"], set()).add(peer.get("ipBlock", {}).get("cidr"))
    want({"169.254.169.252/32", "169.254.169.254/32"} <= reached.get(988, set()), where, "does not reach the metadata server")
    google = {"0.0.0.0/0", "199.36.153.8/30"} & reached.get(443, set())
    want(len(google) == 1, where, "does not reach the store, or reaches all addresses besides the private ones")


def listens_on(documents, container):
    """The numbers of the ports on which a container listens, by name; None stands for a listener that is off."""
    chosen = settings(documents, container)
    defaults = {
        "serve": {"RTMP": "0.0.0.0:1935", "HTTP": "0.0.0.0:8080", "ADMIN": "127.0.0.1:9090"},
        "lobby": {"RTMP": "0.0.0.0:1935", "ADMIN": "127.0.0.1:9090"},
        "edge": {"HTTP": "0.0.0.0:8080", "ADMIN": "127.0.0.1:9090"},
    }[container["args"][0]]
    optional = {"RTMPS": "", "HTTPS": ""}
    addresses = {name: chosen.get(f"ENCODER_{name}_LISTEN", default) for name, default in {**optional, **defaults}.items()}
    return {name.lower(): int(address.rpartition(":")[2]) for name, address in addresses.items() if address}


def guard_service(documents, service, want):
    """Each port of a Service leads to a listener of each pod that the Service selects."""
    where, spec = name_of(service), service["spec"]
    selected = [w for w in workloads(documents) if spec["selector"].items() <= w[1]["labels"].items()]
    want(selected, where, "selects nothing")
    for document, _, _, container in selected:
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        listens = listens_on(documents, container)
        for port in spec["ports"]:
            target = port["targetPort"]
            # The lobby does not speak TLS.
            if target == "rtmps" and container["args"] == ["lobby"]:
                continue
            want(target in named, where, f"{name_of(document)} has no port named {target}")
            right = listens.get(target) == named.get(target)
            want(right, where, f"{name_of(document)} does not listen where its port {target} is")
            if spec.get("clusterIP") == "None":
                want(port["port"] == named.get(target), where, "headless: clients connect to `port` itself")


def guard_lobby(documents, document, container, want):
    where = name_of(document)
    live = container["livenessProbe"]
    want(live["httpGet"]["path"] == "/livez", where, "liveness asks something else")
    spec = document["spec"]["template"]["spec"]
    want(spec.get("automountServiceAccountToken") is False, where, "has a token of the cluster's API")
    waits = document["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] != "100%"
    want(not waits, where, "is seldom ready: a rollout that waits for ready pods does not end")
    endless = document["spec"].get("progressDeadlineSeconds") == 2**31 - 1
    want(endless, where, "is seldom ready: its rollouts count as failed after a deadline")
    encoders = next(d["spec"] for d in documents if d["kind"] == "Service" and d["metadata"]["name"] == "encoders")
    ports = [port["port"] for port in encoders["ports"] if port["targetPort"] == "admin"]
    asked = settings(documents, container).get("ENCODER_LOBBY_ENCODERS")
    want([asked] == [f"encoders:{port}" for port in ports], where, "asks no encoder whether it is free")


def guard_rollout(document, want, where):
    """Busy encoders are not ready: they use up the surge, and count as unavailable."""
    bounds = document["spec"]["strategy"]["rollingUpdate"]
    want(bounds["maxSurge"] == "100%", where, "new pods that become busy use up the surge: a rollout stands still")
    percent = re.fullmatch(r"(\d+)%", str(bounds["maxUnavailable"]))
    room = percent and 50 <= int(percent[1]) < 100
    want(room, where, "busy pods count as unavailable: a rollout stands still, or takes all free encoders at once")


def guard_budget(by_kind, document, metadata, want):
    """Nodes can be drained, one free encoder after the other, and no pod has two budgets, which makes evictions fail."""
    where = name_of(document)
    budgets = [
        b["spec"] for b in by_kind.get("PodDisruptionBudget", [])
        if b["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()
    ]
    want(len(budgets) == 1, where, "has no disruption budget, or several")
    free = fewest_free(by_kind, document)
    for budget in budgets:
        least = budget.get("minAvailable")
        want(isinstance(least, int) and least >= 1, where, "a drain of nodes takes all free encoders at once, or moves none")
        want(not isinstance(least, int) or least < free, where, f"nodes cannot be drained while no more than {free} run")
        policy = budget.get("unhealthyPodEvictionPolicy")
        want(policy == "AlwaysAllow", where, "a busy encoder keeps its node from being drained")


def fewest_free(by_kind, document):
    """The number of encoders of a fleet without any stream."""
    name = document["metadata"]["name"]
    for scaled in by_kind.get("ScaledObject", []):
        if scaled["spec"]["scaleTargetRef"]["name"] == name:
            return scaled["spec"]["minReplicaCount"]
    for scaler in by_kind.get("FleetAutoscaler", []):
        if scaler["spec"]["fleetName"] == name:
            return scaler["spec"]["policy"]["buffer"]["minReplicas"]
    return document["spec"].get("replicas", 1)


def guard_fleet(by_kind, document, metadata, spec, container, want):
    """What Agones' webhooks and its sidecar want, and no schema says."""
    where, template = name_of(document), document["spec"]["template"]["spec"]
    unavailable = str(document["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"])
    want(int(unavailable.rstrip("%")) >= 1, where, "Agones' webhook wants maxUnavailable of 1 at least")
    safe = template["eviction"]["safe"]
    want(safe == "OnUpgrade", where, "the cluster autoscaler may take it (Always), or it has Agones' budget besides (Never)")
    want(variable(container, "ENCODER_FLEET") == "agones", where, "does not tell Agones")
    want("livenessProbe" not in container, where, "Agones' own health check would never begin")
    want(template["health"]["periodSeconds"] * template["health"]["failureThreshold"] >= 15, where, "impatient health")
    want("ports" not in template, where, "Agones adds ports without their names, by which the Service finds them")
    documents = [d for kind in by_kind.values() for d in kind]
    taken = SIDECAR_PORTS | {template["sdkServer"][name] for name in ("grpcPort", "httpPort")}
    want(not taken & set(listens_on(documents, container).values()), where, "listens on a port of Agones' sidecar")
    guard_sidecar_access(by_kind, spec, container, want, where)
    policies = [p["spec"] for p in by_kind["NetworkPolicy"] if p["spec"]["podSelector"]["matchLabels"].items() <= metadata["labels"].items()]
    out = [block["ipBlock"] for p in policies for rule in p.get("egress", []) if any(port["port"] == 443 for port in rule["ports"]) for block in rule["to"] if "ipBlock" in block]
    want(any(block["cidr"] == "10.0.0.0/8" for block in out), where, "its sidecar does not reach the API server")


def guard_sidecar_access(by_kind, spec, container, want, where):
    """The sidecar has a token that may use the API, and the encoder has none."""
    want(spec.get("automountServiceAccountToken") is True, where, "its sidecar has no token")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    hidden = [volumes[mount["name"]] for mount in container["volumeMounts"] if mount["mountPath"] == TOKEN]
    want(hidden and "emptyDir" in hidden[0], where, "the sidecar's token is mounted in the encoder's container too")
    account = {"kind": "ServiceAccount", "name": spec["serviceAccountName"]}
    bindings = [b for b in by_kind.get("RoleBinding", []) if b["roleRef"]["name"] == "agones-sdk"]
    subjects = [subject for binding in bindings for subject in binding["subjects"]]
    want(any(account.items() <= subject.items() for subject in subjects), where, "its sidecar may not use the API")
    names = {binding["metadata"]["name"] for binding in bindings}
    want("agones-sdk-access" not in names, where, "Helm has a RoleBinding of that name: one replaces the other")


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


# --- edges ------------------------------------------------------------------------------------------------------------

# Seconds that a request is held at most: three target durations of 3 s (hls::Timing, --latency 15).
LONGEST_HOLD = 9
# Seconds that an edge serves on after SIGTERM, while balancers stop sending.
SERVES_ON = 5
# Seconds that Google's balancers keep an idle connection; they cannot be told otherwise.
BALANCER_KEEPS = 600
# MiB of an edge without its cache and connections, and KiB of a connection: a held request takes 30.5 KiB
# (docs/latency.md), the rest is for what slow viewers have not taken yet.
EDGE_OVERHEAD_MIB, CONNECTION_KIB = 256, 64
# Sources of Google's health checks.
HEALTH_CHECKS = ("130.211.0.0/22", "35.191.0.0/16")
ANYONE = None


def edges_of(documents):
    return [workload for workload in workloads(documents) if workload[3]["args"] == ["edge"]]


def policies_of(documents, metadata, direction):
    """The network policies that decide about a pod's traffic."""
    for document in documents:
        if document["kind"] == "NetworkPolicy" and direction in document["spec"]["policyTypes"]:
            if document["spec"]["podSelector"].get("matchLabels", {}).items() <= metadata["labels"].items():
                yield document["spec"]


def peers(documents, metadata, container, name):
    """The policies' peers that reach a port of a pod; ANYONE stands for a rule without peers."""
    number = next((port["containerPort"] for port in container["ports"] if port["name"] == name), None)
    policies = list(policies_of(documents, metadata, "Ingress"))
    found = [] if policies else [ANYONE]
    for policy in policies:
        for rule in policy.get("ingress", []):
            if "ports" not in rule or any(port.get("port", name) in (name, number) for port in rule["ports"]):
                found += rule.get("from") or [ANYONE]
    return found


def is_edges(peer):
    """Whether a policy's peer selects edges only."""
    labels = (peer or {}).get("podSelector", {}).get("matchLabels", {})
    return peer is not ANYONE and set(peer) == {"podSelector"} and labels.get("app.kubernetes.io/component") == "edge"


def edge_secret(documents, spec, container):
    """The Secrets with the edges' secret and the file's name. Without a mounted Secret, no Secrets."""
    folder, _, file = settings(documents, container).get("ENCODER_EDGE_SECRET", "").rpartition("/")
    return [name for name in secrets_at(spec, container).get(folder, []) if name == "encoder-edge"], file


def guard_origin(documents, metadata, spec, container, want, where):
    """The encoders' HTTP port is open to everyone without edges, and to edges alone with them."""
    closed = settings(documents, container).get("ENCODER_ORIGIN_FOR", "everyone") == "edges"
    edges = edges_of(documents)
    want(closed == bool(edges), where, "answers viewers beside the edges, or edges that are not there")
    who = peers(documents, metadata, container, "http")
    if not closed:
        want(ANYONE in who, where, "viewers do not reach its HTTP port")
        return
    want(any(is_edges(peer) for peer in who), where, "edges do not reach its HTTP port")
    want(all(is_edges(peer) for peer in who), where, "its HTTP port is open to others than edges")
    field = derived(container, "ENCODER_ADVERTISE").get("fieldRef", {})
    want(field.get("fieldPath") == "status.podIP", where, "edges are not told its address")
    names, file = edge_secret(documents, spec, container)
    want(names, where, "the edges' secret is in no Secret that the pod waits for")
    for _, _, edge_spec, edge in edges:
        want(edge_secret(documents, edge_spec, edge) == (names, file), where, "encoders and edges have different secrets")


def guard_edge(documents, document, metadata, spec, container, want):
    where, chosen = name_of(document), settings(documents, container)
    want("encoder/takes" not in metadata["labels"], where, "publishers are sent to it")
    want(edge_secret(documents, spec, container)[0], where, "its secret is in no Secret that the pod waits for")
    guard_admin(chosen, spec, container, want, where)
    guard_edge_probes(container, want, where)
    guard_edge_end(chosen, spec, container, want, where)
    guard_edge_account(documents, chosen, spec, want, where)
    guard_edge_network(documents, metadata, container, want, where)
    ports = sum(name in chosen for name in ("ENCODER_HTTPS_LISTEN",)) + 1
    connections = ports * int(chosen.get("ENCODER_CONNECTIONS", "20000"))
    needed = int(chosen.get("ENCODER_CACHE_SIZE", "512")) + connections * CONNECTION_KIB / 1024 + EDGE_OVERHEAD_MIB
    limit = mebibytes(container["resources"].get("limits", {}).get("memory", "0Mi"))
    want(limit >= needed, where, f"{needed:.0f} MiB are needed for its cache and its connections")
    want(document["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, where, "a rollout takes edges away")
    keys = {constraint["topologyKey"] for constraint in spec["topologySpreadConstraints"]}
    want({"topology.kubernetes.io/zone", "kubernetes.io/hostname"} <= keys, where, "edges are not spread")
    selected = [b["spec"] for b in documents if b["kind"] == "PodDisruptionBudget"]
    budgets = [b for b in selected if b["selector"]["matchLabels"].items() <= metadata["labels"].items()]
    want(len(budgets) == 1, where, "an upgrade takes all edges at once")
    want(all(str(b.get("maxUnavailable")) not in ("0", "0%") for b in budgets), where, "blocks upgrades of its node")
    guard_edge_alerts(documents, chosen, want)


def guard_edge_probes(container, want, where):
    paths = {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for name, path in paths.items():
        probe = container.get(name, {})
        want(probe.get("httpGet") == {"path": path, "port": "admin"}, where, f"no {name}, or it asks something else")
    ready, live = container.get("readinessProbe", {}), container.get("livenessProbe", {})
    patience = ready.get("periodSeconds", 10) * ready.get("failureThreshold", 3)
    want(patience <= SERVES_ON, where, "is sent viewers after it has stopped taking them")
    want(live.get("terminationGracePeriodSeconds", 60) <= 30, where, "a stuck edge is waited for like one that drains")


def guard_edge_end(chosen, spec, container, want, where):
    """An edge leaves in this order: balancers stop sending, downloads end, the kubelet kills what is left."""
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    want(pause >= 10, where, "balancers send requests to an edge that is gone")
    drain = float(chosen.get("ENCODER_DRAIN_TIMEOUT", "30"))
    want(drain > LONGEST_HOLD, where, "held requests are cut")
    want(spec["terminationGracePeriodSeconds"] >= pause + SERVES_ON + drain + 10, where, "killed before its drain is over")
    keeps = float(chosen.get("ENCODER_HTTP_IDLE_TIMEOUT", "650"))
    want(keeps > BALANCER_KEEPS, where, "closes idle connections that the balancer still uses")


def guard_edge_account(documents, chosen, spec, want, where):
    """Edges read the encoders' store with an account that cannot write there."""
    accounts = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ServiceAccount"}
    google = {
        name: account["metadata"].get("annotations", {}).get("iam.gke.io/gcp-service-account")
        for name, account in accounts.items()
    }
    own = spec.get("serviceAccountName")
    want(spec.get("automountServiceAccountToken") is False, where, "has a token of the cluster's API")
    want(google.get(own), where, "has no Google account to read the store with")
    for _, _, other, container in workloads(documents):
        if container["args"] == ["serve"]:
            theirs = other["serviceAccountName"]
            want(own != theirs and google.get(own) != google.get(theirs), where, "may write to the encoders' store")
            same = settings(documents, container).get("ENCODER_OUTPUT") == chosen.get("ENCODER_OUTPUT")
            want(same, where, "reads another store than the encoders'")
    common, asks = chosen.get("ENCODER_OUTPUT", "").startswith("gs://"), "ENCODER_ENCODERS" in chosen
    want(common or chosen.get("ENCODER_ENCODERS") == http_of_encoders(documents), where, "finds no encoder: no common store, and none to ask")
    want(not (common and asks), where, "asks every encoder once a second, although the bucket says where streams are")


def http_of_encoders(documents):
    """Where edges find the encoders' HTTP port."""
    spec = next(d["spec"] for d in documents if d["kind"] == "Service" and d["metadata"]["name"] == "encoders")
    return next((f"encoders:{port['port']}" for port in spec["ports"] if port["targetPort"] == "http"), None)


def guard_edge_network(documents, metadata, container, want, where):
    want(ANYONE in peers(documents, metadata, container, "http"), where, "viewers do not reach it")
    who = peers(documents, metadata, container, "admin")
    want(ANYONE not in who, where, "its admin port is open to everybody")
    blocks = {peer["ipBlock"]["cidr"] for peer in who if peer and "ipBlock" in peer}
    want(blocks <= set(HEALTH_CHECKS), where, "its admin port is open to strangers")
    rules = [rule for policy in policies_of(documents, metadata, "Egress") for rule in policy.get("egress", [])]
    encoders = {"app.kubernetes.io/name": "encoder", "app.kubernetes.io/component": "encoder"}
    reached = [
        port["port"]
        for rule in rules
        for port in rule["ports"]
        if {"podSelector": {"matchLabels": encoders}} in rule["to"]
    ]
    want(reached == ["http"], where, "does not reach the encoders' HTTP port, or reaches more of them")
    guard_way_to_google(documents, metadata, want, where)


def guard_edge_scaling(documents, scaled, want):
    """The number of edges follows the CPU, and held requests, which cost little CPU."""
    where, spec = name_of(scaled), scaled["spec"]
    triggers = {trigger["type"]: trigger for trigger in spec["triggers"]}
    cpu, held = triggers.get("cpu", {}), triggers.get("prometheus", {})
    want(cpu.get("metricType") == "Utilization" and int(cpu["metadata"]["value"]) <= 80, where, "does not follow the CPU")
    follows = held.get("metricType") == "AverageValue" and "encoder_held_requests{" in held["metadata"]["query"]
    want(follows, where, "does not follow the held requests")
    want(follows and 'pod=~"edge-' in held["metadata"]["query"], where, "counts the encoders' held requests")
    want(follows and held["metadata"]["ignoreNullValues"] == "false", where, "without metrics edges would leave")
    want(spec["minReplicaCount"] >= 2, where, "one edge alone")
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    want(down["stabilizationWindowSeconds"] >= 300, where, "hasty scale-down")
    for document, _, _, container in edges_of(documents):
        want("replicas" not in document["spec"], where, "every apply would reset the number of edges")
        connections = int(settings(documents, container).get("ENCODER_CONNECTIONS", "20000"))
        room = follows and int(held["metadata"]["threshold"]) <= connections / 2
        want(room, where, "no room for the viewers of an edge that fails")


def guard_edge_alerts(documents, chosen, want):
    """Thresholds that follow from settings."""
    rules = next(d for d in documents if d["kind"] == "Rules" and d["metadata"]["name"] == "edge")
    alerts = {rule["alert"]: rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]}
    numbers = {name: [float(number) for number in re.findall(r"> (\d{4,})", expr)] for name, expr in alerts.items()}
    connections = int(chosen.get("ENCODER_CONNECTIONS", "20000"))
    full = numbers["EdgeNearlyFull"]
    want(full and all(0.5 <= n / connections <= 0.75 for n in full), "Rules/edge", "EdgeNearlyFull is not near the bound")
    cache = int(chosen.get("ENCODER_CACHE_SIZE", "512")) * 2**20
    full = numbers["EdgeCacheThrashing"]
    want(full and all(0.8 <= n / cache < 1 for n in full), "Rules/edge", "EdgeCacheThrashing is not about a full cache")


def targeted(documents, kind):
    """The policies of a kind that are attached to the edges' Service."""
    reference = {"group": "", "kind": "Service", "name": "edge"}
    return [d["spec"]["default"] for d in documents if d["kind"] == kind and d["spec"]["targetRef"] == reference]


def guard_front(documents, want):
    """What stands between viewers and edges."""
    for _, metadata, _, container in edges_of(documents):
        service = next(d["spec"] for d in documents if d["kind"] == "Service" and d["metadata"]["name"] == "edge")
        if any(d["kind"] == "Gateway" for d in documents):
            guard_gateway(documents, metadata, container, want)
        else:
            local = service["type"] == "LoadBalancer" and service.get("externalTrafficPolicy") == "Local"
            want(local, "Service/edge", "no viewer reaches edges with an address of the viewer's own")
            listens = "ENCODER_HTTPS_LISTEN" in settings(documents, container)
            named = {port["name"] for port in container["ports"]}
            leads = any(port["targetPort"] == "https" for port in service["ports"])
            want(listens and leads and "https" in named, "Service/edge", "viewers have no HTTPS")
            who = peers(documents, metadata, container, "https") if "https" in named else []
            want(ANYONE in who, "Service/edge", "the policy does not admit HTTPS")


def guard_gateway(documents, metadata, container, want):
    chosen = settings(documents, container)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    backends, checks = targeted(documents, "GCPBackendPolicy"), targeted(documents, "HealthCheckPolicy")
    want(len(backends) == 1 and len(checks) == 1, "Gateway/edge", "has the balancer's defaults")
    for backend in backends:
        # The time for slow downloads as well, which begins at the same moment.
        want(backend["timeoutSec"] >= LONGEST_HOLD + 30, "GCPBackendPolicy/edge", "held requests or slow downloads are cut")
        drain = SERVES_ON + float(chosen.get("ENCODER_DRAIN_TIMEOUT", "30"))
        want(backend["connectionDraining"]["drainingTimeoutSec"] >= drain, "GCPBackendPolicy/edge", "cuts draining edges")
    for check in checks:
        asked = check["config"].get("httpHealthCheck", {})
        right = asked.get("port") == ports["admin"] and asked.get("requestPath") == "/readyz"
        want(right and asked.get("portSpecification") == "USE_FIXED_PORT", "HealthCheckPolicy/edge", "asks something else")
    who = peers(documents, metadata, container, "admin")
    admitted = {peer["ipBlock"]["cidr"] for peer in who if peer and "ipBlock" in peer}
    want(set(HEALTH_CHECKS) <= admitted, "HealthCheckPolicy/edge", "the policy does not admit the balancer's checks")
    routes = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "HTTPRoute"}
    rules = [rule for route in routes.values() for rule in route["rules"] if {"name": "edge", "port": 80} in rule.get("backendRefs", [])]
    want(len(rules) == 1, "HTTPRoute/edge", "leads to no edge")
    for rule in rules:
        guard_cdn(documents, rule, want)


def guard_cdn(documents, rule, want):
    """A CDN tells blocking requests apart, and caches for as long as edges say."""
    filters = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "GCPHTTPFilter"}
    named = [entry["extensionRef"]["name"] for entry in rule.get("filters", []) if entry["type"] == "ExtensionRef"]
    want(sorted(named) == sorted(filters), "GCPHTTPFilter/edge", "is on no route, or the route names another")
    for cached in filters.values():
        cache, where = cached["cachePolicy"], "GCPHTTPFilter/edge"
        key = cache.get("cacheKeyPolicy", {})
        guard_cache(cache, key.get("includeQueryString") and key.get("includedQueryParameters"), want, where)
        want(cache.get("serveWhileStale") == "0s", where, "serves old playlists")
        want(cache.get("requestCoalescing") is True, where, "each viewer's request reaches an edge")


def guard_examples(documents, want):
    """deploy/cdn: what is configured outside the cluster's kustomizations waits as long, and has the same cache key."""
    for document in documents:
        if document.get("kind") == "BackendConfig":
            spec, where = document["spec"], "cdn/ingress.yaml"
            want(spec["timeoutSec"] >= LONGEST_HOLD + 30, where, "held requests or slow downloads are cut")
            want(spec["healthCheck"]["port"] == 9090, where, "asks something else")
            guard_cache(spec["cdn"], spec["cdn"]["cachePolicy"].get("queryStringWhitelist"), want, where)
            want(spec["cdn"].get("serveWhileStale") == 0, where, "serves old playlists")
        elif "timeout" in document:
            seconds = {name: float(value.rstrip("s")) for name, value in document["timeout"].items()}
            longer = all(seconds[name] > LONGEST_HOLD for name in ("maxAttemptsTimeout", "readTimeout", "responseTimeout"))
            want(longer, "cdn/media-cdn-origin.yaml", "held requests are cut")
            allowed = seconds["maxAttemptsTimeout"] <= 30 and seconds["readTimeout"] <= 30
            want(allowed and seconds["responseTimeout"] <= 120, "cdn/media-cdn-origin.yaml", "is refused by Media CDN")
        elif "routing" in document:
            for matcher in document["routing"]["pathMatchers"]:
                for rule in matcher["routeRules"]:
                    cache = rule["routeAction"]["cdnPolicy"]
                    queries = cache["cacheKeyPolicy"].get("includedQueryParameters")
                    guard_cache(cache, queries, want, "cdn/media-cdn-service.yaml")


def guard_cache(cache, queries, want, where):
    want(cache.get("cacheMode") == "USE_ORIGIN_HEADERS", where, "caches playlists for a time of its own")
    want(cache.get("negativeCaching") is False, where, "parts that are about to exist are missing")
    want({"_HLS_msn", "_HLS_part"} <= set(queries or ()), where, "a blocking request gets the plain playlist")


def examples():
    texts = [file.read_text() for file in sorted((DEPLOY / "cdn").glob("*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text)]


# --- metrics ----------------------------------------------------------------------------------------------------------

def described():
    """The metrics that the source describes."""
    sources = [DEPLOY.parent / "encoder/src/telemetry.rs", DEPLOY.parent / "probes/src/metrics.rs"]
    return set(re.findall(r'"(encoder_[a-z_]+)"', "".join(source.read_text() for source in sources)))


def metrics(file):
    """Whatever is asked for is said by the encoder."""
    if file.suffix == ".json":
        panels = json.loads(file.read_text())["panels"]
        text = "\n".join(target["expr"] for panel in panels for target in panel.get("targets", []))
    else:
        text = "\n".join(line for line in file.read_text().splitlines() if "expr:" in line or "query:" in line or "encoder_" in line)
    known = described()
    for name in sorted(set(re.findall(r"\bencoder_[a-z_]+", text))):
        if re.sub("_(bucket|sum|count)$", "", name) not in known:
            complain(file.name, f"{name} is no metric of the encoder")


def main():
    version = sys.argv[1] if len(sys.argv) > 1 else "1.34"
    overlays = sorted((DEPLOY / "overlays").iterdir())
    builds = [(folder.name, build(folder)) for folder in [DEPLOY / "base", *overlays]]
    components = [(component,) for component in sorted((DEPLOY / "components").iterdir())]
    together = [("tls", "edge"), ("edge", "private-google-access")]
    for chosen in [*components, *(tuple(DEPLOY / "components" / name for name in names) for names in together)]:
        names = " and ".join(component.name for component in chosen)
        builds += [(f"{overlay.name} with {names}", build_with(overlay, *chosen)) for overlay in overlays]
    for name, documents in builds:
        validate(name, documents, version)
        guard(name, documents)
        print(f"deploy: {name}: {len(documents)} resources")
    queries = [*(DEPLOY / "overlays").glob("*/*.yaml"), *(DEPLOY / "components").glob("*/*.yaml")]
    for text in [*(DEPLOY / "dashboard").glob("*.json"), DEPLOY / "base/alerts.yaml", *queries]:
        metrics(text)
    guard_examples(examples(), lambda truth, where, what: truth or complain(where, what))
    if complaints:
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
