#!/usr/bin/env python3
"""The judge judged: each of these changes to good manifests must be complained about."""
import copy
import unittest

import check


def find(documents, kind, name="encoder"):
    return next(d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)


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


def always_allow(d):
    find(d, "PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow"


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
    find(d, "Fleet")["spec"]["template"]["spec"]["ports"][0]["hostport"] = 1


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
        grace, drain, typo, wrong_type, slow_readiness, stuck_for_hours, always_allow, no_budget, evictable, throttled,
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


class Mutations(unittest.TestCase):
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


if __name__ == "__main__":
    unittest.main()
