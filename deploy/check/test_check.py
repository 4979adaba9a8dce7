#!/usr/bin/env python3
"""The judge judged: each of these changes to good manifests must be complained about."""
import copy
import unittest

import check


def find(documents, kind, name="encoder"):
    return next(d for d in documents if d.get("kind") == kind and d["metadata"]["name"] == name)


def container(documents, kind="Deployment", name="encoder"):
    spec = find(documents, kind, name)["spec"]["template"]["spec"]
    spec = spec["template"]["spec"] if kind == "Fleet" else spec
    return spec, spec["containers"][0]


def set_variable(target, name, value):
    next(entry for entry in target["env"] if entry["name"] == name)["value"] = value


def grace(d):
    container(d)[0]["terminationGracePeriodSeconds"] = 3600


def drain(d):
    set_variable(container(d)[1], "ENCODER_DRAIN_TIMEOUT", "14430")


def typo(d):
    container(d)[1]["readynessProbe"] = container(d)[1].pop("readinessProbe")


def wrong_type(d):
    container(d)[0]["terminationGracePeriodSeconds"] = "14430"


def slow_readiness(d):
    container(d)[1]["readinessProbe"]["failureThreshold"] = 3


def stuck_for_hours(d):
    del container(d)[1]["livenessProbe"]["terminationGracePeriodSeconds"]


def no_budget(d):
    d.remove(find(d, "PodDisruptionBudget"))


def evictable(d):
    find(d, "Deployment")["spec"]["template"]["metadata"]["annotations"].clear()


def no_room_for_workers(d):
    container(d)[1]["resources"]["limits"]["memory"] = "2Gi"


def throttled(d):
    container(d)[1]["resources"]["limits"]["cpu"] = "2"


def root(d):
    container(d)[0]["securityContext"]["runAsNonRoot"] = False


def local_policy(d):
    find(d, "Service", "rtmp")["spec"]["externalTrafficPolicy"] = "Local"


def not_ready_published(d):
    find(d, "Service", "rtmp")["spec"]["publishNotReadyAddresses"] = True


def lobby_blind(d):
    find(d, "Service", "encoders")["spec"]["publishNotReadyAddresses"] = False


def restarts(d):
    set_variable(container(d)[1], "ENCODER_RECYCLE_AFTER", "1")


def fixed_size(d):
    find(d, "Deployment")["spec"]["replicas"] = 3


def plain_buffer(d):
    find(d, "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"] = "1 * sum(encoder_busy) + 2"


def value(d):
    find(d, "ScaledObject")["spec"]["triggers"][0]["metricType"] = "Value"


def null_is_zero(d):
    del find(d, "ScaledObject")["spec"]["triggers"][0]["metadata"]["ignoreNullValues"]


def keda_typo(d):
    find(d, "ScaledObject")["spec"]["poolingInterval"] = 5


def agones_typo(d):
    find(d, "Fleet")["spec"]["template"]["spec"]["health"]["failures"] = 3


def agones_pod_typo(d):
    container(d, "Fleet")[1]["volumeMount"] = []


def agones_silent(d):
    set_variable(container(d, "Fleet")[1], "ENCODER_FLEET", "none")


def agones_evicted(d):
    find(d, "Fleet")["spec"]["template"]["spec"]["eviction"]["safe"] = "Always"


def agones_shut_in(d):
    d.remove(find(d, "NetworkPolicy", "encoder-sidecar"))


def no_waiting(d):
    find(d, "FleetAutoscaler")["spec"]["policy"]["buffer"]["bufferSize"] = 0


def settings(d):
    return find(d, "ConfigMap", find_config(d))["data"]


def find_config(d):
    return next(c["metadata"]["name"] for c in d if c["kind"] == "ConfigMap")


def nobody_known(d):
    del settings(d)["ENCODER_PUBLISH_KEYS"]


def known_by_nothing(d):
    settings(d)["ENCODER_PUBLISH_KEYS"] = ""


def anyone(d):
    settings(d)["ENCODER_PUBLISH_ANYONE"] = "true"


def keys_from_nowhere(d):
    settings(d)["ENCODER_PUBLISH_KEYS"] = "/etc/keys.toml"


def keys_not_waited_for(d):
    sources = next(v for v in container(d)[0]["volumes"] if v["name"] == "settings")["projected"]["sources"]
    sources[0]["secret"]["optional"] = True


def lobby_knows_nobody(d):
    del container(d, name="lobby")[1]["envFrom"]


def admin_on_loopback(d):
    set_variable(container(d)[1], "ENCODER_ADMIN_LISTEN", "127.0.0.1:9090")


def admin_by_default(d):
    target = container(d, name="lobby")[1]
    target["env"] = [entry for entry in target["env"] if entry["name"] != "ENCODER_ADMIN_LISTEN"]


def admin_elsewhere(d):
    set_variable(container(d)[1], "ENCODER_ADMIN_LISTEN", "0.0.0.0:9091")


def agones_admin_on_loopback(d):
    set_variable(container(d, "Fleet")[1], "ENCODER_ADMIN_LISTEN", "127.0.0.1:9090")


def no_certificate(d):
    next(v for v in container(d)[0]["volumes"] if v["name"] == "tls")["secret"]["optional"] = True


def rtmps_without_service(d):
    find(d, "Service", "rtmp")["spec"]["ports"].pop()


def rtmps_without_policy(d):
    find(d, "NetworkPolicy")["spec"]["ingress"].pop()


def rtmps_on_another_port(d):
    set_variable(container(d)[1], "ENCODER_RTMPS_LISTEN", "0.0.0.0:1937")


def rtmps_without_listener(d):
    target = container(d)[1]
    target["env"] = [entry for entry in target["env"] if entry["name"] != "ENCODER_RTMPS_LISTEN"]


def agones_rtmps_without_name(d):
    target = container(d, "Fleet")[1]
    target["ports"] = [port for port in target["ports"] if port["name"] != "rtmps"]


MUTATIONS = {
    "autoscale": [
        grace, drain, typo, wrong_type, slow_readiness, stuck_for_hours, no_budget, evictable, throttled,
        no_room_for_workers, root,
        local_policy, not_ready_published, lobby_blind, restarts, fixed_size, plain_buffer, value, null_is_zero, keda_typo,
        nobody_known, known_by_nothing, anyone, keys_from_nowhere, keys_not_waited_for, lobby_knows_nobody,
        admin_on_loopback, admin_by_default, admin_elsewhere,
    ],
    "agones": [agones_typo, agones_pod_typo, agones_silent, agones_evicted, agones_shut_in, no_waiting, agones_admin_on_loopback],
}
# By overlay and component.
COMPONENT_MUTATIONS = {
    ("autoscale", "tls"): [
        no_certificate, rtmps_without_service, rtmps_without_policy, rtmps_on_another_port, rtmps_without_listener,
    ],
    ("agones", "tls"): [agones_rtmps_without_name],
}


# --- edges: each change with what has to be said about it ---------------------------------------------------------------


def edge(d):
    return container(d, name="edge")


def policy(d, name):
    return find(d, "NetworkPolicy", name)["spec"]


def drop_variable(target, name):
    target["env"] = [entry for entry in target["env"] if entry["name"] != name]


def set_labels(d, labels):
    metadata = find(d, "Deployment", "edge")["spec"]["template"]["metadata"]
    metadata["labels"] = metadata["labels"] | labels


def triggers(d):
    return find(d, "ScaledObject", "edge")["spec"]["triggers"]


def front(d, kind):
    return find(d, kind, "edge")["spec"]["default"]


def cached(d):
    return find(d, "GCPHTTPFilter", "edge")["spec"]["cachePolicy"]


def alert(d, name):
    rules = find(d, "Rules", "edge")["spec"]["groups"][0]["rules"]
    return next(rule for rule in rules if rule["alert"] == name)


def settings_sources(spec):
    return next(volume for volume in spec["volumes"] if volume["name"] in ("settings", "edge"))["projected"]["sources"]


EDGE_MUTATIONS = [
    # The encoders.
    ("answers viewers beside", lambda d: set_variable(container(d)[1], "ENCODER_ORIGIN_FOR", "everyone")),
    ("answers viewers beside", lambda d: d.remove(find(d, "Deployment", "edge"))),
    ("open to others than edges", lambda d: policy(d, "encoder")["ingress"][0]["ports"].append({"port": "http"})),
    ("open to others than edges", lambda d: policy(d, "encoder")["ingress"][0]["ports"].append({"port": 8081})),
    ("open to others than edges", lambda d: policy(d, "encoder")["ingress"].append({"from": [{"podSelector": {}}]})),
    ("open to others than edges", lambda d: policy(d, "encoder")["ingress"][2]["from"].append({"namespaceSelector": {}})),
    ("open to others than edges", lambda d: policy(d, "encoder")["ingress"][2]["from"][0].update(namespaceSelector={})),
    ("edges do not reach", lambda d: policy(d, "encoder")["ingress"].pop()),
    ("edges are not told its address", lambda d: drop_variable(container(d)[1], "ENCODER_ADVERTISE")),
    ("in no Secret that the pod waits for", lambda d: drop_variable(container(d)[1], "ENCODER_EDGE_SECRET")),
    (
        "in no Secret that the pod waits for",
        lambda d: container(d)[0]["volumes"][-1]["projected"]["sources"][0]["secret"].update(optional=True),
    ),
    ("different secrets", lambda d: set_variable(container(d)[1], "ENCODER_EDGE_SECRET", "/etc/edge/other.secret")),
    # The edges.
    ("publishers are sent to it", lambda d: set_labels(d, {"encoder/takes": "publishers"})),
    ("its secret is in no Secret", lambda d: settings_sources(edge(d)[0])[0]["secret"].update(name="encoder-viewers")),
    ("its secret is in no Secret", lambda d: settings_sources(edge(d)[0])[0]["secret"].update(optional=True)),
    ("probes do not reach its admin port", lambda d: set_variable(edge(d)[1], "ENCODER_ADMIN_LISTEN", "127.0.0.1:9090")),
    ("no readinessProbe", lambda d: edge(d)[1].pop("readinessProbe")),
    ("no readinessProbe", lambda d: edge(d)[1]["readinessProbe"]["httpGet"].update(path="/livez")),
    ("no livenessProbe", lambda d: edge(d)[1].pop("livenessProbe")),
    ("no startup probe", lambda d: edge(d)[1]["startupProbe"]["httpGet"].update(path="/readyz")),
    ("is sent viewers after", lambda d: edge(d)[1]["readinessProbe"].update(periodSeconds=10)),
    ("a stuck edge", lambda d: edge(d)[1]["livenessProbe"].pop("terminationGracePeriodSeconds")),
    ("an edge that is gone", lambda d: edge(d)[1].pop("lifecycle")),
    ("held requests are cut", lambda d: set_variable(edge(d)[1], "ENCODER_DRAIN_TIMEOUT", "5")),
    ("killed before its drain", lambda d: edge(d)[0].update(terminationGracePeriodSeconds=45)),
    ("killed before its drain", lambda d: set_variable(edge(d)[1], "ENCODER_DRAIN_TIMEOUT", "60")),
    (
        "that the balancer still uses",
        lambda d: edge(d)[1]["env"].append({"name": "ENCODER_HTTP_IDLE_TIMEOUT", "value": "600"}),
    ),
    ("token of the cluster's API", lambda d: edge(d)[0].update(automountServiceAccountToken=True)),
    ("no Google account", lambda d: find(d, "ServiceAccount", "edge")["metadata"].pop("annotations")),
    ("may write to the encoders' store", lambda d: edge(d)[0].update(serviceAccountName="encoder")),
    (
        "may write to the encoders' store",
        lambda d: find(d, "ServiceAccount", "edge")["metadata"].update(
            annotations=find(d, "ServiceAccount")["metadata"]["annotations"]
        ),
    ),
    ("another store", lambda d: edge(d)[1]["env"].append({"name": "ENCODER_OUTPUT", "value": "gs://other"})),
    ("finds no encoder", lambda d: drop_variable(edge(d)[1], "ENCODER_ENCODERS")),
    ("MiB are needed", lambda d: edge(d)[1]["resources"]["limits"].update(memory="2Gi")),
    ("MiB are needed", lambda d: set_variable(edge(d)[1], "ENCODER_CACHE_SIZE", "2048")),
    ("MiB are needed", lambda d: set_variable(edge(d)[1], "ENCODER_CONNECTIONS", "40000")),
    ("memory without a limit", lambda d: edge(d)[1]["resources"].pop("limits")),
    ("root is writable", lambda d: edge(d)[1]["securityContext"].update(readOnlyRootFilesystem=False)),
    ("service links", lambda d: edge(d)[0].pop("enableServiceLinks")),
    (
        "a rollout takes edges away",
        lambda d: find(d, "Deployment", "edge")["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
    ),
    ("edges are not spread", lambda d: edge(d)[0]["topologySpreadConstraints"].pop(0)),
    ("takes all edges at once", lambda d: d.remove(find(d, "PodDisruptionBudget", "edge"))),
    ("blocks upgrades", lambda d: find(d, "PodDisruptionBudget", "edge")["spec"].update(maxUnavailable=0)),
    # Their network policy.
    ("viewers do not reach it", lambda d: policy(d, "edge")["ingress"].pop(0)),
    ("admin port is open to everybody", lambda d: policy(d, "edge")["ingress"][0]["ports"].append({"port": "admin"})),
    (
        "admin port is open to strangers",
        lambda d: policy(d, "edge")["ingress"][1]["from"].append({"ipBlock": {"cidr": "0.0.0.0/0"}}),
    ),
    ("does not admit the balancer's checks", lambda d: policy(d, "edge")["ingress"][1]["from"].pop()),
    ("or reaches more of them", lambda d: policy(d, "edge")["egress"].pop(2)),
    ("or reaches more of them", lambda d: policy(d, "edge")["egress"][2]["ports"].append({"port": "admin"})),
    ("does not reach the store", lambda d: policy(d, "edge")["egress"].pop()),
    # Their number.
    ("does not follow the CPU", lambda d: triggers(d).pop(0)),
    ("does not follow the held requests", lambda d: triggers(d).pop()),
    ("does not follow the held requests", lambda d: triggers(d)[1].update(metricType="Value")),
    (
        "counts the encoders' held requests",
        lambda d: triggers(d)[1]["metadata"].update(query='sum(encoder_held_requests{namespace="live"})'),
    ),
    ("without metrics edges would leave", lambda d: triggers(d)[1]["metadata"].update(ignoreNullValues="true")),
    ("no room for the viewers", lambda d: triggers(d)[1]["metadata"].update(threshold="15000")),
    ("one edge alone", lambda d: find(d, "ScaledObject", "edge")["spec"].update(minReplicaCount=1)),
    (
        "hasty scale-down",
        lambda d: find(d, "ScaledObject", "edge")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"][
            "scaleDown"
        ].update(stabilizationWindowSeconds=0),
    ),
    ("reset the number of edges", lambda d: find(d, "Deployment", "edge")["spec"].update(replicas=3)),
    # The alerts' thresholds.
    ("EdgeNearlyFull", lambda d: alert(d, "EdgeNearlyFull").update(expr="max(encoder_held_requests) > 30000")),
    ("EdgeCacheThrashing", lambda d: set_variable(edge(d)[1], "ENCODER_CACHE_SIZE", "512")),
    # The balancer.
    ("balancer's defaults", lambda d: d.remove(find(d, "GCPBackendPolicy", "edge"))),
    ("balancer's defaults", lambda d: find(d, "HealthCheckPolicy", "edge")["spec"]["targetRef"].update(name="edges")),
    ("held requests or slow downloads", lambda d: front(d, "GCPBackendPolicy").update(timeoutSec=30)),
    (
        "cuts draining edges",
        lambda d: front(d, "GCPBackendPolicy")["connectionDraining"].update(drainingTimeoutSec=30),
    ),
    (
        "asks something else",
        lambda d: front(d, "HealthCheckPolicy")["config"]["httpHealthCheck"].update(requestPath="/"),
    ),
    ("asks something else", lambda d: front(d, "HealthCheckPolicy")["config"]["httpHealthCheck"].update(port=8080)),
    ("leads to no edge", lambda d: find(d, "HTTPRoute", "edge")["spec"]["rules"][0].update(backendRefs=[])),
    ("no viewer reaches edges", lambda d: d.remove(find(d, "Gateway", "edge"))),
    # Schemas.
    ("timeoutSeconds", lambda d: front(d, "GCPBackendPolicy").update(timeoutSeconds=60)),
    ("intervalSec", lambda d: front(d, "HealthCheckPolicy").update(intervalSec=5)),
    ("prefix", lambda d: find(d, "HTTPRoute", "edge")["spec"]["rules"][0].update(prefix="/")),
    ("gatewayClass", lambda d: find(d, "Gateway", "edge")["spec"].update(gatewayClass="any")),
]
CDN_MUTATIONS = [
    ("is on no route", lambda d: find(d, "HTTPRoute", "edge")["spec"]["rules"][0].pop("filters")),
    ("is on no route", lambda d: find(d, "GCPHTTPFilter", "edge")["metadata"].update(name="cdn")),
    ("a time of its own", lambda d: cached(d).update(cacheMode="CACHE_ALL_STATIC")),
    ("serves old playlists", lambda d: cached(d).pop("serveWhileStale")),
    ("about to exist", lambda d: cached(d).pop("negativeCaching")),
    ("each viewer's request", lambda d: cached(d).pop("requestCoalescing")),
    ("gets the plain playlist", lambda d: cached(d)["cacheKeyPolicy"].update(includeQueryString=False)),
    ("gets the plain playlist", lambda d: cached(d)["cacheKeyPolicy"]["includedQueryParameters"].pop()),
    ("ttl", lambda d: cached(d).update(ttl="1s")),
]
LOAD_BALANCER_MUTATIONS = [
    ("address of the viewer's own", lambda d: find(d, "Service", "edge")["spec"].update(externalTrafficPolicy="Cluster")),
    ("viewers have no HTTPS", lambda d: drop_variable(edge(d)[1], "ENCODER_HTTPS_LISTEN")),
    ("viewers have no HTTPS", lambda d: find(d, "Service", "edge")["spec"]["ports"].pop()),
    ("does not admit HTTPS", lambda d: policy(d, "edge")["ingress"].pop()),
    ("MiB are needed", lambda d: edge(d)[1]["resources"]["limits"].update(memory="3Gi")),
]
FLEET_MUTATIONS = [
    ("edges are not told its address", lambda d: drop_variable(container(d, "Fleet")[1], "ENCODER_ADVERTISE")),
    ("answers viewers beside", lambda d: drop_variable(container(d, "Fleet")[1], "ENCODER_ORIGIN_FOR")),
    (
        "in no Secret that the pod waits for",
        lambda d: container(d, "Fleet")[0]["volumes"][-1]["projected"]["sources"][0]["secret"].update(name="other"),
    ),
]
NAMED_MUTATIONS = {
    ("autoscale", "edge"): EDGE_MUTATIONS,
    ("autoscale", "edge-cdn"): CDN_MUTATIONS,
    ("autoscale", "edge-load-balancer"): LOAD_BALANCER_MUTATIONS,
    ("agones", "edge"): FLEET_MUTATIONS,
}


def service_policy(d):
    service = next(document for document in d if "routing" in document)
    return service["routing"]["pathMatchers"][0]["routeRules"][0]["routeAction"]["cdnPolicy"]


def origin_timeouts(d):
    return next(document["timeout"] for document in d if "timeout" in document)


def backend_config(d):
    return find(d, "BackendConfig", "edge")["spec"]


EXAMPLE_MUTATIONS = [
    ("slow downloads", lambda d: backend_config(d).update(timeoutSec=30)),
    ("asks something else", lambda d: backend_config(d)["healthCheck"].update(port=8080)),
    ("serves old playlists", lambda d: backend_config(d)["cdn"].pop("serveWhileStale")),
    ("a time of its own", lambda d: backend_config(d)["cdn"].update(cacheMode="CACHE_ALL_STATIC")),
    ("gets the plain playlist", lambda d: backend_config(d)["cdn"]["cachePolicy"].pop("queryStringWhitelist")),
    ("held requests are cut", lambda d: origin_timeouts(d).update(readTimeout="5s")),
    ("is refused by Media CDN", lambda d: origin_timeouts(d).update(maxAttemptsTimeout="60s")),
    ("about to exist", lambda d: service_policy(d).update(negativeCaching=True)),
    ("gets the plain playlist", lambda d: service_policy(d)["cacheKeyPolicy"].pop("includedQueryParameters")),
]


def judged(name, documents):
    """What is said about the documents: by the guards, or else by the schemas."""
    check.complaints.clear()
    check.guard(name, documents)
    if not check.complaints:
        check.validate(name, documents, "1.34")
    return [*check.complaints]


# --- what schemas do not see: each fault was seen on a real cluster -----------------------------------------------------


def fleet(d):
    """The game server's part of the Fleet."""
    return find(d, "Fleet")["spec"]["template"]["spec"]


def strategy(d, kind="Deployment", name="encoder"):
    return find(d, kind, name)["spec"]["strategy"]["rollingUpdate"]


def budget(d):
    return find(d, "PodDisruptionBudget")["spec"]


def level(d, level):
    find(d, "Namespace", "live")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = level


def without_mount(target, path):
    target["volumeMounts"] = [mount for mount in target["volumeMounts"] if mount["mountPath"] != path]


def without_port(target, name):
    target["ports"] = [port for port in target["ports"] if port["name"] != name]


def ports_by_agones(d):
    """As it was: Agones is to add the port, and does so without its name."""
    without_port(container(d, "Fleet")[1], "rtmp")
    fleet(d)["ports"] = [{"name": "rtmp", "portPolicy": "None", "containerPort": 1935, "protocol": "TCP"}]


def agones_budget(d):
    """Agones' own budget, where Helm's `gameservers.namespaces` lists the namespace."""
    fleet(d)["eviction"]["safe"] = "Never"


def second_budget(d):
    d.append(copy.deepcopy(find(d, "PodDisruptionBudget")))
    d[-1]["metadata"]["name"] = "encoder-too"


def headless_service(d):
    """One more Service that selects the encoders, as there was."""
    d.append(copy.deepcopy(find(d, "Service", "encoders")))
    d[-1]["metadata"]["name"] = "origin"


def own_liveness_probe(d):
    probe = copy.deepcopy(container(d, "Fleet")[1]["startupProbe"])
    container(d, "Fleet")[1]["livenessProbe"] = probe | {"httpGet": {"path": "/livez", "port": "admin"}}


def collectors(d, name, namespaces):
    for rule in policy(d, name)["ingress"]:
        for peer in rule.get("from", []):
            if "namespaceSelector" in peer:
                peer["namespaceSelector"]["matchExpressions"][0]["values"] = namespaces


SEEN = {
    "agones": [
        ("webhook wants maxUnavailable", lambda d: strategy(d, "Fleet").update(maxUnavailable=0)),
        ("webhook wants maxUnavailable", lambda d: strategy(d, "Fleet").update(maxUnavailable="0%")),
        ("refuses Agones' sidecar", lambda d: level(d, "restricted")),
        ("more than has to be is allowed", lambda d: level(d, "privileged")),
        ("its sidecar has no token", lambda d: container(d, "Fleet")[0].update(automountServiceAccountToken=False)),
        ("its sidecar has no token", lambda d: container(d, "Fleet")[0].pop("automountServiceAccountToken")),
        ("encoder's container too", lambda d: without_mount(container(d, "Fleet")[1], check.TOKEN)),
        ("may not use the API", lambda d: d.remove(find(d, "RoleBinding", "encoder-agones-sdk"))),
        ("may not use the API", lambda d: container(d, "Fleet")[0].update(serviceAccountName="lobby")),
        (
            "Helm has a RoleBinding",
            lambda d: find(d, "RoleBinding", "encoder-agones-sdk")["metadata"].update(name="agones-sdk-access"),
        ),
        ("port of Agones' sidecar", lambda d: set_variable(container(d, "Fleet")[1], "ENCODER_HTTP_LISTEN", "0.0.0.0:8080")),
        ("port of Agones' sidecar", lambda d: drop_variable(container(d, "Fleet")[1], "ENCODER_HTTP_LISTEN")),
        ("port of Agones' sidecar", lambda d: fleet(d)["sdkServer"].update(httpPort=9090)),
        ("Agones adds ports without their names", ports_by_agones),
        ("has no port named rtmp", ports_by_agones),
        ("health check would never begin", own_liveness_probe),
        ("Agones' budget besides", agones_budget),
        ("no disruption budget", lambda d: d.remove(find(d, "PodDisruptionBudget"))),
        ("its startupProbe failed", lambda d: container(d, "Fleet")[1]["startupProbe"].pop("terminationGracePeriodSeconds")),
        ("nodes cannot be drained", lambda d: budget(d).update(minAvailable=2)),
    ],
    "autoscale": [
        ("allows more than its pods need", lambda d: level(d, "baseline")),
        ("has no port named http", lambda d: without_port(container(d)[1], "http")),
        ("does not listen where", lambda d: drop_variable(container(d)[1], "ENCODER_HTTP_LISTEN")),
        ("headless", lambda d: find(d, "Service", "encoders")["spec"]["ports"][1].update(port=8080)),
        ("written at every change", headless_service),
        ("token of the cluster's API", lambda d: container(d)[0].pop("automountServiceAccountToken")),
        ("token of the cluster's API", lambda d: container(d, name="lobby")[0].pop("automountServiceAccountToken")),
        ("use up the surge", lambda d: strategy(d).update(maxSurge="25%")),
        ("count as unavailable", lambda d: strategy(d).update(maxUnavailable=0)),
        ("count as unavailable", lambda d: strategy(d).update(maxUnavailable="25%")),
        ("all free encoders at once", lambda d: strategy(d).update(maxUnavailable="100%")),
        ("a rollout that waits for ready pods", lambda d: strategy(d, name="lobby").update(maxUnavailable=0)),
        ("count as failed", lambda d: find(d, "Deployment", "lobby")["spec"].pop("progressDeadlineSeconds")),
        ("asks no encoder", lambda d: set_variable(container(d, name="lobby")[1], "ENCODER_LOBBY_ENCODERS", "encoders:8081")),
        ("takes all free encoders at once, or moves none", lambda d: budget(d).pop("minAvailable")),
        ("takes all free encoders at once, or moves none", lambda d: budget(d).update(minAvailable="50%")),
        ("nodes cannot be drained", lambda d: budget(d).update(minAvailable=2)),
        ("keeps its node", lambda d: budget(d).update(unhealthyPodEvictionPolicy="IfHealthyBudget")),
        ("keeps its node", lambda d: budget(d).pop("unhealthyPodEvictionPolicy")),
        ("or several", second_budget),
        ("its startupProbe failed", lambda d: container(d)[1]["startupProbe"].pop("terminationGracePeriodSeconds")),
        ("its livenessProbe failed", lambda d: container(d)[1]["livenessProbe"].pop("terminationGracePeriodSeconds")),
        ("does not admit the collectors", lambda d: collectors(d, "encoder", ["gmp-system"])),
        ("does not admit the collectors", lambda d: collectors(d, "lobby", ["gke-gmp-system"])),
        ("does not reach the store", lambda d: policy(d, "encoder")["egress"].pop()),
        ("does not reach the metadata server", lambda d: policy(d, "encoder")["egress"].pop(1)),
        (
            "all addresses besides",
            lambda d: policy(d, "encoder")["egress"][2]["to"].append({"ipBlock": {"cidr": "199.36.153.8/30"}}),
        ),
        ("restart after each stream", lambda d: set_variable(container(d)[1], "ENCODER_RECYCLE_AFTER", "1")),
    ],
}


class Mutations(unittest.TestCase):
    def test_each_fault_that_a_cluster_showed_is_named(self):
        for overlay, faults in SEEN.items():
            good = check.build(check.DEPLOY / "overlays" / overlay)
            self.assertEqual(judged(overlay, good), [], "good manifests pass")
            for number, (said, put_back) in enumerate(faults):
                with self.subTest(f"{overlay}, {number}: {said}"):
                    documents = copy.deepcopy(good)
                    put_back(documents)
                    self.assertIn(said, "\n".join(judged(overlay, documents)))
        check.complaints.clear()

    def test_each_is_complained_about(self):
        built = [(overlay, check.build(check.DEPLOY / "overlays" / overlay), m) for overlay, m in MUTATIONS.items()]
        for (overlay, component), mutations in COMPONENT_MUTATIONS.items():
            good = check.build_with(check.DEPLOY / "overlays" / overlay, check.DEPLOY / "components" / component)
            built.append((overlay, good, mutations))
        for overlay, good, mutations in built:
            check.complaints.clear()
            check.guard(overlay, good)
            self.assertEqual(check.complaints, [], "good manifests pass")
            for mutate in mutations:
                with self.subTest(mutate.__name__):
                    documents = copy.deepcopy(good)
                    mutate(documents)
                    check.complaints.clear()
                    try:
                        check.guard(overlay, documents)
                    except (KeyError, StopIteration, TypeError) as missing:
                        check.complain(overlay, f"{missing!r}")
                    if not check.complaints:
                        check.validate(overlay, documents, "1.34")
                    self.assertTrue(check.complaints, f"{mutate.__name__} passes")
        check.complaints.clear()

    def test_each_change_to_edges_is_named(self):
        for (overlay, component), mutations in NAMED_MUTATIONS.items():
            good = check.build_with(check.DEPLOY / "overlays" / overlay, check.DEPLOY / "components" / component)
            self.assertEqual(judged(overlay, good), [], "good manifests pass")
            for number, (said, mutate) in enumerate(mutations):
                with self.subTest(f"{overlay} with {component}, {number}: {said}"):
                    documents = copy.deepcopy(good)
                    mutate(documents)
                    self.assertIn(said, "\n".join(judged(overlay, documents)))
        check.complaints.clear()

    def test_each_change_to_an_example_is_named(self):
        for number, (said, mutate) in enumerate([("", lambda d: None), *EXAMPLE_MUTATIONS]):
            with self.subTest(f"{number}: {said}"):
                documents, found = check.examples(), []
                mutate(documents)
                check.guard_examples(documents, lambda truth, where, what: truth or found.append(what))
                self.assertEqual(bool(found), bool(said), found)
                self.assertIn(said, "\n".join(found))

    def test_viewers_reach_encoders_where_there_are_no_edges(self):
        documents = check.build(check.DEPLOY / "overlays/autoscale")
        policy(documents, "encoder")["ingress"][0]["ports"].remove({"port": "http"})
        self.assertIn("viewers do not reach its HTTP port", "\n".join(judged("autoscale", documents)))
        check.complaints.clear()

    def test_a_bucket_says_where_streams_are(self):
        documents = check.build_with(check.DEPLOY / "overlays/autoscale", check.DEPLOY / "components/edge")
        settings(documents)["ENCODER_OUTPUT"] = "gs://bucket/live"
        self.assertIn("asks every encoder", "\n".join(judged("autoscale", documents)))
        drop_variable(edge(documents)[1], "ENCODER_ENCODERS")
        self.assertEqual(judged("autoscale", documents), [])


if __name__ == "__main__":
    unittest.main()
