/* `RunQueue.look`: waits in epoll, and puts what came into the queue. Whatever is not common is
   Python's: another poller, a scheduler that closes, timers that are due. */

#include "scheduler.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <sys/epoll.h>

_Static_assert(HANGUP == (EPOLLERR | EPOLLHUP | EPOLLRDHUP), "as in `_scheduler.poller`");

/* With the lock: as `settle`, of a poller that needs no rearming. */
static int settle(RunQueue *self, Worker *worker) {
    int failed = 0;
    for (Py_ssize_t left = PyObject_Size(worker->parked); left > 0 && failed == 0; left--) {
        PyObject *item = take_first(worker->parked);
        failed = item == NULL || takes(item, native->type.Task) < 0 ? -1 : 0;
        Task *task = (Task *)item;
        if (failed == 0 && task->ownership == MARKED) {
            failed = append(self->_ready, item);
        } else if (failed == 0) {
            task->ownership = PARKED;
            if (task->deadline < task->timer_at || task->attached != Py_True)
                failed = done(PyObject_CallMethodOneArg((PyObject *)self, native->name._await,
                                                        item));
        }
        Py_XDECREF(item);
    }
    return failed;
}

/* With the lock: milliseconds that the look may wait, rounded up; -1: for ever; -2: raised. */
static int may_wait(RunQueue *self) {
    Deadlines *deadlines = (Deadlines *)self->_deadlines;
    double now;
    if (PyObject_Size(self->_ready) > 0)
        return 0;
    if (isinf(deadlines->_next))
        return -1;
    if (read_clock(deadlines->_clock, &now) < 0)
        return -2;
    double left = ceil((deadlines->_next - now) * 1000);
    return !(left > 0) ? 0 : left >= INT_MAX ? INT_MAX : (int)left;
}

/* With the lock: as `_take_in`, one event; whether it made its task ready. -1: it raised. */
static int take_one(RunQueue *self, int number, uint32_t bits) {
    PyObject *found = number < PyList_GET_SIZE(self->_tasks)
                          ? PyList_GET_ITEM(self->_tasks, number)
                          : Py_None;
    if (found == Py_None)
        return 0; /* the wake-up, or just forgotten */
    Py_INCREF(found);
    int made_ready = takes(found, native->type.Task);
    Task *task = (Task *)found;
    /* Bytes and the end of the stream may be one edge, and no second follows (epoll(7), EPOLLRDHUP):
       from now on a short read proves nothing. */
    if (made_ready == 0 && bits & HANGUP) {
        set(&task->hung_up, Py_True);
        set(&task->alert, Py_True);
    }
    if (made_ready == 0 && task->ownership != PARKED) {
        task->ownership = MARKED;
    } else if (made_ready == 0 && (bits != EPOLLOUT || task->wants_write)) {
        task->ownership = OWNED;
        made_ready = append(self->_ready, found) < 0 ? -1 : 1;
    }
    Py_DECREF(found);
    return made_ready;
}

/* With the lock: as `_take_in`. */
static int take_in(RunQueue *self, const struct epoll_event *events, int count) {
    long found = -1;
    for (int index = 0; index < count; index++) {
        int made_ready = take_one(self, events[index].data.fd, events[index].events);
        if (made_ready < 0)
            return -1;
        if (made_ready)
            found = events[index].data.fd;
    }
    self->_alone = found >= 0 && found == self->_last_found && count == 1 ? self->_alone + 1 : 0;
    self->_last_found = found;
    return 0;
}

/* With the lock: as `absorb`, with an alarm for the watchdog. 1: there is more to do, which is not
   common; -1: raised. */
static int absorb(RunQueue *self, Worker *worker, const struct epoll_event *events, int count) {
    Deadlines *deadlines = (Deadlines *)self->_deadlines;
    WatchdogTimer *timer = (WatchdogTimer *)self->_watchdog_timer;
    double now = 0;
    worker->looking = 0;
    self->sleepers--;
    if (take_in(self, events, count) < 0 ||
        (!isinf(deadlines->_next) && read_clock(deadlines->_clock, &now) < 0))
        return -1;
    Py_ssize_t ready = PyObject_Size(self->_ready);
    if (PyObject_Size(deadlines->calls) > 0 || deadlines->_next <= now ||
        (self->sleepers > 0 && ready > 1))
        return 1;
    if (ready == 0 || timer->state != SLEEPS)
        return 0;
    PyObject *may_stop = PyObject_CallMethodNoArgs((PyObject *)timer, native->name.arm);
    if (may_stop == NULL)
        return -1;
    int rings = may_stop == Py_None;
    if (!rings)
        timer->state = may_stop == Py_True ? MAY_STOP : LOOKS;
    Py_DECREF(may_stop);
    return rings;
}

/* With the lock: what must be known before the poller is asked. 0: it may be; 1: it must not;
   2: Python has to look; -1: raised. */
static int begin_look(RunQueue *self, Worker *worker, int *timeout) {
    WatchdogTimer *timer = (WatchdogTimer *)self->_watchdog_timer;
    if (self->_epoll == Py_None)
        return 2; /* somebody has closed it a moment ago, and wakes those who are seen to wait */
    if (settle(self, worker) < 0)
        return -1;
    if (!worker->permit)
        return 1; /* it was taken a moment ago */
    *timeout = may_wait(self);
    if (*timeout == -2)
        return -1;
    if (*timeout != 0 && timer->state == MAY_STOP) {
        timer->state = SLEEPS;
        if (done(PyObject_CallMethodNoArgs((PyObject *)timer, native->name.quiet)) < 0)
            return -1;
    }
    worker->looking = 1;
    self->_unlooked = 0;
    self->sleepers++;
    return 0;
}

/* By its poller's epoll, with its lock. */
static PyObject *look(RunQueue *self, Worker *worker, int epoll) {
    int timeout = 0;
    lock_wait(self->lock);
    int first = begin_look(self, worker, &timeout);
    lock_release(self->lock);
    if (first == 2)
        return PyObject_CallMethodOneArg((PyObject *)self, native->name.look_the_long_way,
                                         (PyObject *)worker);
    if (first != 0)
        return first < 0 ? NULL : Py_NewRef(Py_False);

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

    lock_wait(self->lock);
    int more = absorb(self, worker, events, count);
    lock_release(self->lock);
    if (more > 0)
        more = done(PyObject_CallMethodNoArgs((PyObject *)self, native->name.poll_once));
    if (more == 0 && wrong != 0) {
        errno = wrong;
        PyErr_SetFromErrno(PyExc_OSError);
        more = -1;
    }
    return more < 0 ? NULL : Py_NewRef(Py_True);
}

PyObject *queue_look(PyObject *object, PyObject *given) {
    RunQueue *self = (RunQueue *)object;
    Worker *worker = (Worker *)given;
    if (was_made(object, self->lock) < 0 || takes(given, native->type.Worker) < 0 ||
        was_made(given, worker->parked) < 0)
        return NULL;
    PyObject *poller = self->_epoll;
    if (poller == NULL || poller == Py_None || !Py_IS_TYPE(self->lock, native->type.RLock))
        return PyObject_CallMethodOneArg(object, native->name.look_the_long_way, given);
    if (self->_unlooked < self->_batch && PyObject_Size(self->_ready) > 0)
        Py_RETURN_TRUE;
    int epoll = -1;
    Py_INCREF(poller);
    PyObject *fd = PyObject_CallMethodNoArgs(poller, native->name.fileno);
    PyObject *looked = number_of(fd, &epoll) < 0 ? NULL : look(self, worker, epoll);
    Py_XDECREF(fd);
    Py_DECREF(poller);
    return looked;
}
