"""Budgets of model calls: what a run, a session and a route may use, and what happens when it is used up."""

from __future__ import annotations

from dataclasses import field
from typing import Protocol

from kheish.core.messages import Usage
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.engine.entries import RouteRef
from kheish.engine.state import RunState


class BudgetExceeded(Problem):
    """A budget of model calls is used up."""

    domain, code, status = "runs", "model_budget_exceeded", 429


@value_class(frozen=True, kw_only=True, slots=True)
class Budget:
    """A ceiling; None: there is none."""

    max_output_tokens: int | None = None
    max_cost_usd: float | None = None

    @property
    def limits(self) -> bool:
        """Whether there is a ceiling at all."""
        return self.max_output_tokens is not None or self.max_cost_usd is not None

    def used_up(self, used: Usage) -> str | None:
        """Say which ceiling leaves no room for another call; None when both do."""
        if self.max_output_tokens is not None and used.output_tokens >= self.max_output_tokens:
            return f"{used.output_tokens} of {self.max_output_tokens} output tokens"
        if self.max_cost_usd is not None and used.cost_usd >= self.max_cost_usd:
            return f"{used.cost_usd:.4f} of {self.max_cost_usd:g} US dollars"
        return None

    def overdrawn(self, used: Usage) -> str | None:
        """Say which ceiling was crossed; None when none was."""
        over_tokens = self.max_output_tokens is not None and used.output_tokens > self.max_output_tokens
        over_cost = self.max_cost_usd is not None and used.cost_usd > self.max_cost_usd
        return self.used_up(used) if over_tokens or over_cost else None


@value_class(frozen=True, kw_only=True, slots=True)
class Budgets:
    """What the operator allows."""

    route: Budget = field(default_factory=Budget)
    """Of each route with each of its models, in a period."""
    session: Budget = field(default_factory=Budget)
    run: Budget = field(default_factory=Budget)
    period: str = ""
    """The route's period in words, as in ` in the last 24 h`."""

    @property
    def of_totals(self) -> bool:
        """Whether anything that outlives a run has a ceiling."""
        return self.route.limits or self.session.limits


@value_class(frozen=True, kw_only=True, slots=True)
class Spent:
    """What was used before a call."""

    session: Usage = Usage()
    route: Usage = Usage()


_NOTHING_SPENT = Spent()
_ROUTE = "the route"


class Spending(Protocol):
    """Where totals are kept that outlive a run and a restart."""

    async def spent(self, session_id: str | None, route: RouteRef) -> Spent:
        """What a session, when one is named, and a route with a model have used."""
        ...


class Allowance:
    """Judges each model call by the budgets."""

    def __init__(self, budgets: Budgets | None = None, spending: Spending | None = None) -> None:
        self._budgets = budgets or Budgets()
        self._spending = spending if self._budgets.of_totals else None

    async def require(self, run: RunState) -> Spent:
        """Check that there is room for a call, and return what was used before it.

        Raises:
            BudgetExceeded: there is none; nothing was sent.
        """
        spent = _NOTHING_SPENT
        if self._spending is not None:
            session_id = run.session_id if self._budgets.session.limits else None
            spent = await self._spending.spent(session_id, run.route)
        for what, budget, used in self._accounts(run, spent):
            fault = budget.used_up(used)
            if fault is not None:
                raise BudgetExceeded(self._text(run, what, fault))
        return spent

    def fault(self, run: RunState, spent: Spent, usage: Usage) -> str | None:
        """Say which budget a call overdrew with its ``usage``; None when it overdrew none."""
        for what, budget, used in self._accounts(run, spent):
            fault = budget.overdrawn(used + usage)
            if fault is not None:
                return self._text(run, what, fault)
        return None

    def _accounts(self, run: RunState, spent: Spent) -> list[tuple[str, Budget, Usage]]:
        budgets = self._budgets
        accounts = (
            ("this run", budgets.run, run.usage),
            ("this session", budgets.session, spent.session),
            (_ROUTE, budgets.route, spent.route),
        )
        return [account for account in accounts if account[1].limits]

    def _text(self, run: RunState, what: str, fault: str) -> str:
        if what is _ROUTE:
            what = f"the route {run.route.route_id!r} with the model {run.route.model!r}{self._budgets.period}"
        return f"the model budget of {what} is used up: {fault}"
