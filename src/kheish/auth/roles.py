"""Which role a request needs: reads that are listed here need `read_only`, everything else `admin`."""

from __future__ import annotations

from enum import StrEnum


class Access(StrEnum):
    """Roles of the control plane; `ADMIN` may do what `READ_ONLY` may."""

    READ_ONLY = "read_only"
    ADMIN = "admin"


_READS = frozenset({"GET", "HEAD"})
_ANY = "*"
_READ_ONLY = """
/metrics
/v1/docs
/v1/status
/v1/capabilities
/v1/openapi.json
/v1/runtime
/v1/runtime/subagent-policy/quotas
/v1/runtime/learning-policy
/v1/runtime/run-memory-policy
/v1/runtime/tool-limits
/v1/runtime/connectors
/v1/runtime/connectors/*/*
/v1/runtime/deliveries/metrics
/v1/events/stream
/v1/sessions
/v1/sessions/*
/v1/sessions/*/goal
/v1/sessions/*/events
/v1/sessions/*/stream
/v1/sessions/*/approvals
/v1/sessions/*/questions
/v1/sessions/*/memory-context
/v1/sessions/*/memory-search
/v1/sessions/*/permission-audits
/v1/sessions/*/skills
/v1/sessions/*/operator
/v1/sessions/*/tool-overrides
/v1/sessions/*/output-contract
/v1/sessions/*/input-contract
/v1/sessions/*/reply-targets
/v1/sessions/*/tasks
/v1/sessions/*/tasks/*
/v1/sessions/*/tasks/*/output
/v1/runs
/v1/runs/*
/v1/runs/*/events
/v1/runs/*/stream
/v1/runs/*/external-actions
/v1/approvals
/v1/questions
/v1/agents
/v1/agents/audit
/v1/agents/summaries
/v1/agents/*
/v1/agents/*/audit
/v1/agents/*/mailbox
/v1/agents/*/mailbox/dead-letter
/v1/assets
/v1/assets/*
/v1/assets/*/references
/v1/capture-alerts
/v1/capture-agents
/v1/capture-agents/*
/v1/observation-audit
/v1/observations
/v1/observations/*
/v1/observation-sources
/v1/observation-sources/*
/v1/observation-transcripts
/v1/observation-transcripts/*
/v1/observation-transcripts/*/segments
/v1/skills
/v1/skills/*
/v1/boards
/v1/boards/*
/v1/boards/*/revisions
/v1/boards/*/revisions/*
/v1/channels
/v1/channels/*
/v1/channels/*/members
/v1/channels/*/messages
/v1/channels/*/stimuli
/v1/channels/*/thread-work
/v1/channels/*/leases
/v1/projects
/v1/projects/*
/v1/projects/*/members
/v1/projects/*/channels
/v1/projects/*/tasks
/v1/projects/*/tasks/*
/v1/playbooks
/v1/playbooks/*
/v1/flows
/v1/flows/*
/v1/flows/*/stream
/v1/schedules
/v1/schedules/*
/v1/deliveries
/v1/deliveries/dead-letter
/v1/deliveries/*
/v1/derivations
/v1/derivations/*
/v1/learning-candidates
/v1/learning-candidates/*
/v1/learnings
/v1/learnings/*
/v1/learning-skills
/v1/learning-skills/*
/v1/personas
/v1/personas/*
"""
_SENSITIVE = """
/mcp
/v1/logs
/v1/assets/*/raw
/v1/runs/*/debug
/v1/runs/*/debug/artifacts/*
/v1/runtime/secrets
/v1/runtime/secrets/*
/v1/runtime/auth/accounts
/v1/runtime/auth/accounts/*
/v1/runtime/auth/subjects/*
/v1/runtime/auth/leases/*
/v1/runtime/hooks
/v1/runtime/revisions
/v1/stacks
/v1/stacks/*/ledger
"""
"""Reads that are meant for admins. Listed so that a new endpoint is classified on purpose."""

_Node = dict[str, "_Node"]
_LEAF = ""
"""Marks the end of a path; no real segment is empty."""


def _tree(paths: str) -> _Node:
    root: _Node = {}
    for path in paths.split():
        node = root
        for segment in path.split("/")[1:]:
            node = node.setdefault(segment, {})
        node[_LEAF] = {}
    return root


_READ_ONLY_TREE = _tree(_READ_ONLY)
_SENSITIVE_TREE = _tree(_SENSITIVE)


def required_access(method: str, path: str) -> Access:
    """The role for this request. ``path`` is raw: percent-encoded as it came, without the query.

    Unknown paths and every method that is not a read need `admin`.
    """
    if method in _READS and _fits(_READ_ONLY_TREE, path):
        return Access.READ_ONLY
    return Access.ADMIN


def is_classified(method: str, path: str) -> bool:
    """Somebody decided about this read; mutations are always for admins."""
    return method not in _READS or _fits(_READ_ONLY_TREE, path) or _fits(_SENSITIVE_TREE, path)


def _fits(tree: _Node, path: str) -> bool:
    nodes = [tree]
    for segment in path.split("/")[1:]:
        if not segment:
            return False
        nodes = [child for node in nodes for key in (segment, _ANY) if (child := node.get(key)) is not None]
    return any(_LEAF in node for node in nodes)
