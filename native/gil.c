/* When the GIL is let go of.

   Letting go of it costs nothing, but getting it back may. Beside a thread that computes
   (a callback that does, or a thread of the application's) it takes five milliseconds each
   time, the switch interval: a message that lets go of it to wait for events, to receive and
   to send is three such waits. Fifty clients got 300 answers a second in all, of 60,000 alone.
   Where many threads block in turn, each of these moments hands the GIL to another thread and
   wakes a third, for a system call of two microseconds.

   Keeping it always would be wrong, too: one who blocked and is back, for a moment's work,
   would wait for a busy poll loop to stumble over the switch interval.

   So who had to wait for it takes a turn, too. After a wait of `SHORT` or more it is *dear*,
   for everybody, for half as long as the wait took, at most `LONGEST`: calls that cannot
   block and are short keep it meanwhile, and a look asks for events without waiting first.
   One who computes gets two thirds of the time, and one who came back for 30 us delays nobody
   by more than that. Half as long, for the turn of one is the wait of another: were they as
   long, two busy threads of ours would pass a long wait on to each other without end.

   All of this is read and written with the GIL. */

#include "native.h"

#include <time.h>

static const double SHORT = 20e-6, LONGEST = 2.5e-3;

static double dear_until;

static struct timespec read_time(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now;
}

double seconds_now(void) {
    struct timespec now = read_time(CLOCK_MONOTONIC);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

bool gil_is_dear(void) { return dear_until != 0 && seconds_now() < dear_until; }

PyThreadState *let_go_unless_dear(void) { return gil_is_dear() ? NULL : PyEval_SaveThread(); }

void take_after_wait(PyThreadState *here) {
    double began = seconds_now();
    PyEval_RestoreThread(here);
    double now = seconds_now(), waited = now - began;
    double turn = waited / 2;
    dear_until = waited < SHORT ? 0 : now + (turn < LONGEST ? turn : LONGEST);
}

/* By the clock that moves with the kernel's ticks, some milliseconds apart: it is read in a
   fifth of the time of the other, and a wait for one who computes is longer than a tick. */
void take_after_short_call(PyThreadState *here) {
    if (here == NULL)
        return;
    struct timespec before = read_time(CLOCK_MONOTONIC_COARSE);
    PyEval_RestoreThread(here);
    struct timespec after = read_time(CLOCK_MONOTONIC_COARSE);
    if (after.tv_nsec != before.tv_nsec)
        dear_until = seconds_now() + LONGEST;
}
