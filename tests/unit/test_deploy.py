"""What deploy/ says must be so: of the settings, of the drain, of the image, and to Kubernetes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from activities.registry import Registry
from runtime.local import MAX_BUFFERED_EVENTS, MAX_POLLS_PER_SECOND, POLLED_QUEUES
from runtime.settings import VARIABLES, Settings
from worker import LEAVE_SECONDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

OLDEST_KUBERNETES = "1.29"
"""`autoscaling/v2` and `policy/v1` are older; what is tested here is that nothing newer is needed."""

DRAIN = "PERDURE_DRAIN_SECONDS"

OF_A_BUILD = ("worker.yaml", "disruption.yaml", "scaling.yaml")

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = {
    f"{document['kind']} {document['metadata']['name']}": document
    for file in sorted(KUBERNETES.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for document in yaml.safe_load_all(file.read_text())
}
POD = MANIFESTS["Deployment perdure-worker-v1"]["spec"]["template"]["spec"]
CONFIG = MANIFESTS["ConfigMap perdure-worker"]["data"]


def image_environment() -> dict[str, str]:
    """The variables that the image sets."""
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    [line] = [line for line in lines if line.startswith("ENV ")]
    return dict(pair.split("=", 1) for pair in line.removeprefix("ENV ").split())


def written(instruction: str) -> list[str]:
    """The arguments of each instruction of a kind in the Dockerfile."""
    return re.findall(rf"^{instruction} (.+)$", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_fits_the_schema_of_kubernetes(name: str) -> None:
    """Every field is known, and of the right type, to the oldest version and to the newest."""
    kubernetes_validate.validate(MANIFESTS[name], OLDEST_KUBERNETES, strict=True)
    kubernetes_validate.validate(MANIFESTS[name], kubernetes_validate.latest_version(), strict=True)


def test_kustomization_names_every_manifest() -> None:
    """What lies there is applied."""
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert sorted(named) == sorted({file.name for file in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"})


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(image_environment(), id="image"),
        pytest.param(COMPOSE["services"]["worker"]["environment"], id="compose"),
        pytest.param(CONFIG, id="kubernetes"),
    ],
)
def test_deployed_settings_are_ones_that_a_worker_takes(environment: dict[str, Any]) -> None:
    """A name that is unknown, or a value that is wrong, would end every worker at its start."""
    given = {name: value for name, value in environment.items() if value is not None}
    loaded = Settings.load(given)
    fields = {field for field, name in VARIABLES.items() if name in given}
    assert {name for name in given if name.startswith("PERDURE_")} <= {VARIABLES[field] for field in fields}
    assert loaded.model_fields_set >= fields


def test_deployed_workers_have_time_to_drain() -> None:
    """Whatever stops a worker waits for the drain and for steps that do not end, before it kills."""
    drains = [float(CONFIG["PERDURE_DRAIN_SECONDS"]), float(COMPOSE["services"]["worker"]["environment"][DRAIN])]
    waits = [POD["terminationGracePeriodSeconds"], float(COMPOSE["services"]["worker"]["stop_grace_period"][:-1])]
    assert [wait > drain + LEAVE_SECONDS for wait, drain in zip(waits, drains, strict=True)] == [True, True]


def test_probes_ask_where_the_image_answers() -> None:
    """Liveness and start ask whether the worker lives, readiness whether it serves."""
    [container] = POD["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    served = image_environment()
    assert served["PERDURE_HEALTH_ADDRESS"] == f"0.0.0.0:{ports['health']}"
    assert served["PERDURE_METRICS_ADDRESS"] == f"0.0.0.0:{ports['metrics']}"
    asked = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {
        "startupProbe": {"path": "/healthz", "port": "health"},
        "livenessProbe": {"path": "/healthz", "port": "health"},
        "readinessProbe": {"path": "/readyz", "port": "health"},
    }
    assert f"http://127.0.0.1:{ports['health']}/healthz" in DOCKERFILE


def test_build_is_written_where_the_commands_of_the_docs_change_it() -> None:
    """Three substitutions make the next build of all three files, and leave nothing of the first in them."""
    text = "".join((KUBERNETES / name).read_text() for name in OF_A_BUILD)
    substitutions = re.findall(r"-e 's/([^/']+)/([^/']+)/'", (ROOT / "docs" / "deploy.md").read_text())
    assert len(substitutions) == 3
    for old, new in substitutions:
        text = text.replace(old, new)
    assert "v1" not in text.replace("apps/v1", "").replace("policy/v1", "")
    deployment, budget, autoscaler = yaml.safe_load_all(text)
    assert deployment["spec"]["selector"] == budget["spec"]["selector"]
    assert deployment["metadata"]["name"] == autoscaler["spec"]["scaleTargetRef"]["name"] == "perdure-worker-v2"


def test_secrets_are_only_referred_to() -> None:
    """No manifest holds one, and compose takes them from outside."""
    assert "Secret" not in {document["kind"] for document in MANIFESTS.values()}
    assert not {"TEMPORAL_API_KEY", "PERDURE_CODEC_KEY", "OPENAI_API_KEY"} & CONFIG.keys()
    environments = [service.get("environment", {}) for service in COMPOSE["services"].values()]
    secrets = [
        value
        for environment in environments
        for name, value in environment.items()
        if re.search("PASSWORD|PWD|KEY", name)
    ]
    assert [value for value in secrets if value is not None and not value.startswith("${")] == []


def test_images_are_pinned() -> None:
    """A tag names a version, so that what was tried is what runs."""
    services = COMPOSE["services"].values()
    images = [*written("FROM"), *(service["image"] for service in services), POD["containers"][0]["image"]]
    assert [image for image in images if not re.search(r":(v?\d|\$\{TAG)", image)] == []


def test_image_holds_what_the_wheel_holds_and_runs_as_a_user_of_its_own() -> None:
    """Everything that the package is built from is copied in, and reaches the build at all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    needed = {*wheel, "pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    copied = {word for line in written("COPY") if not line.startswith("--") for word in line.split()[:-1]}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert (copied, sent) == (needed, needed)
    assert (written("USER"), written("STOPSIGNAL")) == (["10001:10001"], ["SIGTERM"])
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["fsGroup"]) == (10001, 10001)
    [entrypoint] = written("ENTRYPOINT")
    assert yaml.safe_load(entrypoint)[0] in project["project"]["scripts"]


def test_dynamic_configuration_is_that_of_the_embedded_server() -> None:
    """What was measured with `--local` holds for the server of compose.yaml."""
    deployed = yaml.safe_load((DEPLOY / "temporal" / "dynamicconfig.yaml").read_text())
    assert deployed == {
        "history.maximumBufferedEventsBatch": [{"value": MAX_BUFFERED_EVENTS}],
        **{f"history.{queue}ProcessorMaxPollRPS": [{"value": MAX_POLLS_PER_SECOND}] for queue in POLLED_QUEUES},
        "matching.enableFairness": [{"value": True}],
    }


def test_deployed_agents_can_be_served(tmp_path: Path) -> None:
    """The first run of either deployment finds its agent."""
    mounted = tmp_path / "agents.toml"
    mounted.write_text(MANIFESTS["ConfigMap perdure-agents"]["data"]["agents.toml"])
    assert [Registry.load(file).names() for file in (mounted, DEPLOY / "agents.toml")] == [("echo",), ("echo",)]
