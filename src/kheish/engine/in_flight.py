"""What a session has in flight: one effect at a time, and the ends of answers behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from kheish.core.values import value_class
from kheish.engine.effects import ToolBatch
from kheish.engine.endings import Endings
from kheish.engine.entries import Compacted, ModelFailed, ModelReplied
from kheish.engine.lending import Loan
from kheish.engine.model_calls import ModelCall

Said = ModelReplied | ModelFailed | Compacted | None
"""What to record of a model call; tools fill their batch instead."""
Doing = ToolBatch | ModelCall | Loan
"""The batch whose outcomes are filled, the model call, or the loan of a summary."""


@value_class(frozen=True, slots=True)
class Effect:
    run_id: str
    task: asyncio.Task[Said]
    doing: Doing


class InFlight:
    """Holds the tasks of a session's effects. Whoever takes an effect's outcome records it."""

    def __init__(self, ended: Callable[[], None]) -> None:
        """``ended`` is called whenever one of them is."""
        self._ended = ended
        self.effect: Effect | None = None
        self.endings = Endings(ended)

    @property
    def busy(self) -> bool:
        """The effect goes on."""
        return self.effect is not None and not self.effect.task.done()

    def start(self, run_id: str, work: Coroutine[object, object, Said], doing: Doing) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"effect:{run_id}")
        task.add_done_callback(lambda _: self._ended())
        self.effect = Effect(run_id, task, doing)

    def landed(self) -> Effect | None:
        """Take the effect, which is over."""
        effect, self.effect = self.effect, None
        if effect is not None and isinstance(effect.doing, ModelCall):
            self.endings.add(effect.doing)
        return effect

    async def stop(self) -> Effect | None:
        """Cut the effect off and take it."""
        if self.effect is not None and not self.effect.task.done():
            self.effect.task.cancel()
            await asyncio.wait({self.effect.task})
        return self.landed()

    async def abandon(self) -> None:
        """Leave nothing in flight; what it brought is lost."""
        await self.stop()
        await self.endings.abandon()
