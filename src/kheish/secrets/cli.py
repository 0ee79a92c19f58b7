"""Commands of secrets: over HTTP, or on the files of a state root."""

from __future__ import annotations

import base64
import os
import secrets as entropy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from kheish.cli.daemon_client import DaemonClient, pass_client
from kheish.cli.failures import Failure, Unreachable
from kheish.cli.offline import locally
from kheish.cli.options import bundled
from kheish.cli.output import JsonObject, JsonValue
from kheish.cli.root import CommandGroup

F = TypeVar("F", bound=Callable[..., object])

_PROVIDERS = {
    "generic": "generic",
    "anthropic": "anthropic",
    "google": "google",
    "openai": "open_ai",
    "openrouter": "open_router",
    "xai": "x_ai",
}
"""Words of the command line, and of the wire."""
_SOURCES = "--value, --from-env, --from-file, --stdin"


@click.group(cls=CommandGroup)
def secrets() -> None:
    """Keep the keys that routes use; nothing ever prints one."""


def _where(*, offline: bool, state_root: str | None) -> Path | None:
    if not offline:
        return None
    if not state_root:
        raise Failure("--offline needs the state root: give --state-root or set KHEISH_STATE_ROOT")
    return Path(state_root).absolute()


def place(function: F) -> F:
    """`--offline --state-root`: the state root to work on, or None for the daemon."""
    return bundled(
        "root",
        _where,
        {
            "offline": click.option("--offline", is_flag=True, help="Work on the files, without a daemon."),
            "state_root": click.option(
                "--state-root",
                envvar="KHEISH_STATE_ROOT",
                metavar="DIR",
                type=click.Path(),
                help="For --offline.",
            ),
        },
    )(function)


def _state_root(function: F) -> F:
    return click.option(
        "--state-root",
        envvar="KHEISH_STATE_ROOT",
        metavar="DIR",
        type=click.Path(),
        required=True,
        help="Of a daemon that is stopped.",
    )(function)


def _remotely(client: DaemonClient, method: str, *more: str, body: JsonObject | None = None) -> JsonValue:
    try:
        return client.call(method, "runtime", "secrets", *more, body=body)
    except Unreachable as error:
        hint = "Is the daemon down? Then use --offline with --state-root."
        raise Failure(f"{error.message}. {hint}") from None


@secrets.command()
def generate() -> None:
    """Print a new master key: 32 random bytes as base64."""
    click.echo(base64.b64encode(entropy.token_bytes(32)).decode())


@secrets.command("list")
@place
@pass_client
def list_(client: DaemonClient, root: Path | None) -> None:
    """Show what is kept."""
    if root is None:
        client.print(_remotely(client, "GET"))
        return
    from kheish.secrets import offline

    client.print(locally(lambda: offline.list_slots(root)))


@secrets.command()
@click.argument("ref")
@place
@pass_client
def get(client: DaemonClient, ref: str, root: Path | None) -> None:
    """Show one slot, without its secret."""
    if root is None:
        client.print(_remotely(client, "GET", ref))
        return
    from kheish.secrets import offline

    client.print(locally(lambda: offline.get_slot(root, ref)))


def _value(*, value: str | None, from_env: str | None, from_file: str | None, stdin: bool) -> str:
    given = [source for source in (value, from_env, from_file) if source is not None]
    if len(given) + stdin != 1:
        raise click.UsageError(f"give exactly one of {_SOURCES}")
    if value is not None:
        return value
    if from_env is not None:
        found = os.environ.get(from_env)
        if found is None:
            raise Failure(f"the environment variable {from_env} is not set")
        return found
    return _text(_read(from_file), from_file or "standard input")


def _read(path: str | None) -> bytes:
    if path is None:
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from None


def _text(content: bytes, origin: str) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise Failure(f"{origin} is not UTF-8 text") from None
    # One line end is the editor's, not the secret's.
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def source(function: F) -> F:
    """The four ways to hand over a secret, as `value`."""
    return bundled(
        "value",
        _value,
        {
            "value": click.option("--value", help="The secret itself; other users can see it in the process list."),
            "from_env": click.option("--from-env", metavar="NAME", help="Take it from a variable."),
            "from_file": click.option("--from-file", metavar="PATH", type=click.Path(), help="Read it from a file."),
            "stdin": click.option("--stdin", is_flag=True, help="Read it from standard input."),
        },
    )(function)


@secrets.command("set")
@click.argument("ref")
@click.option("--provider", type=click.Choice(list(_PROVIDERS)), required=True, help="Whose key it is.")
@source
@click.option("--organization", help="openai only.")
@click.option("--project", help="openai only.")
@place
@pass_client
def set_(
    client: DaemonClient,
    ref: str,
    provider: str,
    value: str,
    organization: str | None,
    project: str | None,
    root: Path | None,
) -> None:
    """Create or rotate a slot."""
    record = _record(ref, provider, value, {"organization": organization, "project": project})
    if root is None:
        client.print(_remotely(client, "POST", body=record))
        return
    from kheish.secrets import offline

    client.print(locally(lambda: offline.set_slot(root, record)))


def _record(ref: str, provider: str, value: str, named: dict[str, str | None]) -> JsonObject:
    given: JsonObject = {name: text for name, text in named.items() if text is not None}
    if given and provider != "openai":
        raise click.UsageError("--organization and --project belong to --provider openai")
    if provider == "generic":
        return {"slot_id": ref, "provider": "generic", "mode": "opaque_secret", "state": {"value": value}}
    state: JsonObject = {"kind": "api_key", "api_key": value, **given}
    return {"slot_id": ref, "provider": _PROVIDERS[provider], "mode": "api_key", "state": state}


@secrets.command()
@click.argument("ref")
@place
@pass_client
def delete(client: DaemonClient, ref: str, root: Path | None) -> None:
    """Remove a slot."""
    if root is None:
        client.print(_remotely(client, "DELETE", ref))
        return
    from kheish.secrets import offline

    accepted = locally(lambda: offline.delete_slot(root, ref))
    client.print({"accepted": accepted})


@secrets.command()
@click.option(
    "--new-key-file",
    required=True,
    metavar="PATH",
    type=click.Path(),
    help="Holds the new key; readable by its owner only.",
)
@_state_root
@pass_client
def rekey(client: DaemonClient, new_key_file: str, state_root: str) -> None:
    """Seal the store with another master key; the daemon must be stopped.

    The present key comes from KHEISH_AUTH_STORE_MASTER_KEY or KHEISH_AUTH_STORE_MASTER_KEY_FILE.
    """
    from kheish.secrets import offline

    client.print(locally(lambda: offline.rekey(Path(state_root), Path(new_key_file))))


@secrets.command()
@click.option("--envelope-v1", is_flag=True, required=True, help="The form earlier daemons read.")
@click.option(
    "--to", "target", required=True, metavar="PATH", type=click.Path(), help="A file that does not exist yet."
)
@_state_root
@pass_client
def export(client: DaemonClient, envelope_v1: bool, target: str, state_root: str) -> None:
    """Write the store for another daemon, sealed with the same master key."""
    from kheish.secrets import offline

    client.print(locally(lambda: offline.export_v1(Path(state_root), Path(target))))
