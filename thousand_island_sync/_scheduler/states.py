"""Who has a task: one state and its table. Every rule about it must live here.

    PARKED --(put)--> OWNED --(mark)--> MARKED
       ^                |  ^              |
       +----(settle)----+  +---(begin)----+

PARKED: the poller and the timers have it, and nobody runs it. OWNED: it is in the ready queue, or
a thread runs it, or it is among those that its thread shall park. MARKED: the same, and something
has come for it since its run began: it is not parked, but run again.

Rule 1: it becomes owned, and is parked, under the scheduler's lock alone. So two threads never run
one task.
Rule 2: who marks has the lock, and finds it owned. Who begins a run has no lock, and need not: it
owns the task, so whatever is written beside it is a mark. If the mark comes first, the run that
begins sees what it was for; if it comes second, the task is run again.

They are numbers, as verdicts are: the C has them in a field of its own (native/scheduler.h), and
what a message pays for in Python spells them, since a global costs more. Tests hold all three to
the table.
"""

from __future__ import annotations

PARKED, OWNED, MARKED = 0, 1, 2

#: What is done: state before -> state after. What is not there may not be done to it.
Move = dict[int, int]
#: It is put into the ready queue.
ON_PUT: Move = {PARKED: OWNED}
#: Something has come for it.
ON_MARK: Move = {OWNED: MARKED, MARKED: MARKED}
#: A run begins.
ON_BEGIN: Move = {OWNED: OWNED, MARKED: OWNED}
#: Its run is over, and has said that it parks. One that stays marked goes back into the queue.
ON_SETTLE: Move = {OWNED: PARKED, MARKED: MARKED}
