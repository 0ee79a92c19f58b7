"""Every command of `kheish-daemon`: one line each, imported when used."""

from __future__ import annotations

from kheish.cli.root import CommandEntry

COMMANDS = (
    CommandEntry(
        name="serve", target="kheish.daemon.cli:serve", help="Run the daemon (the default).", aliases=("start",)
    ),
    CommandEntry(name="up", target="kheish.daemon.cli:up", help="Run the daemon on a machine that has nothing yet."),
    CommandEntry(name="status", target="kheish.daemon.cli:status", help="Everything an operator looks at first."),
    CommandEntry(name="doctor", target="kheish.daemon.cli:doctor", help="Check the daemon, and say what to do."),
    CommandEntry(name="capabilities", target="kheish.daemon.cli:capabilities", help="What the daemon can do."),
    CommandEntry(name="events", target="kheish.daemon.cli:events", help="Watch what happens in the daemon."),
    CommandEntry(
        name="sessions",
        target="kheish.sessions.cli:sessions",
        help="Open sessions, give them input, look at them.",
        aliases=("session",),
    ),
    CommandEntry(
        name="runs",
        target="kheish.runs.cli:runs",
        help="Look at runs, wait for them, stop them.",
        aliases=("run",),
    ),
    CommandEntry(
        name="approvals",
        target="kheish.approvals.cli:approvals",
        help="Tool calls that wait for a human.",
        aliases=("approval",),
    ),
    CommandEntry(
        name="questions",
        target="kheish.questions.cli:questions",
        help="Questions that agents asked and wait for.",
        aliases=("question",),
    ),
    CommandEntry(name="runtime", target="kheish.runtime.cli:runtime", help="Read and change daemon-wide settings."),
    CommandEntry(
        name="secrets",
        target="kheish.secrets.cli:secrets",
        help="Keep the keys that routes use.",
        aliases=("secret",),
    ),
    CommandEntry(name="state", target="kheish.state.cli:state", help="Check, copy and tidy up what a daemon keeps."),
    CommandEntry(
        name="audit",
        target="kheish.external_actions.cli:audit",
        help="Verify and export what runs did outside of the daemon.",
    ),
    CommandEntry(
        name="completion", target="kheish.cli.completion:completion", help="Print what makes a shell complete commands."
    ),
    CommandEntry(name="help", target="kheish.daemon.cli:help_", help="Show this list."),
)
