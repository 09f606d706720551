"""deploy/kubernetes without a cluster: what it says is valid, what it names exists, and how its Job means exit codes.

Schemas are those of the package kubernetes-validate, and Kueue's own where they are at hand.
"""

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from search.__main__ import parser
from search.exit_codes import EXIT_CODES
from tests.deploy.kustomize import Objects, build, with_component

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy" / "kubernetes"
PAGE = (ROOT / "docs/kubernetes.md").read_text()
OVERLAYS = ("base", "postgres", "kueue", "cpu", "gpu-nodes")
WITH_METRICS = {"kueue+metrics": "kueue", "cpu+metrics": "cpu"}
"""What a kustomization of the reader's makes of the component beside each of these."""
EVERY = (*OVERLAYS, *WITH_METRICS)
SCHEMAS = ROOT.parent / "shared" / "reference" / "schemas"
OLDEST, NEWEST = "1.31", "1.37"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
VERSIONS = {
    "Job": "batch/v1",
    "CronJob": "batch/v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    **dict.fromkeys(("Service", "ConfigMap", "PersistentVolumeClaim", "Pod"), "v1"),
    **dict.fromkeys(("ResourceFlavor", "ClusterQueue", "LocalQueue"), "kueue.x-k8s.io/v1beta2"),
}


# ---- what is applied


@cache
def built(overlay: str) -> Objects:
    if overlay in WITH_METRICS:
        return with_component(HERE / "metrics", copy.deepcopy(built(WITH_METRICS[overlay])))
    return build(HERE / overlay)


def pod_of(item: dict[str, Any]) -> dict[str, Any] | None:
    """The pod template of an object that makes pods."""
    spec = item.get("spec", {})
    if item["kind"] == "Pod":
        return item
    if item["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec.get("template") if item["kind"] in VERSIONS else None


def containers_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def by_hand() -> dict[tuple[str, str], set[str]]:
    """Secrets and ConfigMaps that the page has made, with their keys."""
    made: dict[tuple[str, str], set[str]] = {}
    for kind, name, rest in re.findall(r"create (secret generic|configmap) (\S+)((?: \\\n>|[^\n])*)", PAGE):
        files = re.findall(r"--from-file=(?:(\S+)=)?(\S+)", rest)
        keys = {key or Path(file).name for key, file in files}
        made.setdefault(("Secret" if "secret" in kind else "ConfigMap", name), set()).update(keys)
    return made


# ---- what each object has to be


def problems(objects: Objects) -> list[str]:
    """What is wrong with the meaning of some objects, which no schema says."""
    return [*wrong_versions(objects), *wrong_pods(objects), *wrong_names(objects), *wrong_workers(objects)]


def wrong_versions(objects: Objects) -> Iterator[str]:
    for item in objects:
        if VERSIONS.get(item["kind"]) != item["apiVersion"]:
            yield f"{item['kind']}: API version {item['apiVersion']}"


USERS = {"kd-search": 1000, "nginx": 101, "postgres": 999}
"""Image -> the user that it is made for."""


def wrong_pods(objects: Objects) -> Iterator[str]:
    for item in objects:
        pod = pod_of(item)
        if pod is None:
            continue
        name, spec = f"{item['kind']} {item['metadata']['name']}", pod["spec"]
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: has a service account's token"
        if "terminationGracePeriodSeconds" not in spec:
            yield f"{name}: no grace period"
        if not spec["securityContext"].get("runAsNonRoot") or spec["securityContext"]["seccompProfile"] is None:
            yield f"{name}: may be root"
        for container in containers_of(pod):
            yield from (f"{name}: {container['name']}: {text}" for text in wrong_container(container, spec))


def wrong_container(container: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    image, _, tag = container["image"].partition(":")
    user = own.get("runAsUser", spec["securityContext"].get("runAsUser"))
    if user != USERS[image.rpartition("/")[2]] and container["name"] != "loader":
        yield f"user {user} is not that of the image {image}"
    if tag in ("", "latest"):
        yield "image without a version"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "writable root"
    if own.get("allowPrivilegeEscalation") is not False or own["capabilities"] != {"drop": ["ALL"]}:
        yield "has capabilities"
    resources = container["resources"]
    if not {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"]):
        yield "requests nothing of some resource"
    if not {"memory", "ephemeral-storage"} <= set(resources["limits"]):
        yield "no limit of some resource"
    volumes = {volume["name"] for volume in spec.get("volumes", [])} | {"database"}
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            yield f"mounts {mount['name']}, which is no volume"
    yield from plain_secrets(container)


def plain_secrets(container: dict[str, Any]) -> Iterator[str]:
    for variable in container.get("env", []):
        secret = re.search("PASSWORD|STORAGE|SECRET|TOKEN", variable["name"])
        if "://" in str(variable.get("value", "")) or (secret and not variable["name"].endswith("_FILE")):
            yield f"plain secret in {variable['name']}"


def wrong_names(objects: Objects) -> Iterator[str]:
    """Claims, secrets, maps and keys that nobody makes; two environments of one name."""
    known = by_hand()
    for item in objects:
        if item["kind"] == "ConfigMap":
            known[("ConfigMap", item["metadata"]["name"])] = set(item["data"])
    claims = {item["metadata"]["name"] for item in objects if item["kind"] == "PersistentVolumeClaim"}
    for item in objects:
        for volume in (pod_of(item) or {"spec": {}})["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{item['metadata']['name']}: claim {claim} is not there"
            for kind, key in (("secret", "secretName"), ("configMap", "name")):
                if kind in volume:
                    made = (kind[0].upper() + kind[1:], volume[kind][key])
                    wanted = {each["key"] for each in volume[kind].get("items", [])}
                    if not wanted <= known.get(made, set()) or made not in known:
                        yield f"{item['metadata']['name']}: {made[0]} {made[1]} {sorted(wanted)} is not there"


def wrong_workers(objects: Objects) -> Iterator[str]:
    """The Job of the workers: each exit code has one meaning, and each index is started again until it ends with 0."""
    job = next(item["spec"] for item in objects if item["kind"] == "Job" and item["metadata"]["name"] == "workers")
    spec = job["template"]["spec"]
    if (job["completionMode"], spec["restartPolicy"], job["podReplacementPolicy"]) != ("Indexed", "Never", "Failed"):
        yield "workers: not an indexed Job whose pods are replaced one by one"
    if job["parallelism"] != job["completions"]:
        yield f"workers: parallelism {job['parallelism']} is not completions {job['completions']}"
    args = parser(["work"]).parse_args(spec["containers"][0]["args"])
    if spec.get("terminationGracePeriodSeconds", 30) < args.stop_seconds + 20:
        yield "workers: killed before the ranks are"
    known = {container["name"] for container in spec["containers"]}
    codes: list[int] = []
    for rule in job["podFailurePolicy"]["rules"]:
        on = rule.get("onExitCodes")
        codes += [] if on is None else on["values"]
        if rule["action"] not in ("FailJob", "Ignore", "Count", "FailIndex"):
            yield f"workers: action {rule['action']}"
        if on is not None and (on["operator"] != "In" or on["containerName"] not in known or 0 in on["values"]):
            yield f"workers: rule {rule}"
        if any(condition["status"] != "True" for condition in rule.get("onPodConditions", [])):
            yield f"workers: rule {rule}"
    for code in sorted({*EXIT_CODES, 137} - {0} - set(codes)):
        yield f"workers: exit code {code} has no rule"
    if len(codes) != len(set(codes)) or len(job["podFailurePolicy"]["rules"]) > 20:
        yield "workers: a code has two rules"


def outcome(rules: Objects, code: int, *, disrupted: bool) -> str:
    """What the Job's controller does with a pod that ended so: the first rule that fits, else it counts."""
    for rule in rules:
        conditions = [each["type"] for each in rule.get("onPodConditions", [])]
        if (disrupted and "DisruptionTarget" in conditions) or code in rule.get("onExitCodes", {}).get("values", []):
            return str(rule["action"])
    return "Count"


@pytest.mark.parametrize("overlay", EVERY)
def test_what_is_applied_means_what_it_should(overlay: str) -> None:
    assert problems(built(overlay)) == []


def test_each_end_of_a_worker_is_answered_as_it_is_meant() -> None:
    (job,) = [each for each in built("base") if each["metadata"]["name"] == "workers"]
    rules = job["spec"]["podFailurePolicy"]["rules"]
    for code, whether in ((2, "FailJob"), (3, "FailJob"), (143, "Ignore"), (1, "Count"), (137, "Count")):
        assert outcome(rules, code, disrupted=False) == whether, code
    assert outcome(rules, 137, disrupted=True) == "Ignore"  # its grace period ended, or its node went away
    assert outcome(rules, 1, disrupted=True) == "Ignore"
    assert outcome(rules, 2, disrupted=True) == "FailJob"


def test_what_pods_run_are_commands_of_the_program_and_scripts_that_exist() -> None:
    ran = set()
    for overlay in EVERY:
        for item in built(overlay):
            for container in containers_of(pod_of(item) or {"spec": {"containers": []}}):
                if container.get("command") == ["python", "-m", "search"]:
                    parser(container["args"]).parse_args(container["args"])
                    ran.add(container["args"][0])
                elif container["name"] == "backup":
                    settings = {each["name"] for each in container["env"]}
                    script = (ROOT / "deploy/backup.sh").read_text()
                    assert all(name in script for name in settings)
                    assert container["args"] == ["once"]
    assert {"work", "db", "dashboard", "metrics"} <= ran


def test_only_clients_of_the_database_reach_it_and_nothing_else_is_open() -> None:
    objects = built("postgres")
    (closed,) = [each for each in objects if each["metadata"]["name"] == "kd-closed"]
    assert closed["spec"]["podSelector"] == {}
    assert set(closed["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in closed["spec"]
    clients = {
        each["metadata"]["name"]
        for each in objects
        if (pod_of(each) or {"metadata": {}})["metadata"].get("labels", {}).get("kd-search/database") == "client"
    }
    assert {"workers", "tables", "dashboard", "backup"} <= clients
    assert all(each["spec"].get("type", "ClusterIP") == "ClusterIP" for each in objects if each["kind"] == "Service")
    (dashboard,) = [
        each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == "dashboard"
    ]
    assert "--host=127.0.0.1" in dashboard["spec"]["template"]["spec"]["containers"][0]["args"]


def test_metrics_are_read_by_the_monitoring_alone_from_where_workers_write_them() -> None:
    objects = built("cpu+metrics")
    args = first(objects)["args"]
    assert args[:2] == ["work", "demo"]
    assert parser(args).parse_args(args).mirror == ["prometheus"]
    (served,) = [each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == "metrics"]
    (container,) = served["spec"]["template"]["spec"]["containers"]
    asked = parser(container["args"]).parse_args(container["args"])
    assert asked.workers == parser(args).parse_args(args).mirror_dir
    mounted = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert asked.workers.parts[:2] == ("/", "runs")
    assert mounted["/runs"]["readOnly"]
    (port,) = container["ports"]
    assert port["containerPort"] == asked.port
    annotations = served["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(asked.port)
    (policy,) = [each for each in objects if each["metadata"]["name"] == "kd-metrics"]
    (rule,) = policy["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == [asked.port]
    assert [set(each) for each in rule["from"]] == [{"namespaceSelector"}]


def test_every_service_policy_and_budget_selects_pods() -> None:
    for overlay in EVERY:
        labels = [pod["metadata"]["labels"] for pod in map(pod_of, built(overlay)) if pod is not None]
        for item in built(overlay):
            spec = item.get("spec", {})
            if item["kind"] == "Service":
                wanted = spec["selector"]
            elif item["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
                wanted = spec["selector"]["matchLabels"]
            elif item["kind"] == "NetworkPolicy":
                wanted = spec["podSelector"].get("matchLabels", {})
            else:
                continue
            assert any(wanted.items() <= each.items() for each in labels), item["metadata"]["name"]


def test_shared_memory_is_memory_and_volumes_fit_the_limits() -> None:
    sizes = {"Mi": 2**20, "Gi": 2**30}
    for overlay in OVERLAYS:
        (job,) = [each for each in built(overlay) if each["metadata"]["name"] == "workers"]
        spec = job["spec"]["template"]["spec"]
        (worker,) = spec["containers"]
        empty = {each["name"]: each["emptyDir"] for each in spec["volumes"] if "emptyDir" in each}
        size = {name: int(each["sizeLimit"][:-2]) * sizes[each["sizeLimit"][-2:]] for name, each in empty.items()}
        assert empty["shm"]["medium"] == "Memory"
        limit = {key: worker["resources"]["limits"][key] for key in ("memory", "ephemeral-storage")}
        of = {key: int(text[:-2]) * sizes[text[-2:]] for key, text in limit.items()}
        assert size["shm"] < of["memory"]
        assert size["cache"] + size["tmp"] < of["ephemeral-storage"]
        gpus = [worker["resources"][key].get("nvidia.com/gpu", 0) for key in ("requests", "limits")]
        assert gpus == ([0, 0] if overlay == "cpu" else [1, 1])


def test_the_queue_has_a_quota_of_all_that_a_worker_asks_for() -> None:
    objects = built("kueue")
    named = {each["kind"]: each for each in objects}
    (job,) = [each for each in objects if each["metadata"]["name"] == "workers"]
    (group,) = named["ClusterQueue"]["spec"]["resourceGroups"]
    (worker,) = job["spec"]["template"]["spec"]["containers"]
    assert set(group["coveredResources"]) == set(worker["resources"]["requests"])
    assert [each["name"] for each in group["flavors"][0]["resources"]] == group["coveredResources"]
    assert group["flavors"][0]["name"] == named["ResourceFlavor"]["metadata"]["name"]
    assert named["LocalQueue"]["spec"]["clusterQueue"] == named["ClusterQueue"]["metadata"]["name"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == named["LocalQueue"]["metadata"]["name"]
    assert job["metadata"]["annotations"]["kueue.x-k8s.io/job-completions-equal-parallelism"] == "true"
    assert not any("elastic-job" in key for key in job["metadata"]["annotations"])  # Kueue refuses both together
    assert job["spec"]["suspend"] is True


# ---- schemas


def validate(item: dict[str, Any], version: str) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid_for_the_oldest_and_the_newest_cluster(version: str) -> None:
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: the extra `test` has it")
    every = [item for overlay in EVERY for item in built(overlay)]
    every += list(yaml.safe_load_all((HERE / "loader.yaml").read_text()))
    checked = 0
    for item in {str(each): each for each in every}.values():
        if not item["apiVersion"].startswith("kueue"):
            validate(item, version)
            checked += 1
    assert checked > 15


def closed_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A resource's own schema in which unknown keys are wrong, as the server would drop them."""
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {key: closed_schema(each) for key, each in schema["properties"].items()}
        schema.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), dict):
        schema["items"] = closed_schema(schema["items"])
    return schema


def test_the_queue_s_objects_are_valid_for_kueue() -> None:
    files = sorted(SCHEMAS.glob("kueue.x-k8s.io_*.yaml"))
    if not files:
        pytest.skip(f"{SCHEMAS}: no schemas of Kueue")
    read = [yaml.load(file.read_text(), yaml.CSafeLoader) for file in files]
    schemas = {
        (each["spec"]["names"]["kind"], version["name"]): version["schema"]["openAPIV3Schema"]
        for each in read
        for version in each["spec"]["versions"]
    }
    checked = [each for each in built("kueue") if each["apiVersion"].startswith("kueue")]
    for item in checked:
        schema = closed_schema(schemas[item["kind"], item["apiVersion"].rpartition("/")[2]])
        schema["properties"]["metadata"] = {"type": "object"}
        jsonschema.validate(item, schema)
        broken = {**item, "spec": {**item["spec"], "unknownKey": 1}}
        with pytest.raises(jsonschema.ValidationError, match="unknownKey"):
            jsonschema.validate(broken, schema)
    assert len(checked) == 3


# ---- mistakes made on purpose


def worker_spec(objects: Objects) -> dict[str, Any]:
    return dict(next(each for each in objects if each["metadata"]["name"] == "workers"))["spec"]


def worker_pod(objects: Objects) -> dict[str, Any]:
    return dict(worker_spec(objects)["template"]["spec"])


def first(objects: Objects) -> dict[str, Any]:
    return dict(worker_pod(objects)["containers"][0])


def drop(objects: Objects, name: str) -> None:
    objects[:] = [each for each in objects if each["metadata"]["name"] != name]


MISTAKES: dict[str, tuple[Callable[[Objects], Any], str]] = {
    "wrong image user": (lambda o: worker_pod(o)["securityContext"].update(runAsUser=1001), "not that of the image"),
    "missing claim": (lambda o: drop(o, "kd-runs"), "claim kd-runs is not there"),
    "plain password": (
        lambda o: first(o)["env"].append({"name": "OPTUNA_STORAGE", "value": "postgresql://kd:geheim@postgres/kd"}),
        "plain secret in OPTUNA_STORAGE",
    ),
    "unmapped code": (lambda o: worker_spec(o)["podFailurePolicy"]["rules"].pop(0), "exit code 3 has no rule"),
    "parallelism above completions": (lambda o: worker_spec(o).update(parallelism=5), "parallelism 5"),
    "missing grace": (
        lambda o: worker_spec(o)["template"]["spec"].pop("terminationGracePeriodSeconds"),
        "no grace period",
    ),
    "writable root": (lambda o: first(o)["securityContext"].update(readOnlyRootFilesystem=False), "writable root"),
    "wrong secret name": (
        lambda o: worker_pod(o)["volumes"][0]["secret"].update(secretName="kd-secret"),
        "Secret kd-secret ['storage_url'] is not there",
    ),
    "wrong API version": (lambda o: o[0].update(apiVersion="batch/v1beta1"), "API version batch/v1beta1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_meaning_is_caught(mistake: str) -> None:
    objects = copy.deepcopy(built("postgres"))
    change, expected = MISTAKES[mistake]
    change(objects)
    assert any(expected in text for text in problems(objects)), problems(objects)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_an_unknown_key_and_an_unknown_version_are_caught(version: str) -> None:
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: the extra `test` has it")
    (job,) = copy.deepcopy([each for each in built("base") if each["metadata"]["name"] == "workers"])
    job["spec"]["parallel"] = 4
    with pytest.raises(Exception, match="parallel"):
        validate(job, version)
    del job["spec"]["parallel"]
    with pytest.raises(Exception):  # noqa: B017, PT011 - the package's own error has an empty text
        validate({**job, "apiVersion": "batch/v1beta1"}, version)


# ---- the page and the proxy


def test_the_page_s_commands_name_files_that_there_are_and_commands_of_the_program() -> None:
    for file in re.findall(r"(?<![\w/])deploy/(?!dashboard)[\w./-]+", PAGE):
        assert (ROOT / file.rstrip(".")).exists() or "/mine" in file, file  # the reader's own
    lines = [line for line in PAGE.splitlines() if "python -m search" in line and line.startswith("$")]
    assert lines
    for line in lines:
        words = shlex.split(line.partition("python -m search")[2].partition(" >")[0])
        parser(words).parse_args(words)
    for overlay in re.findall(r"apply -k deploy/kubernetes/([\w-]+)", PAGE):
        assert overlay in (*OVERLAYS, "mine")
    assert {f"`{overlay}`" for overlay in (*OVERLAYS, "metrics")} <= set(re.findall(r"^\| (`[\w-]+`)", PAGE, re.M))


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")
def test_the_proxy_of_the_pod_asks_for_the_dashboard_beside_it(tmp_path: Path) -> None:
    """The site is that of compose as it is; the map behind it leads into the pod."""
    (maps,) = [each for each in built("base") if each["metadata"]["name"] == "kd-proxy"]
    text = maps["data"]["nginx.conf"].replace("/etc/nginx/conf.d/*.conf", str(tmp_path / "site.conf"))
    (tmp_path / "htpasswd").write_text("")
    site = (ROOT / "deploy/nginx/dashboard.conf").read_text()
    (tmp_path / "site.conf").write_text(site.replace("/run/secrets/htpasswd", str(tmp_path / "htpasswd")))
    text = re.sub(r"(?<![\w/])/tmp/", f"{tmp_path}/", text).replace("/dev/stdout", str(tmp_path / "log"))
    (tmp_path / "nginx.conf").write_text(text)
    done = subprocess.run(
        [str(NGINX), "-t", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (dashboard,) = [each for each in built("base") if each["kind"] == "Deployment"]
    args = dashboard["spec"]["template"]["spec"]["containers"][0]["args"]
    port = next(word.partition("=")[2] for word in args if word.startswith("--port"))
    assert f"default 127.0.0.1:{port};" in text
