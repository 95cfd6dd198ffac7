"""docker/ as data: the services, what they interpolate, and what the Dockerfiles say."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE_TEXT = (DOCKER / "compose.yaml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
COORDINATOR = sorted(name for name, service in SERVICES.items() if "FAI_SECRET_KEY" in service.get("environment", {}))
INTERPOLATION = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<rule>:[?-])?(?P<rest>[^}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction of a Dockerfile, its lines joined."""

    word: str
    rest: str


def read_dockerfile(name: str) -> list[Instruction]:
    text = (DOCKER / name).read_text("utf-8")
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = [line.strip() for line in kept.replace("\\\n", " ").splitlines() if line.strip()]
    return [Instruction(word=line.split()[0].upper(), rest=line.split(maxsplit=1)[1]) for line in lines]


def read_env_example() -> dict[str, str]:
    lines = (DOCKER / ".env.example").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolate(text: str, values: dict[str, str]) -> str:
    """What Compose makes of `text`."""

    def value(match: re.Match[str]) -> str:
        default = match["rest"] if match["rule"] == ":-" else ""
        return values.get(match["name"]) or default

    return INTERPOLATION.sub(value, text).replace("$$", "$")
