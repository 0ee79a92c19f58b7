"""Routes that were added over HTTP: kept as tables like those of a routes file, laid over the file's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import BadRequest, Problem
from kheish.providers.routes import Route, RouteInventory
from kheish.providers.tables import RoutesError

log = structlog.get_logger(__name__)

ReadRoute = Callable[[str, JsonObject], Route]
"""Reads the table of a route as the routes file does; raises `RoutesError`."""
Tables = Mapping[str, JsonObject]


class RouteRefused(BadRequest):
    """The route cannot be used as it is given."""

    domain, code, status = "routes", "route_invalid", 400


class RouteIsDefault(Problem):
    """The default route cannot be removed."""

    domain, code, status = "routes", "route_is_default", 409


class RouteOfFile(Problem):
    """The route stands in the routes file."""

    domain, code, status = "routes", "route_of_file", 409


def checked(route_id: str, table: JsonObject, read: ReadRoute, inventory: RouteInventory) -> Route:
    """Read a new table and look up its secret.

    Raises:
        RouteRefused: it breaks a rule of routes files, holds a key, or names a secret that does not exist.
    """
    if "api_key" in table:
        raise RouteRefused("route: api_key: keys do not go into routes; set a secret and name it in auth_ref.")
    try:
        route = read(route_id, table)
    except RoutesError as problem:
        raise RouteRefused(problem.detail) from None
    if route.auth_ref is not None and inventory.keys.find(route.auth_ref) is None:
        raise RouteRefused(
            f"route: auth_ref: there is no secret named {route.auth_ref!r}. Set it first: "
            f"`kheish-daemon secrets set {route.auth_ref} ...`."
        )
    return route


def laid_over(base: RouteInventory, tables: Tables, read: ReadRoute) -> RouteInventory:
    """The routes of the file with those of ``tables``; a table that this daemon cannot read is left out and logged."""
    found = []
    for route_id, table in tables.items():
        try:
            found.append(read(route_id, table))
        except RoutesError as problem:
            log.warning("runtime.stored_route_unreadable", route_id=route_id, detail=problem.detail)
    return base.with_routes(found)


def tables_of(stored: JsonValue) -> dict[str, JsonObject]:
    """The tables as a revision keeps them."""
    if not isinstance(stored, dict):
        return {}
    return {route_id: table for route_id, table in stored.items() if isinstance(table, dict)}
