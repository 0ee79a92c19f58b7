"""Commands of the daemon itself: serve, status, capabilities, events."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from kheish.cli.daemon_client import DaemonClient, pass_client, translated
from kheish.cli.failures import Failure
from kheish.cli.global_options import global_options
from kheish.cli.output import print_json, printable
from kheish.cli.root import CommandGroup, CommandLeaf
from kheish.cli.streams import cursor_option, print_events
from kheish.daemon.server_side import serve_main
from kheish.runtime.cli import PERMISSION_MODES

_PROVIDERS = ("anthropic", "google", "openai", "openrouter", "xai", "openai_compatible")


class _CommaList(click.ParamType[str]):
    """One value of a list that its environment variable separates with commas."""

    name = "origin"
    envvar_list_splitter = ","

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value.strip()


def _option(flag: str, env: str | None, help_text: str, *, kind: click.ParamType[object] | None = None) -> click.Option:
    return click.Option([flag], envvar=env, show_envvar=env is not None, type=kind, help=help_text)


def _budget_options() -> tuple[click.Option, ...]:
    scopes = (
        ("total", "of each route with each model in the period.  [default: 1000000]", "  [default: 500]"),
        ("session", "of each session.  [default: none]", ""),
        ("run", "of each run.  [default: none]", ""),
    )
    made = []
    for scope, text, default in scopes:
        flag, env = f"--model-budget-max-{scope}", f"KHEISH_MODEL_BUDGET_MAX_{scope.upper()}"
        tokens, cost = click.IntRange(min=0), click.FloatRange(min=0)
        made.append(_option(f"{flag}-output-tokens", f"{env}_OUTPUT_TOKENS", f"Output tokens {text}", kind=tokens))
        dollars = f"The same in US dollars.{default}"
        made.append(_option(f"{flag}-cost-usd", f"{env}_COST_USD", dollars, kind=cost))
    period = "How far back total budgets count; 0: since ever.  [default: 24]"
    hours = click.IntRange(min=0)
    return (*made, _option("--model-budget-period-hours", "KHEISH_MODEL_BUDGET_PERIOD_HOURS", period, kind=hours))


SERVE_OPTIONS: tuple[click.Parameter, ...] = (
    _option("--bind", "KHEISH_BIND", "Address and port; port 0 picks a free one.  [default: 127.0.0.1:4000]"),
    _option(
        "--state-root",
        "KHEISH_STATE_ROOT",
        "Where state is kept.  [default: .kheish-daemon]",
        kind=click.Path(),
    ),
    _option(
        "--workspace-root",
        "KHEISH_WORKSPACE_ROOT",
        "What the file tools may touch.  [default: this directory]",
        kind=click.Path(),
    ),
    _option("--routes-file", "KHEISH_ROUTES_FILE", "Model routes (TOML).", kind=click.Path()),
    _option("--default-route", "KHEISH_DEFAULT_ROUTE", "Instead of the file's default."),
    click.Option(
        ["--allow-empty-routes"],
        is_flag=True,
        envvar="KHEISH_ALLOW_EMPTY_ROUTES",
        show_envvar=True,
        help="Start without any model route.",
    ),
    _option(
        "--http-auth-mode",
        "KHEISH_HTTP_AUTH_MODE",
        "auto asks for tokens when an admin token is given.  [default: auto]",
        kind=click.Choice(["auto", "bearer", "none"]),
    ),
    _option("--http-admin-token", "KHEISH_DAEMON_ADMIN_TOKEN", "Opens everything; better the file."),
    _option(
        "--http-admin-token-file", "KHEISH_DAEMON_ADMIN_TOKEN_FILE", "Read again for each request.", kind=click.Path()
    ),
    _option("--http-readonly-token", "KHEISH_DAEMON_READONLY_TOKEN", "Opens what only reads; better the file."),
    _option(
        "--http-readonly-token-file",
        "KHEISH_DAEMON_READONLY_TOKEN_FILE",
        "Read again for each request.",
        kind=click.Path(),
    ),
    click.Option(
        ["--http-cors-allow-origin"],
        multiple=True,
        envvar="KHEISH_HTTP_CORS_ALLOW_ORIGINS",
        show_envvar=True,
        type=_CommaList(),
        help="Only these loopback origins; repeat, or separate with commas.",
    ),
    _option(
        "--audit-signing-key-file",
        "KHEISH_EXTERNAL_ACTION_AUDIT_SIGNING_KEY_FILE",
        "Signs external actions.  [default: audit-signing.key in the state root]",
        kind=click.Path(),
    ),
    _option("--http-max-body-bytes", None, "Larger requests get 413.", kind=click.IntRange(min=1)),
    _option(
        "--event-history-capacity",
        "KHEISH_EVENT_HISTORY_CAPACITY",
        "Events kept for replay.",
        kind=click.IntRange(min=1, max=262_144, clamp=True),
    ),
    _option("--log-format", "KHEISH_LOG_FORMAT", "Log lines.", kind=click.Choice(["auto", "pretty", "json"])),
    _option(
        "--log-level",
        "KHEISH_LOG_LEVEL",
        "Least severe line that is logged.",
        kind=click.Choice(["error", "warn", "info", "debug", "trace"]),
    ),
    _option(
        "--permission-mode",
        None,
        "Of a new state root; later `runtime` decides.",
        kind=click.Choice([*PERMISSION_MODES]),
    ),
    _option(
        "--restart-policy",
        "KHEISH_RESTART_POLICY",
        "Fate of a run that was running when the daemon died.  [default: resume]",
        kind=click.Choice(["resume", "interrupt"]),
    ),
    _option("--drain-timeout-ms", None, "Time to stop in.  [default: 8000]", kind=click.IntRange(min=0)),
    *_budget_options(),
    _option(
        "--provider",
        "KHEISH_PROVIDER",
        "Single route, without a file.  [default: anthropic]",
        kind=click.Choice(_PROVIDERS),
    ),
    _option("--model", "KHEISH_MODEL", "Model of the single route."),
    _option("--api-key", None, "Key of the single route; better KHEISH_API_KEY or the provider's variable."),
    _option("--anthropic-base-url", "ANTHROPIC_BASE_URL", "Another Messages server."),
    _option("--google-api-key", None, "Key of the single route when it is google; better GOOGLE_API_KEY."),
    _option("--google-base-url", "GOOGLE_BASE_URL", "Another Gemini server."),
    _option("--xai-base-url", "XAI_BASE_URL", "Another xAI server."),
    _option("--openai-base-url", "OPENAI_BASE_URL", "Another Responses server."),
    _option("--openrouter-base-url", "OPENROUTER_BASE_URL", "Another OpenRouter."),
    _option("--openai-compatible-base-url", "OPENAI_COMPATIBLE_BASE_URL", "Any chat-completions server."),
    _option("--anthropic-version", "ANTHROPIC_VERSION", "Value of the anthropic-version header."),
    click.Option(["--anthropic-beta-header"], multiple=True, help="Repeat, or separate with commas."),
    _option("--openai-organization", "OPENAI_ORGANIZATION", "Sent along."),
    _option("--openai-project", "OPENAI_PROJECT", "Sent along."),
)


def _serve(**options: object) -> None:
    mode = options["permission_mode"]
    options["permission_mode"] = None if mode is None else PERMISSION_MODES[str(mode)]
    raise click.exceptions.Exit(serve_main()(options))


serve = CommandLeaf(
    "serve",
    params=[*SERVE_OPTIONS],
    callback=_serve,
    help="Run the daemon until a signal stops it. A flag beats its environment variable.",
)


def _up(no_open: bool, **options: object) -> None:
    main = serve_main()
    from kheish.daemon.onboarding import ensure_master_key, state_root_of, welcome

    mode = options["permission_mode"]
    options["permission_mode"] = None if mode is None else PERMISSION_MODES[str(mode)]
    options["allow_empty_routes"] = True
    try:
        ensure_master_key(state_root_of(options), os.environ)
    except OSError as error:
        raise Failure(f"the master key of the secret store cannot be made: {error.strerror}") from None

    def ready(bind_addr: str, has_routes: bool) -> None:
        click.echo(welcome(bind_addr, has_routes=has_routes))

    raise click.exceptions.Exit(main(options, on_ready=ready))


up = CommandLeaf(
    "up",
    params=[
        *SERVE_OPTIONS,
        click.Option(
            ["--no-open"],
            is_flag=True,
            envvar="KHEISH_NO_OPEN",
            show_envvar=True,
            help="Open no browser. This release opens none: it has no console yet.",
        ),
    ],
    callback=_up,
    help="Serve, also without any model route, and with a master key that is made once.",
)


@click.command(cls=CommandLeaf)
@pass_client
def status(client: DaemonClient) -> None:
    """Show everything an operator looks at first."""
    client.show("GET", "status")


@click.command(cls=CommandLeaf)
@pass_client
def capabilities(client: DaemonClient) -> None:
    """Show what the daemon can do."""
    client.show("GET", "capabilities")


@click.group(cls=CommandGroup, invoke_without_command=True)
@click.option("--cors-origin", metavar="ORIGIN", help="Also ask whether pages of this origin may call the daemon.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on a terminal, too.")
@click.pass_context
def doctor(context: click.Context, cors_origin: str | None, as_json: bool) -> None:
    """Check the daemon from outside, and say what to do about what is wrong.

    On a terminal it prints a line per check, elsewhere JSON. Ends with status 1 when a check is an error.
    """
    if context.invoked_subcommand is not None:
        return
    # Late: HTTP takes longer to import than `--help` may take.
    from kheish.daemon.doctor import examine, plain
    from kheish.daemon.doctor_probes import ask

    options = global_options(context)
    with translated():
        facts = ask(options.base_url, options.token(), origin=cors_origin)
    view = examine(facts)
    if sys.stdout.isatty() and not as_json and "output" not in options.flags:
        click.echo("\n".join(printable(line) for line in plain(view)))
    else:
        print_json(view, options.output)
    if not view["ok"]:
        raise Failure("the daemon is not well: look at errors and the actions of checks")


@doctor.command()
@click.option("--routes-file", type=click.Path(), help="Check this file; no daemon is needed.")
@click.option("--default-route", help="As for `serve`; with --routes-file.")
@click.option("--route", "only", metavar="ID", help="Look at one route.")
@click.option("--check-auth", is_flag=True, help="Is there a usable key for each route?")
@click.option("--check-references", is_flag=True, help="Do sessions or runs want routes that are gone?")
@click.option("--canary", is_flag=True, help="Ask each route's model for one short answer. This costs money.")
@click.option("--canary-timeout-ms", type=click.IntRange(min=1), default=90_000, show_default=True)
@click.pass_context
def routes(
    context: click.Context,
    routes_file: str | None,
    default_route: str | None,
    only: str | None,
    check_auth: bool,
    check_references: bool,
    canary: bool,
    canary_timeout_ms: int,
) -> None:
    """Check the routes of a running daemon, or a file before one meets it. Ends with status 1 when one is wrong."""
    from kheish.daemon import doctor_routes

    options = global_options(context)
    if routes_file is None:
        from kheish.daemon.doctor_live_routes import LiveRoutes

        with contextlib.closing(DaemonClient(options)) as client:
            live = LiveRoutes(client, only=only)
            timeout = canary_timeout_ms if canary else None
            view = live.examine(auth=check_auth, references=check_references, canary_ms=timeout)
    elif canary or check_references:
        view = doctor_routes.refused(canary=canary)
    else:
        view = doctor_routes.lint(routes_file, os.environ, default_route=default_route, check_auth=check_auth)
    print_json(view, options.output)
    if not view["ok"]:
        raise Failure("the routes cannot be used as they are: look at errors")


@click.group(cls=CommandGroup)
def events() -> None:
    """Watch what happens in the daemon."""


events.aliases.update({"watch": "stream", "follow": "stream"})


@events.command()
@click.option("--session-id", help="Only events of this session.")
@click.option("--run-id", help="Only events of this run.")
@cursor_option
@pass_client
def stream(client: DaemonClient, session_id: str | None, run_id: str | None, cursor: int | None) -> None:
    """Print events, one JSON object per line, as they come."""
    print_events(client, session_id=session_id, run_id=run_id, cursor=cursor)


@click.command("help", cls=CommandLeaf)
@click.pass_context
def help_(context: click.Context) -> None:
    """Show every command."""
    root = context.find_root()
    click.echo(root.get_help())
