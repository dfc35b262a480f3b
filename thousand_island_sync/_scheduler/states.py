"""Which thread, queue or poller has a task: one state and its table. Every rule about it must
live here.

    PARKED --(put)--> OWNED --(mark)--> MARKED
       ^                |  ^              |
       +----(settle)----+  +---(begin)----+

PARKED: the poller and the timers have it, and no thread runs it. OWNED: it is in the ready queue,
or a thread runs it, or has run it and is to park it. MARKED: as OWNED, and an event or a request
has come for it since its run began: it is not parked, but run again.

Rule 1: it becomes owned, and is parked, under the scheduler's lock alone. So two threads never run
one task.
Rule 2: a thread that marks a task has the lock, and finds the task owned. A thread that begins a
run needs no lock: it owns the task, so another thread can only write a mark at the same time. If
the mark comes first, the run that begins sees what the mark was for; if second, the task is run
again.

They are numbers, as verdicts are: the C keeps them in a field of its own (native/scheduler.h), and
the hot path in Python writes the number, since a global costs more. Tests compare both with the
table.
"""

from __future__ import annotations

PARKED, OWNED, MARKED = 0, 1, 2

#: What is done: state before -> state after. A state that is missing may not occur.
Move = dict[int, int]
#: It is put into the ready queue.
ON_PUT: Move = {PARKED: OWNED}
#: An event or a request has come for it.
ON_MARK: Move = {OWNED: MARKED, MARKED: MARKED}
#: A run begins.
ON_BEGIN: Move = {OWNED: OWNED, MARKED: OWNED}
#: Its run is over, and has said that it parks. One that stays marked goes back into the queue.
ON_SETTLE: Move = {OWNED: PARKED, MARKED: MARKED}
