/* The accelerator of `RunQueue.look`. */

#include "native.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <sys/epoll.h>

_Static_assert(HANGUP == (EPOLLERR | EPOLLHUP | EPOLLRDHUP), "as in `_scheduler.poller`");

static int wake(PyObject *self) {
    PyObject *poller = HOLD(self, RunQueue, _poller);
    int failed = poller == NULL ? -1
                                : done(PyObject_CallMethodNoArgs(poller, native.name.wake));
    Py_XDECREF(poller);
    return failed;
}

/* With the lock: as `settle`, one task. */
static int settle_one(PyObject *self, PyObject *task) {
    int marked = TRUTH(task, Task, marked);
    if (marked > 0) {
        PyObject *ready = HOLD(self, RunQueue, _ready);
        int failed = ready == NULL ? -1 : append(ready, task);
        Py_XDECREF(ready);
        return failed;
    }
    double deadline, timer_at;
    if (marked < 0)
        return -1;
    set(SLOT(task, Task, owned), Py_False);
    if (seconds_of(GET(task, Task, deadline), &deadline) < 0 ||
        seconds_of(GET(task, Task, timer_at), &timer_at) < 0)
        return -1;
    if (deadline < timer_at &&
        done(PyObject_CallMethodOneArg(self, native.name._set_timer, task)) < 0)
        return -1;
    int attached = TRUTH(task, Task, attached);
    if (attached == 0)
        return done(PyObject_CallMethodOneArg(self, native.name._put_back, task));
    return attached < 0 ? -1 : 0;
}

/* With the lock: as `settle`, of a poller that needs no rearming. */
static int settle(PyObject *self, PyObject *worker) {
    PyObject *parked = HOLD(worker, Worker, parked);
    Py_ssize_t left = parked == NULL ? -1 : PyObject_Size(parked);
    int failed = left < 0 ? -1 : 0;
    for (; left > 0 && failed == 0; left--) {
        PyObject *task = call1(native.popleft, parked);
        failed = task == NULL || TAKES(task, Task) < 0 ? -1 : settle_one(self, task);
        Py_XDECREF(task);
    }
    Py_XDECREF(parked);
    return failed;
}

/* How many a deque has, which is let go of; -1: it raised. */
static Py_ssize_t count_of(PyObject *deque) {
    Py_ssize_t count = deque == NULL ? -1 : PyObject_Size(deque);
    Py_XDECREF(deque);
    return count;
}

static Py_ssize_t count_ready(PyObject *self) { return count_of(HOLD(self, RunQueue, _ready)); }

/* What a run queue works with, each of its class or below; held over a look. */
typedef struct {
    PyObject *table, *deadlines, *timer;
} Parts;

static int hold_parts(PyObject *self, Parts *parts) {
    parts->table = HOLD(self, RunQueue, _table);
    parts->deadlines = parts->table == NULL ? NULL : HOLD(self, RunQueue, _deadlines);
    parts->timer = parts->deadlines == NULL ? NULL : HOLD(self, RunQueue, _watchdog_timer);
    return parts->timer == NULL || TAKES(parts->table, TaskTable) < 0 ||
                   TAKES(parts->deadlines, Deadlines) < 0 ||
                   TAKES(parts->timer, WatchdogTimer) < 0
               ? -1
               : 0;
}

static void drop_parts(Parts *parts) {
    Py_XDECREF(parts->table);
    Py_XDECREF(parts->deadlines);
    Py_XDECREF(parts->timer);
}

/* With the lock: milliseconds that the look may wait, rounded up; -1: for ever; -2: raised. */
static int may_wait(PyObject *self, const Parts *parts) {
    Py_ssize_t ready = count_ready(self);
    if (ready != 0)
        return ready < 0 ? -2 : 0;
    double when, now;
    if (seconds_of(GET(parts->deadlines, Deadlines, _next), &when) < 0)
        return -2;
    if (isinf(when))
        return -1;
    if (read_clock(GET(parts->deadlines, Deadlines, _clock), &now) < 0)
        return -2;
    double left = ceil((when - now) * 1000);
    return !(left > 0) ? 0 : left >= INT_MAX ? INT_MAX : (int)left;
}

/* With the lock: as `absorb`, one event; whether it made its task ready. -1: it raised. */
static int take_one(PyObject *tasks, PyObject *ready, int number, uint32_t bits) {
    PyObject *fd = PyLong_FromLong(number);
    PyObject *task = fd == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(tasks, fd));
    Py_XDECREF(fd);
    if (task == NULL)
        return PyErr_Occurred() ? -1 : 0; /* the wake-up, or just forgotten */
    int found = TAKES(task, Task), owned = found;
    if (found == 0) {
        if (bits & HANGUP) {
            set(SLOT(task, Task, hung_up), Py_True);
            set(SLOT(task, Task, alert), Py_True);
        }
        found = owned = TRUTH(task, Task, owned);
    }
    if (owned > 0) {
        set(SLOT(task, Task, marked), Py_True);
        found = 0;
    } else if (owned == 0) {
        found = bits != EPOLLOUT ? 1 : TRUTH(task, Task, wants_write);
        if (found > 0) {
            set(SLOT(task, Task, owned), Py_True);
            found = append(ready, task) < 0 ? -1 : 1;
        }
    }
    Py_DECREF(task);
    return found;
}

/* With the lock: puts what the events made ready into the queue; the last descriptor of
   which that is so, or -1. -2: raised. */
static int take_in(PyObject *self, PyObject *table, const struct epoll_event *events,
                   int count) {
    PyObject *tasks = HOLD(table, TaskTable, by_fd);
    PyObject *ready = tasks == NULL ? NULL : HOLD(self, RunQueue, _ready);
    int found = ready == NULL || takes(tasks, &PyDict_Type) < 0 ? -2 : -1;
    for (int index = 0; index < count && found != -2; index++) {
        int fd = events[index].data.fd;
        int one = take_one(tasks, ready, fd, events[index].events);
        found = one < 0 ? -2 : one > 0 ? fd : found;
    }
    Py_XDECREF(ready);
    Py_XDECREF(tasks);
    return found;
}

/* With the lock: as `WatchdogTimer.begin`, by an alarm; -1: raised. */
static int must_ring(PyObject *timer, Py_ssize_t waiting) {
    if (waiting == 0)
        return 0;
    int watching = TRUTH(timer, WatchdogTimer, watching);
    if (watching != 0)
        return watching < 0 ? -1 : 0;
    set(SLOT(timer, WatchdogTimer, watching), Py_True);
    PyObject *is_set = PyObject_CallMethodNoArgs(timer, native.name.arm);
    int alarm = is_set == NULL ? -1 : PyObject_IsTrue(is_set);
    Py_XDECREF(is_set);
    return alarm < 0 ? -1 : !alarm;
}

/* What shall happen without the lock. */
typedef struct {
    bool rings, wakes, calls;
} Then;

/* With the lock: as the rest of `absorb`. */
static int absorb(PyObject *self, const Parts *parts, PyObject *worker,
                  const struct epoll_event *events, int count, Then *then) {
    long sleepers, last, alone;
    double timer, now;
    set(SLOT(worker, Worker, looking), Py_False);
    if (ADD(self, RunQueue, sleepers, -1) < 0)
        return -1;
    int found = take_in(self, parts->table, events, count);
    if (found == -2 || whole(GET(self, RunQueue, _last_found), &last) < 0 ||
        whole(GET(self, RunQueue, _alone), &alone) < 0)
        return -1;
    alone = found >= 0 && found == last && count == 1 ? alone + 1 : 0;
    if (put_number(SLOT(self, RunQueue, _alone), alone) < 0 ||
        put_number(SLOT(self, RunQueue, _last_found), found) < 0 ||
        seconds_of(GET(parts->deadlines, Deadlines, _next), &timer) < 0)
        return -1;
    if (!isinf(timer)) {
        if (read_clock(GET(parts->deadlines, Deadlines, _clock), &now) < 0)
            return -1;
        if (timer <= now && done(PyObject_CallMethodNoArgs(self, native.name._fire)) < 0)
            return -1;
    }
    Py_ssize_t waiting = count_ready(self);
    Py_ssize_t due = count_of(HOLD(parts->deadlines, Deadlines, calls));
    int ring = waiting < 0 || due < 0 ? -1 : must_ring(parts->timer, waiting + due);
    if (ring < 0 || whole(GET(self, RunQueue, sleepers), &sleepers) < 0)
        return -1;
    *then = (Then){.rings = ring, .wakes = sleepers > 0 && waiting > 1, .calls = due > 0};
    return 0;
}

/* Without the lock: what a look has found to do beside the queue. */
static int follow(PyObject *self, const Parts *parts, Then then) {
    if (then.rings && done(PyObject_CallMethodNoArgs(parts->timer, native.name.ring)) < 0)
        return -1;
    if (then.wakes && wake(self) < 0)
        return -1;
    return then.calls ? done(PyObject_CallMethodNoArgs(parts->deadlines, native.name.call_due))
                      : 0;
}

static int epoll_of(PyObject *poller, int *number) {
    PyObject *epoll = PyObject_GetAttr(poller, native.name._epoll);
    PyObject *fd = epoll == NULL ? NULL : call1(native.epoll_fileno, epoll);
    int failed = number_of(fd, number);
    Py_XDECREF(fd);
    Py_XDECREF(epoll);
    return failed;
}

/* With the lock: what must be known before the poller is asked. 0: it may be. */
static int begin_look(PyObject *self, const Parts *parts, PyObject *worker, int *timeout) {
    int permit = settle(self, worker) < 0 ? -1 : TRUTH(worker, Worker, permit);
    if (permit <= 0)
        return permit < 0 ? -1 : 1; /* it was taken a moment ago */
    /* Asked once more, with the lock: who closes it wakes those who are seen to wait. */
    int closing = TRUTH(parts->table, TaskTable, closing);
    *timeout = closing != 0 ? 0 : may_wait(self, parts);
    int stops = closing < 0 || *timeout == -2 ? -1
                : *timeout == 0               ? 0
                                              : TRUTH(parts->timer, WatchdogTimer, may_stop);
    if (stops > 0)
        stops = done(PyObject_CallMethodNoArgs(parts->timer, native.name.disarm));
    if (stops < 0)
        return -1;
    set(SLOT(worker, Worker, looking), Py_True);
    set(SLOT(self, RunQueue, _unlooked), native.zero);
    return ADD(self, RunQueue, sleepers, 1);
}

/* Whether there is enough to run without a look; -1: raised. */
static int has_enough(PyObject *self) {
    long unlooked, most;
    Py_ssize_t ready = count_ready(self);
    if (ready <= 0)
        return ready < 0 ? -1 : 0;
    if (whole(GET(self, RunQueue, _unlooked), &unlooked) < 0 ||
        whole(GET(self, RunQueue, _batch), &most) < 0)
        return -1;
    return unlooked < most;
}

/* The look of a run queue, by its poller's epoll, with its lock. */
static PyObject *look(PyObject *self, const Parts *parts, PyObject *worker, int epoll,
                      PyObject *lock) {
    int timeout = 0, closing = TRUTH(parts->table, TaskTable, closing);
    if (closing != 0) /* it may be over */
        return closing < 0 ? NULL : call2(native.its.look, self, worker);
    int enough = has_enough(self);
    if (enough != 0)
        return enough < 0 ? NULL : Py_NewRef(Py_True);
    lock_wait(lock);
    int first = begin_look(self, parts, worker, &timeout);
    lock_release(lock);
    if (first < 0)
        return NULL;
    if (first > 0)
        Py_RETURN_FALSE;

    struct epoll_event events[LOOK_MOST];
    int count = 0, wrong = 0;
    if (timeout == 0 || gil_is_dear())
        count = epoll_wait(epoll, events, LOOK_MOST, 0);
    if (timeout != 0 && count == 0) {
        PyThreadState *here = PyEval_SaveThread();
        count = epoll_wait(epoll, events, LOOK_MOST, timeout);
        wrong = errno;
        take_after_wait(here);
    } else {
        wrong = errno;
    }
    if (count >= 0 || wrong == EINTR) /* a signal is the main thread's */
        wrong = 0;

    Then then = {0};
    lock_wait(lock);
    int failed = absorb(self, parts, worker, events, count, &then);
    lock_release(lock);
    if (failed == 0)
        failed = follow(self, parts, then);
    if (failed == 0 && wrong != 0) {
        errno = wrong;
        PyErr_SetFromErrno(PyExc_OSError);
        failed = -1;
    }
    return failed < 0 ? NULL : Py_NewRef(Py_True);
}

PyObject *native_look(PyObject *self, PyObject *worker) {
    if (!is_exactly(self, native.its.RunQueue) || !is_exactly(worker, native.its.Worker))
        return call2(native.its.look, self, worker);
    PyObject *poller = HOLD(self, RunQueue, _poller);
    PyObject *lock = poller == NULL ? NULL : HOLD(self, RunQueue, lock), *result = NULL;
    int epoll;
    if (lock != NULL) {
        Parts parts = {0};
        if (!is_exactly(poller, native.its.EpollPoller) || !Py_IS_TYPE(lock, &RLock_Type))
            result = call2(native.its.look, self, worker);
        else if (epoll_of(poller, &epoll) == 0 && hold_parts(self, &parts) == 0)
            result = look(self, &parts, worker, epoll, lock);
        drop_parts(&parts);
    }
    Py_XDECREF(lock);
    Py_XDECREF(poller);
    return result;
}
