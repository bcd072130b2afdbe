"""The documentation, held to the code."""

import re
from pathlib import Path

import pytest
import typer.main

from flows.cli import app
from flows.config import Settings
from serve.settings import ServeSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _commands(command=None, prefix=""):
    command = command or typer.main.get_command(app)
    for name, sub in getattr(command, "commands", {}).items():
        path = f"{prefix}{name}"
        yield from _commands(sub, f"{path} ") if hasattr(sub, "commands") else [(path, sub)]


def settings_reference() -> str:
    """What docs/settings.md must say: every field with its default and its meaning."""
    lines = []
    for step, section in Settings.model_fields.items():
        model = section.annotation
        lines += [f"## `{step}`", "", model.__doc__ or "", "", "| field | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "" if field.default in (None, ()) else f"`{field.default}`"
            meaning = " ".join((field.description or "").split())
            lines.append(f"| `{name}` | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


@pytest.mark.parametrize(("name", "command"), list(_commands()))
def test_every_command_and_option_says_what_it_is(name, command):
    assert command.help, name
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("name", [name for name, _ in _commands()])
def test_every_command_is_in_the_readme(name):
    assert f"sightflow {name}" in README


def test_settings_are_documented_as_they_are():
    assert settings_reference() in (ROOT / "docs" / "settings.md").read_text()


def test_settings_of_the_endpoint_are_documented_as_they_are():
    page = (ROOT / "docs" / "endpoint.md").read_text()
    for name, field in ServeSettings.model_fields.items():
        assert re.search(rf"^\| `{name}` \|.*\| {re.escape(' '.join(field.description.split()))} \|$", page, re.M), name


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "flows/demo/weights/README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name + "/" + page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
