"""Commands of the credential broker."""

from __future__ import annotations

import click

from kheish.cli.daemon_client import DaemonClient, pass_client
from kheish.cli.root import CommandGroup


@click.group(cls=CommandGroup)
def auth() -> None:
    """See who borrowed which credential, and take it back."""


@auth.command()
@click.argument("subject_id", metavar="SUBJECT")
@pass_client
def subject(client: DaemonClient, subject_id: str) -> None:
    """Show what a subject, such as session:demo, has borrowed."""
    client.show("GET", "runtime", "auth", "subjects", subject_id)


@auth.command("revoke-subject")
@click.argument("subject_id", metavar="SUBJECT")
@pass_client
def revoke_subject(client: DaemonClient, subject_id: str) -> None:
    """Block a subject for good: its next model call fails."""
    client.show("POST", "runtime", "auth", "subjects", subject_id, "revoke")


@auth.command()
@click.argument("lease_id", metavar="LEASE")
@pass_client
def lease(client: DaemonClient, lease_id: str) -> None:
    """Show one lease that has not expired."""
    client.show("GET", "runtime", "auth", "leases", lease_id)


@auth.command("revoke-lease")
@click.argument("lease_id", metavar="LEASE")
@pass_client
def revoke_lease(client: DaemonClient, lease_id: str) -> None:
    """End one lease; the next call borrows a new one."""
    client.show("POST", "runtime", "auth", "leases", lease_id, "revoke")


@auth.command("revoke-slot")
@click.argument("slot_id", metavar="SLOT")
@pass_client
def revoke_slot(client: DaemonClient, slot_id: str) -> None:
    """Block a slot until `secrets set` writes it again."""
    client.show("POST", "runtime", "auth", "slots", slot_id, "revoke")
